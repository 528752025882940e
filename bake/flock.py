"""Locks between processes and threads that the kernel drops when their holder dies, kill -9 included."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def take_lock(path: Path, *, shared: bool = False) -> int:
    """Waits for the lock on `path`; closing the handle that this returns ends it."""
    while True:
        handle = _try_once(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if handle is not None:
            return handle


def try_lock(path: Path) -> int | None:
    """The exclusive lock on `path`, or None if somebody else has one."""
    while True:
        try:
            handle = _try_once(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if handle is not None:
            return handle


@contextmanager
def locked(path: Path, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds `path` exclusively; calls `on_wait` once if somebody else has it."""
    handle = try_lock(path)
    if handle is None:
        if on_wait is not None:
            on_wait()
        handle = take_lock(path)
    try:
        yield
    finally:
        os.close(handle)


def _try_once(path: Path, kind: int) -> int | None:
    """None if the file was unlinked meanwhile: whoever holds a lock may do so, and a lock on it is worthless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, kind)
        if _is_same_file(handle, path):
            return handle
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(handle)
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
