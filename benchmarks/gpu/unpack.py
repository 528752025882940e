"""Unpacks the pieces of `benchmarks.gpu.pack` beside this file: `unpack.py FOLDER`, run by the interpreter of piece-00.

Blocks of xz are unpacked side by side and read as one tar, a few ahead of what is written. Standard library only.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import sys
import tarfile
from collections import deque
from collections.abc import Iterator
from compileall import compile_dir
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from py_compile import PycInvalidationMode

HERE = Path(__file__).resolve().parent


def main() -> int:
    folder = Path(sys.argv[1])
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tarfile.open(fileobj=Unpacked(pool), mode="r|") as tar,
    ):
        tar.extractall(folder)
    for name in ("python", "webui", "bakery"):
        # Checked by nobody: whatever time the files bear, this is their code.
        compile_dir(
            folder / name,
            quiet=2,
            workers=os.cpu_count() or 1,
            invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
        )
    return 0


def read_blocks() -> Iterator[bytes]:
    """The compressed blocks, which begin and end anywhere in the pieces."""
    listed = json.loads((HERE / "blocks.json").read_text(encoding="utf-8"))
    pieces = iter(listed["pieces"])
    rest = b""
    for size in listed["blocks"]:
        while len(rest) < size:
            rest += (HERE / next(pieces)).read_bytes()
        yield rest[:size]
        rest = rest[size:]


class Unpacked(io.RawIOBase):
    """The blocks' content, one after the other."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._blocks = read_blocks()
        self._ahead: deque[Future[bytes]] = deque()
        self._block = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        if not self._block:
            self._block = memoryview(self._next())
        part = self._block[: len(buffer)]
        buffer[: len(part)] = part
        self._block = self._block[len(part) :]
        return len(part)

    def _next(self) -> bytes:
        for block in self._blocks:
            self._ahead.append(self._pool.submit(lzma.decompress, block))
            if len(self._ahead) > (os.cpu_count() or 1):
                break
        return self._ahead.popleft().result() if self._ahead else b""


if __name__ == "__main__":
    sys.exit(main())
