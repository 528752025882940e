"""Files and folders as `bake` writes and names them: replaced in one go, and hashed by what is in them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


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
    """Writes a file by way of a temporary name in the same folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    data = content.encode() if isinstance(content, str) else content
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
