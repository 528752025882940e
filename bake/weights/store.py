"""The store: weights by their SHA256, shared by all manifests and all bakes of this machine.

    <root>/sha256/<aa>/<sha256>     verified files, mode 0644, mtime WEIGHTS_MTIME
    <root>/partial/<key>.part       unfinished downloads, each with its journal <key>.json
    <root>/locks/<key>              held while a key is fetched
    <root>/leases/<sha256>          held (shared) while a bake uses a file; its mtime is the last use

`layers/` and `kept/` beside them are what bakes have learnt of layers (`bake.image.oci.layers`, `bake.image.kept`).

A file appears under `sha256/` by a rename after its digest was proven, never otherwise. Locks and
leases belong to the kernel: they end with their process, so nothing stale can be left behind.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bake.console import format_bytes
from bake.errors import MachineError
from bake.flock import locked, take_lock, try_lock
from runtime.worker import WEIGHTS_MTIME

if TYPE_CHECKING:
    from bake.console import Console

_CHUNK_BYTES = 4 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
RESERVE_BYTES = 64 << 20
"""Left free on the disk by every fetch."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One verified file of the store."""

    sha256: str
    path: Path
    size_bytes: int
    used_at: float
    """Seconds since the epoch of the last lease or fetch."""


@dataclass(frozen=True, kw_only=True)
class Partial:
    """One unfinished download."""

    key: str
    path: Path
    disk_bytes: int
    """Bytes on disk, including what is reserved for the rest."""
    touched_at: float


class Store:
    """A content-addressed folder. Nothing is created before it is needed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, sha256: str) -> Path:
        """Where the file with this digest is, or would be."""
        return self.root / "sha256" / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether the file is here, verified when it came."""
        return self.path_of(sha256).is_file()

    def size_of(self, sha256: str) -> int:
        """Bytes of a file that is here. Raises FileNotFoundError."""
        return self.path_of(sha256).stat().st_size

    def partial_path(self, key: str) -> Path:
        """Where the unfinished download of `key` (a SHA256, or the hash of a URL) grows."""
        return self.root / "partial" / f"{key}.part"

    @contextmanager
    def lock(self, key: str, *, console: Console, label: str) -> Iterator[None]:
        """Only one process at a time fetches `key`; the others wait and then find it here."""

        def say() -> None:
            console.say(f"{label}: another bake is fetching it; waiting")

        with locked(self.root / "locks" / key, on_wait=say):
            yield

    @contextmanager
    def lease(self, sha256s: Iterable[str]) -> Iterator[None]:
        """While this is held, `gc` keeps these files, whether they are here yet or not."""
        with ExitStack() as stack:
            for sha256 in sorted(set(sha256s)):
                lease = self._lease_path(sha256)
                handle = take_lock(lease, shared=True)
                stack.callback(os.close, handle)
                os.utime(lease)
            yield

    def touch(self, sha256: str) -> None:
        """Notes that the file was used now."""
        lease = self._lease_path(sha256)
        lease.parent.mkdir(parents=True, exist_ok=True)
        lease.touch()

    def admit(self, part: Path, sha256: str) -> Path:
        """Takes a finished file, whose digest the caller has proven, by a rename on one file system."""
        target = self.path_of(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.chmod(0o644)
        os.utime(part, (WEIGHTS_MTIME, WEIGHTS_MTIME))
        part.replace(target)
        _sync_folder(target.parent)
        self.touch(sha256)
        return target

    def check_space(self, needed_bytes: int, *, what: str) -> None:
        """Raises MachineError if the disk cannot hold `needed_bytes` more."""
        self.root.mkdir(parents=True, exist_ok=True)
        state = os.statvfs(self.root)
        free = state.f_bavail * state.f_frsize
        if free < needed_bytes + RESERVE_BYTES:
            raise MachineError(
                f"{what} needs {format_bytes(needed_bytes)}, the disk has {format_bytes(free)} free",
                where=str(self.root),
                hint="bake store gc --older-than 30d, or set BAKE_STORE to a larger disk",
            )

    def files(self) -> list[StoredFile]:
        """Every verified file, the least recently used first."""
        found = []
        for path in (self.root / "sha256").glob("??/*"):
            if not _SHA256.fullmatch(path.name) or not path.is_file():
                continue  # not of our making, or another process has just removed it
            state = path.stat()
            lease = self._lease_path(path.name)
            used = lease.stat().st_mtime if lease.exists() else state.st_ctime
            found.append(
                StoredFile(sha256=path.name, path=path, size_bytes=state.st_size, used_at=used)
            )
        return sorted(found, key=lambda file: (file.used_at, file.sha256))

    def partials(self) -> list[Partial]:
        """Every unfinished download, the oldest first."""
        found = []
        for path in (self.root / "partial").glob("*.part"):
            state = path.stat()
            found.append(
                Partial(
                    key=path.stem,
                    path=path,
                    disk_bytes=state.st_blocks * 512,
                    touched_at=state.st_mtime,
                )
            )
        return sorted(found, key=lambda part: (part.touched_at, part.key))

    def remove(self, sha256: str) -> bool:
        """Removes a file unless a bake uses it; says whether it did."""
        handle = try_lock(self._lease_path(sha256))
        if handle is None:
            return False
        try:
            self.path_of(sha256).unlink(missing_ok=True)
            self._lease_path(sha256).unlink(missing_ok=True)
        finally:
            os.close(handle)
        return True

    def remove_partial(self, key: str) -> bool:
        """Removes an unfinished download unless it is going on; says whether it did."""
        lock = self.root / "locks" / key
        handle = try_lock(lock)
        if handle is None:
            return False
        try:
            part = self.partial_path(key)
            part.unlink(missing_ok=True)
            part.with_suffix(".json").unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
        finally:
            os.close(handle)
        return True

    def _lease_path(self, sha256: str) -> Path:
        return self.root / "leases" / sha256


def hash_file(path: Path) -> str:
    """SHA256 of a file, in constant memory."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What `collect_garbage` did."""

    removed: tuple[StoredFile, ...]
    in_use: tuple[StoredFile, ...]
    partials: tuple[Partial, ...]

    @property
    def freed_bytes(self) -> int:
        """Bytes that are free again."""
        return sum(file.size_bytes for file in self.removed) + sum(
            part.disk_bytes for part in self.partials
        )


def plan_garbage(
    files: list[StoredFile], *, now: float, older_than_s: float | None, keep_bytes: int | None
) -> list[StoredFile]:
    """Which files to remove: unused for `older_than_s`, then the least recently used above `keep_bytes`."""
    chosen = [
        file for file in files if older_than_s is not None and now - file.used_at > older_than_s
    ]
    if keep_bytes is not None:
        rest = [file for file in files if file not in chosen]
        total = sum(file.size_bytes for file in rest)
        for file in rest:
            if total <= keep_bytes:
                break
            chosen.append(file)
            total -= file.size_bytes
    return chosen


def collect_garbage(
    store: Store, *, older_than_s: float | None, keep_bytes: int | None
) -> Collected:
    """Removes what `plan_garbage` chooses, and unfinished downloads as old; never what a bake uses."""
    now = time.time()
    removed: list[StoredFile] = []
    in_use: list[StoredFile] = []
    for file in plan_garbage(
        store.files(), now=now, older_than_s=older_than_s, keep_bytes=keep_bytes
    ):
        (removed if store.remove(file.sha256) else in_use).append(file)
    partials = [
        part
        for part in store.partials()
        if older_than_s is not None
        and now - part.touched_at > older_than_s
        and store.remove_partial(part.key)
    ]
    return Collected(removed=tuple(removed), in_use=tuple(in_use), partials=tuple(partials))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot
            raise
    finally:
        os.close(handle)
