"""Threads that work beside the imports, which everything waits for, take what these leave."""

from __future__ import annotations

import contextlib
import os
import threading

NICE = 10


def be_nice() -> None:
    """Lets the other threads of this process go first, where Linux lets it."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
