"""`ahead`: the checkpoint is on its way into the page cache while the webui is still importing.

Only where `weights` does not read it, as on CUDA without a record: there the webui maps the file once it has
imported everything, and the kernel brings it in by 128 KiB on most disks, at half their speed
(2.53 s for 2.13 GB, 1.15 s with four threads).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from collections.abc import Iterator

from runtime.boot import timeline
from runtime.boot.context import Context
from runtime.boot.threads import be_nice, share

THREADS = 4
CHUNK_BYTES = 16 << 20
"""Large, because after each read a thread waits for the interpreter's lock, up to 5 ms."""


def install(context: Context) -> None:
    """Begins at once; whatever goes wrong, the webui reads the file for itself."""
    path = context.option("--ckpt")
    if context.prepared is not None or path is None or not os.path.isfile(path):  # noqa: PTH113
        return

    def work() -> None:
        began = time.monotonic()
        try:
            size_bytes = read_ahead(path)
            timeline.write("read checkpoint", began, size_bytes=size_bytes)
        except Exception as error:  # noqa: BLE001  # the webui reads it
            timeline.log(f"ahead is off: {error!r}")

    threading.Thread(target=work, daemon=True, name="boot-ahead").start()


def read_ahead(path: str) -> int:
    """Reads what of a file is not in the page cache, as far as that can be known. Returns how many bytes.

    Raises:
        OSError: the file cannot be read.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = list(_missing_chunks(file))

        def work(chunks: Iterator[tuple[int, int]]) -> None:
            be_nice()
            buffer = memoryview(mmap.mmap(-1, CHUNK_BYTES))
            for offset, length in chunks:
                os.preadv(file, [buffer[:length]], offset)

        share(chunks, THREADS, work)
    finally:
        os.close(file)
    return sum(length for _, length in chunks)


def _missing_chunks(file: int) -> Iterator[tuple[int, int]]:
    """Offset and length of each chunk of which a page is missing."""
    size = os.fstat(file).st_size
    resident = resident_pages(file) if tells_residency(file) else b""
    pages = CHUNK_BYTES // mmap.PAGESIZE
    for number, offset in enumerate(range(0, size, CHUNK_BYTES)):
        part = resident[number * pages :][:pages]
        if not part or not all(part):
            yield offset, min(CHUNK_BYTES, size - offset)


def tells_residency(file: int) -> bool:
    """Whether mincore(2) says the truth of this file to this process.

    Since Linux 5.2 (`can_do_mincore` in mm/mincore.c) every page is "resident" to one that neither owns the
    file nor may write it: a worker that is not root would read nothing ahead. It then reads all: what is
    there already is copied at the speed of memory. preadv's RWF_NOWAIT, which could tell, is not supported
    by overlayfs, and posix_fadvise takes as long as the copy and at most the disk's own read-ahead a call.
    """
    return os.fstat(file).st_uid == os.geteuid() or os.access(f"/proc/self/fd/{file}", os.W_OK)


def resident_pages(file: int) -> bytes:
    """For each page of the file 1 if it is in the page cache, else 0, by mincore(2).

    Raises:
        OSError: mincore fails.
    """
    length = os.fstat(file).st_size
    if not length:
        return b""
    # A private writable map, since ctypes takes the address only of writable memory; no page is touched.
    mapped = mmap.mmap(file, length, flags=mmap.MAP_PRIVATE)
    vector = ctypes.create_string_buffer(-(-length // mmap.PAGESIZE))
    view = ctypes.c_char.from_buffer(mapped)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(length), vector):
            raise OSError(ctypes.get_errno(), "mincore failed")
    finally:
        del view
        mapped.close()
    return bytes(byte & 1 for byte in vector.raw)
