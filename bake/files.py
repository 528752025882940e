"""Files and folders as `bake` writes and names them: replaced in one go, and hashed by what is in them."""

from __future__ import annotations

import hashlib
import importlib
import os
import tarfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_FORGOTTEN_S = 24 * 3600


def hash_tree(*roots: Path, skip: frozenset[str] = frozenset({"__pycache__"})) -> str:
    """The SHA-256 of files and folders: names, executable bits and contents, not times.

    Raises:
        FileNotFoundError: one of them is not there, which must not look like an empty one.
    """
    digest = hashlib.sha256()
    for root in roots:
        if not root.exists():
            raise FileNotFoundError(f"there is no {root} to hash")
        paths = [root] if root.is_file() else sorted(root.rglob("*"))
        for path in paths:
            relative = path.relative_to(root.parent)
            if path.is_dir() or skip.intersection(relative.parts):
                continue
            executable = "x" if os.access(path, os.X_OK) else "-"
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{relative.as_posix()} {executable} {content}\n".encode())
    return digest.hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file as a whole, or not at all; text as UTF-8."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file for writing that takes its name when it is whole; after an error there is the old one, or none.

    Its temporary name is its writer's own, so that two writers of one file do not mix; one that a killed
    writer left behind goes with the first write a day later.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident():x}.part")
    _remove_forgotten(path)
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_forgotten(path: Path) -> None:
    start = f".{path.name}."
    for other in path.parent.iterdir():
        if other.name.startswith(start) and other.name.endswith(".part"):
            with suppress(OSError):
                if time.time() - other.stat().st_mtime > _FORGOTTEN_S:
                    other.unlink()


def digest_of_list(files: Iterable[tuple[str, str, bool]]) -> str:
    """Of path, SHA-256 and whether it may be run, of each file; in any order."""
    lines = sorted(f"{path} {sha256} {'x' if run else '-'}\n" for path, sha256, run in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar with nothing outside of the folder, no devices and nobody's ownership (tarfile's filter `data`).

    Raises:
        tarfile.TarError: a member would lie outside, or is no file, folder or link.
    """
    with _tarfile().open(archive) as tar:
        tar.extractall(folder, filter="data")


def _tarfile() -> Any:
    """Python 3.10.12 and 3.11.4 brought the filters; Debian 12 has 3.11.2."""
    if hasattr(tarfile, "data_filter"):
        return tarfile
    return importlib.import_module("backports.tarfile")  # a dependency where it is needed
