"""Parts of a file into memory of the card: several threads, each with a pinned buffer and a stream of its own.

One thread that copies out of a mapped file waits for each page, and CUDA copies pageable memory twice. Here
preadv(2) scatters what lies side by side in the file to where it will lie on the card, so that a whole buffer goes
over in one copy: each call of torch lets go of the interpreter's lock, and may wait 5 ms until the imports give it back.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from runtime.boot.threads import share

THREADS = 4
BUFFER_BYTES = 16 << 20
MOST_VIEWS = 1024
"""Of one preadv (Linux: IOV_MAX)."""


class Place(NamedTuple):
    """Bytes that lie together in the file and on the card."""

    in_file: int
    on_card: int
    """In bytes from the beginning of the piece of memory."""
    size: int


class Portion(NamedTuple):
    """What goes over at once."""

    memory: Any
    """A flat tensor of bytes on the card."""
    begin: int
    end: int
    """Of its bytes."""
    places: list[Place]


def make_portions(memory: Any, places: list[Place], most: int) -> list[Portion]:
    """Cuts places, which ascend on the card, into portions that span at most so many bytes."""
    portions: list[Portion] = []
    for place in places:
        done = 0
        while done < place.size:
            at = place.on_card + done
            if not portions or at >= portions[-1].begin + most:
                portions.append(Portion(memory, at, at, []))
            last = portions[-1]
            size = min(place.size - done, last.begin + most - at)
            last.places.append(Place(place.in_file + done, at, size))
            portions[-1] = last._replace(end=at + size)
            done += size
    return portions


def read_portion(file: int, portion: Portion, buffer: memoryview) -> None:
    """Reads a portion into a buffer as it will lie on the card; bytes between its places stay as they are.

    Raises:
        OSError: the file cannot be read, or ends before.
    """
    views: list[memoryview] = []
    at = end = 0
    for place in portion.places:
        if views and place.in_file != end:
            _read(file, views, at)
            views = []
        at = at if views else place.in_file
        views.append(buffer[place.on_card - portion.begin :][: place.size])
        end = place.in_file + place.size
    _read(file, views, at)


def _read(file: int, views: list[memoryview], at: int) -> None:
    while views:
        count = os.preadv(file, views[:MOST_VIEWS], at)
        if not count:
            raise OSError(f"the file ends at byte {at}")
        at += count
        while views and count >= len(views[0]):
            count -= len(views.pop(0))
        if count:
            views[0] = views[0][count:]


def upload(torch: Any, path: str, portions: list[Portion]) -> None:
    """Brings all portions to the card; when it returns they are there, for every stream.

    Raises:
        Exception: whatever went wrong first; then nothing of it may be used.
    """
    # Memory that had another use a moment ago may still be written to by it, in another stream.
    torch.cuda.synchronize()
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def work(portions: Iterator[Portion]) -> None:
        pinned = torch.empty(BUFFER_BYTES, dtype=torch.uint8, pin_memory=True)
        address = (ctypes.c_char * BUFFER_BYTES).from_address(pinned.data_ptr())
        buffer = memoryview(address).cast("B")
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for portion in portions:
                read_portion(file, portion, buffer)
                size = portion.end - portion.begin
                target = portion.memory[portion.begin : portion.end]
                target.copy_(pinned[:size], non_blocking=True)
                stream.synchronize()

    try:
        share(portions, THREADS, work)
    finally:
        os.close(file)
