"""An unfinished download: a reserved file, a journal of the bytes in it, and a hash of its beginning.

The data is flushed before the journal that speaks of it, so that a journal never promises bytes that a
power cut has taken. A kill -9 loses what came since the last checkpoint, and nothing else.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bake.weights.transfer.ranges import Ranges
from runtime.files.errors import WeightsError, disk_errors

_JOURNAL_FORMAT = 1
_HASH_CHUNK_BYTES = 1 << 20


class PartFile:
    """`<name>.part` with `<name>.json` beside it. `lock` guards everything but the writing of bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path.with_suffix(".json")
        self.lock = threading.Condition()
        self.size_bytes: int | None = None
        self.validator: str | None = None
        """What the server said to tell versions apart; only of use while no digest is known."""
        self.done = Ranges()
        self._told = 0

    def load(self, *, size_bytes: int | None) -> None:
        """Takes up what an earlier attempt left, if it can belong to the same file."""
        self.size_bytes = size_bytes
        try:
            data = json.loads(self.journal.read_text(encoding="utf-8"))
            held = self.path.stat().st_size
            size = int(data["size_bytes"])
            done = Ranges((int(start), int(end)) for start, end in data["ranges"])
            usable = (
                data["format"] == _JOURNAL_FORMAT
                and size_bytes in (None, size)
                and done.end <= min(size, held)
            )
            validator = data.get("validator")
        except (OSError, ValueError, KeyError, TypeError):
            usable = False
        if usable:
            self.size_bytes, self.done, self.validator = size, done, validator
        else:
            self.reset()

    def reset(self) -> None:
        """Forgets every byte; the size that the caller is sure of stays."""
        with self.lock:
            self.journal.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            self.done = Ranges()
            self.validator = None
            self._told = 0

    def reserve(self, size_bytes: int) -> None:
        """Takes the room for the whole file now, so that a full disk is found before the download.

        Raises:
            WeightsError: kind `disk`.
        """
        self.size_bytes = size_bytes
        with disk_errors(self.path), self._open() as handle:
            if os.fstat(handle).st_size > size_bytes:
                os.ftruncate(handle, size_bytes)
            try:
                os.posix_fallocate(handle, 0, size_bytes)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
                os.ftruncate(handle, size_bytes)

    def record(self, start: int, end: int) -> None:
        """Notes bytes that are written, and wakes the hasher when there is a chunk for it."""
        with self.lock:
            self.done.add(start, end)
            prefix = self.done.prefix
            if prefix - self._told >= _HASH_CHUNK_BYTES or prefix == self.size_bytes:
                self._told = prefix
                self.lock.notify_all()

    def checkpoint(self) -> None:
        """Flushes the data, then writes the journal. Without a known size there is nothing to resume."""
        with self.lock:
            if self.size_bytes is None or not self.done.total:
                return
            data = {
                "format": _JOURNAL_FORMAT,
                "size_bytes": self.size_bytes,
                "validator": self.validator,
                "ranges": self.done.as_list(),
            }
        with disk_errors(self.path):
            with self._open() as handle:
                os.fdatasync(handle)
            temporary = self.journal.with_suffix(".json.new")
            temporary.write_text(json.dumps(data) + "\n", encoding="utf-8")
            temporary.replace(self.journal)

    def finish(self) -> None:
        """Flushes the complete file and drops its journal."""
        with disk_errors(self.path), self._open() as handle:
            os.fsync(handle)
        self.journal.unlink(missing_ok=True)

    @contextmanager
    def _open(self) -> Iterator[int]:
        handle = self.open_for_writing()
        try:
            yield handle
        finally:
            os.close(handle)

    def open_for_writing(self) -> int:
        """A handle of its own for each writer: none can write into another's file after its close."""
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def write_all(handle: int, data: bytes, offset: int, path: Path) -> None:
    """All of `data` at `offset`. Raises WeightsError, kind `disk`."""
    view = memoryview(data)
    with disk_errors(path):
        while view:
            count = os.pwrite(handle, view, offset)
            view = view[count:]
            offset += count


class PrefixHasher(threading.Thread):
    """Hashes a growing file in order, close behind the writers, so that it is read from the page cache.

    Several connections deliver out of order; they take small neighbouring segments, so the hole
    before this thread's position is never far behind the newest byte.
    """

    def __init__(self, part: PartFile) -> None:
        super().__init__(name="hash", daemon=True)
        self._part = part
        self._digest = hashlib.sha256()
        self._stopped = False
        self._failure: OSError | None = None

    def run(self) -> None:
        try:
            self._hash()
        except OSError as error:
            self._failure = error

    def _hash(self) -> None:
        buffer = memoryview(bytearray(_HASH_CHUNK_BYTES))
        handle = self._part.open_for_writing()
        at = 0
        try:
            while (upto := self._wait_beyond(at)) is not None:
                while at < upto:
                    count = os.preadv(handle, [buffer[: min(len(buffer), upto - at)]], at)
                    if not count:
                        raise OSError(errno.EIO, "the file is shorter than what was written")
                    self._digest.update(buffer[:count])
                    at += count
        finally:
            os.close(handle)

    def _wait_beyond(self, at: int) -> int | None:
        """Waits until there is more than `at`; None at the end of the file."""
        with self._part.lock:
            while True:
                prefix = self._part.done.prefix
                if self._stopped:
                    return None
                # A chunk at a time: waking for each small write costs more than the hashing.
                complete = prefix == self._part.size_bytes
                if prefix - at >= _HASH_CHUNK_BYTES or (complete and prefix > at):
                    return prefix
                if complete:
                    return None
                self._part.lock.wait(1.0)

    def stop(self) -> None:
        """Gives up, whatever is missing."""
        with self._part.lock:
            self._stopped = True
            self._part.lock.notify_all()
        self.join()

    def result(self) -> str:
        """The digest of the complete file; waits for it."""
        self.join()
        if self._failure is not None:
            raise WeightsError(
                "disk", f"cannot be read back: {self._failure.strerror}", where=str(self._part.path)
            )
        return self._digest.hexdigest()
