"""`cpu`: on the CPU only, the checkpoint's memory is touched while the imports leave cores idle.

Memory that is touched for the first time costs the kernel time (and a virtual machine's host again):
4 GB took 3 to 14 s of one core where this was measured. With a GPU the tensors go there: nothing to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading

from runtime.boot.context import Context
from runtime.boot.tricks.weights import THREADS, Group, be_nice

TOUCH_BYTES = 32 << 20
"""Touched by one call: after it a thread sees whether torch has come."""


def install(context: Context) -> None:
    """Before torch is there: only where it is known that the tensors will be in main memory."""
    prepared = context.prepared
    if prepared is not None and prepared.stays_on_cpu:
        prepared.stop_touching = Touch(prepared.lay_out()).stop


class Touch:
    """Touches the groups' memory, first to last, until it is all there or `stop` is called."""

    def __init__(self, groups: list[Group]) -> None:
        self._pieces = [piece for group in groups for piece in _split(group.allocate())]
        self._pieces.reverse()
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name="boot-touch")
            for _ in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        be_nice()
        with contextlib.suppress(IndexError):
            while True:
                ctypes.memset(*self._pieces.pop())

    def stop(self) -> None:
        """Returns when no thread writes any more."""
        self._pieces.clear()
        for thread in self._threads:
            thread.join()


def _split(memory: mmap.mmap) -> list[tuple[int, int, int]]:
    """Arguments of memset."""
    first, size = ctypes.addressof(ctypes.c_char.from_buffer(memory)), len(memory)
    return [(first + at, 0, min(TOUCH_BYTES, size - at)) for at in range(0, size, TOUCH_BYTES)]
