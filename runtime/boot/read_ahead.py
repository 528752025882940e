"""Brings files into the page cache with large reads from several threads.

The kernel's own read-ahead is 128 KiB on most disks: a checkpoint that is mapped comes in at half the
disk's speed (2.53 s for 2.13 GB, against 1.15 s with four threads).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Iterable, Sequence

THREADS = 4
CHUNK_BYTES = 16 << 20
"""Large, because after each read a thread waits for the interpreter's lock, up to 5 ms."""
Range = tuple[str, int, int]
"""Path, offset and length in bytes."""


def read_ahead(ranges: Iterable[Range]) -> None:
    """Reads what of these ranges is not in the page cache, as far as that can be known. Missing files are left out."""
    chunks = [chunk for each in ranges for chunk in _missing_chunks(*each)]
    lock = threading.Lock()
    chunks.reverse()

    def work() -> None:
        buffer = memoryview(mmap.mmap(-1, CHUNK_BYTES))
        while True:
            with lock:
                if not chunks:
                    return
                path, offset, length = chunks.pop()
            _read(path, offset, buffer[:length])

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(THREADS, len(chunks)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _read(path: str, offset: int, into: memoryview) -> None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.preadv(file, [into], offset)
    finally:
        os.close(file)


def _missing_chunks(path: str, offset: int, length: int) -> list[Range]:
    if length <= 0:
        return []
    start = offset - offset % mmap.PAGESIZE
    size = offset + length - start
    try:
        known = tells_residency(path)
        resident = resident_pages(path, start, size) if known else bytes(-(-size // mmap.PAGESIZE))
    except (OSError, ValueError):
        return []
    chunks = []
    pages = CHUNK_BYTES // mmap.PAGESIZE
    for first in range(0, len(resident), pages):
        part = resident[first : first + pages]
        if not all(part):
            begin = start + first * mmap.PAGESIZE
            chunks.append((path, begin, min(CHUNK_BYTES, offset + length - begin)))
    return chunks


def tells_residency(path: str) -> bool:
    """Whether mincore(2) says the truth of this file to this process.

    Since Linux 5.2 (`can_do_mincore` in mm/mincore.c) every page is "resident" to one that neither owns the
    file nor may write it: a worker that is not root would read nothing ahead. It then reads all: what is
    there already is copied at the speed of memory. preadv's RWF_NOWAIT, which could tell, is not supported
    by overlayfs, and posix_fadvise takes as long as the copy and at most the disk's own read-ahead a call.
    """
    return os.stat(path).st_uid == os.geteuid() or os.access(path, os.W_OK)  # noqa: PTH116


def resident_pages(path: str, offset: int, length: int) -> Sequence[int]:
    """For each page of the range, 1 if it is in the page cache, by mincore(2).

    Raises:
        OSError: the file cannot be opened, or mincore fails.
        ValueError: the file is shorter than the range.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # A private writable map, since ctypes takes the address only of writable memory; no page is touched.
        mapped = mmap.mmap(file, length, flags=mmap.MAP_PRIVATE, offset=offset)
    finally:
        os.close(file)
    pages = -(-length // mmap.PAGESIZE)
    vector = ctypes.create_string_buffer(pages)
    view = ctypes.c_char.from_buffer(mapped)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(length), vector):
            raise OSError(ctypes.get_errno(), "mincore failed", path)
    finally:
        del view
        mapped.close()
    return bytes(byte & 1 for byte in vector.raw)
