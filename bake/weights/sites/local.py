"""`file:` sources: copied (or reflinked) into the store.

Never hard-linked: an edit of the original must not change what a digest stands for.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from urllib.parse import quote

from bake.errors import SourceError
from bake.weights.context import Context, Found
from bake.weights.sources import CONFIGS, Source
from bake.weights.store import hash_file
from runtime.files.errors import disk_errors

_FICLONE = 0x40049409
_CHUNK_BYTES = 4 << 20


def find_file(context: Context, source: Source, *, where: str) -> Found:
    """Names the file; its digest comes from copying it into the store."""
    path = _path(context, source)
    _check(path, where)
    # Where this program is installed is nobody's business.
    shown = f"builtin:{path.stem}" if path.parent == CONFIGS else f"file:{quote(source.path or '')}"
    return Found(file_name=path.name, url=shown, sha256=None)


def take_file(context: Context, source: Source, *, where: str, expected: str | None) -> str:
    """Brings the file into the store and gives its SHA256.

    Args:
        context: The surroundings.
        source: The `file:` source.
        where: The manifest's key, for messages.
        expected: The digest of the lock, or None.

    Raises:
        SourceError: it is missing, empty, or no longer what the lock says.
        MachineError: there is no room for a copy.
    """
    path = _path(context, source)
    _check(path, where)
    key = expected or hashlib.sha256(str(path).encode()).hexdigest()
    with context.store.lock(key, console=context.console, label=path.name):
        if expected and context.store.has(expected):
            return expected
        if expected is None and context.store.has(found := hash_file(path)):
            context.store.touch(found)
            return found
        context.store.check_space(path.stat().st_size, what=f"a copy of {path.name}")
        part = context.store.partial_path(key)
        try:
            found = _copy(path, part)
            if expected not in (None, found):
                raise SourceError(
                    f"the file has SHA256 {found}, the lock says {expected}: it was changed",
                    where=f"{where} at {path}",
                    hint="bake lock MANIFEST, if the change is meant",
                )
            context.store.admit(part, found)
        finally:
            part.unlink(missing_ok=True)
    return found


def _path(context: Context, source: Source) -> Path:
    return (context.folder / (source.path or "")).absolute()


def _check(path: Path, where: str) -> None:
    if path.is_file():
        if path.stat().st_size == 0:
            raise SourceError("the file is empty", where=f"{where} at {path}")
        return
    what = "this is a folder, not a file" if path.is_dir() else "there is no such file"
    raise SourceError(
        what,
        where=f"{where} at {path}",
        hint="a relative file: path starts at the manifest's folder",
    )


def _copy(path: Path, part: Path) -> str:
    """Copies and hashes; a reflink shares the blocks, where the file system can, at no cost."""
    part.parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb", buffering=0) as source, disk_errors(part), part.open("wb") as target:
        try:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
            shared = True
        except OSError:
            shared = False
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        while count := source.readinto(buffer):
            digest.update(buffer[:count])
            if not shared:
                target.write(buffer[:count])
        target.flush()
        os.fsync(target.fileno())
    # A reflink is of the moment that it was made; what was hashed must be the copy itself.
    return hash_file(part) if shared else digest.hexdigest()
