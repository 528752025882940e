"""`pages`: what the start will read of libraries and small files is in the page cache before it asks.

A warm-up writes `read-ahead.json`: files with the ranges of them that the start touched, since of
3.2 GB of libraries it needs 0.5 GB. It is read here first of all, and the whole checkpoint after it.
"""

from __future__ import annotations

import array
import json
import mmap
import os
import threading
import time
from collections.abc import Iterable
from typing import Any

from runtime.boot import timeline
from runtime.boot.context import Context
from runtime.boot.read_ahead import Range, read_ahead

FILE = "read-ahead.json"
WHOLE_BYTES = 64 << 20
"""Up to this size a mapped file is listed whole: small lists, and the same from every warm-up."""
BLOCK_BYTES = 1 << 20
"""Larger files are listed in such blocks: what the kernel maps around a touched page varies with
addresses, and single pages would make every list another."""
PART_OF_BLOCK = 8
"""A block is listed if at least one in so many of its pages was touched."""
SMALL_BYTES = 4 << 20
"""Files that were opened, not mapped, are listed up to this size."""
NO_INPUTS = ("/dev/", "/proc/", "/sys/", "/tmp/", "/run/", "/memfd:")  # noqa: S108
"""What lies below is made by a start, or by the kernel."""


def install(context: Context) -> None:
    path = os.path.join(context.harvest, FILE)  # noqa: PTH118
    checkpoint = context.option("--ckpt")

    def work() -> None:
        began = time.monotonic()
        try:
            if os.path.exists(path) and not context.is_recording:  # noqa: PTH110
                with open(path, encoding="utf-8") as file:  # noqa: PTH123
                    read_ahead(list_ranges(json.load(file)))
                timeline.write("read ahead", began)
            began = time.monotonic()
            if checkpoint is not None and os.path.isfile(checkpoint):  # noqa: PTH113
                read_ahead([(checkpoint, 0, os.path.getsize(checkpoint))])  # noqa: PTH202
                timeline.write("read checkpoint", began)
        except Exception as error:  # noqa: BLE001  # the start then reads for itself
            timeline.log(f"pages is off: {error!r}")

    threading.Thread(target=work, daemon=True, name="boot-pages").start()


def list_ranges(content: dict[str, Any]) -> list[Range]:
    return [
        (path, offset, length)
        for path, ranges in content["files"].items()
        for offset, length in ranges
    ]


def make_list(opened: Iterable[str], *, leave_out: Iterable[str], before: float) -> dict[str, Any]:
    """What this process has mapped and opened: `{"files": {path: [[offset, length], …]}}`.

    Args:
        opened: Paths that were opened for reading.
        leave_out: Files that are read in another way (the weights, what is in the pack).
        before: Only files modified before this time (seconds since the epoch): a start's own
            results are not its inputs.
    """
    left_out = set(leave_out)
    files: dict[str, list[list[int]]] = {}
    for path, blocks in _mapped_blocks().items():
        if path not in left_out and (size := _size(path, before)):
            files[path] = [[0, size]] if size <= WHOLE_BYTES else _merge(blocks, size)
    for path in map(os.path.realpath, opened):
        if path not in left_out and path not in files:
            size = _size(path, before)
            if 0 < size <= SMALL_BYTES:
                files[path] = [[0, size]]
    return {"files": {path: files[path] for path in sorted(files) if files[path]}}


def _size(path: str, before: float) -> int:
    if path.startswith(NO_INPUTS):
        return 0
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return 0
    return found.st_size if os.path.isfile(path) and found.st_mtime < before else 0  # noqa: PTH113


def _mapped_blocks() -> dict[str, set[int]]:
    """For each mapped file the blocks of which enough pages are in this process's page tables."""
    counts: dict[str, dict[int, int]] = {}
    with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123
        lines = [line.split(maxsplit=5) for line in maps]
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:  # noqa: PTH123
        for fields in lines:
            if len(fields) < 6 or not fields[5].startswith("/"):
                continue
            begin, end = (int(part, 16) for part in fields[0].split("-"))
            pagemap.seek(begin // mmap.PAGESIZE * 8)
            entries = array.array("Q", pagemap.read((end - begin) // mmap.PAGESIZE * 8))
            blocks = counts.setdefault(fields[5].strip(), {})
            offset = int(fields[2], 16)
            for number, entry in enumerate(entries):
                if entry >> 63:
                    block = (offset + number * mmap.PAGESIZE) // BLOCK_BYTES
                    blocks[block] = blocks.get(block, 0) + 1
    least = BLOCK_BYTES // mmap.PAGESIZE // PART_OF_BLOCK
    return {
        path: {block for block, count in blocks.items() if count >= least}
        for path, blocks in counts.items()
    }


def _merge(blocks: set[int], size: int) -> list[list[int]]:
    ranges: list[list[int]] = []
    for block in sorted(blocks):
        begin = block * BLOCK_BYTES
        end = min(begin + BLOCK_BYTES, size)
        if ranges and sum(ranges[-1]) == begin:
            ranges[-1][1] = end - ranges[-1][0]
        else:
            ranges.append([begin, end - begin])
    return ranges
