"""Seconds in which this worker could run: the monotonic clock without the time for which it was frozen.

A host may stop all processes of a worker (RunPod's FlashBoot, SIGSTOP, a paused machine) and let them go on
after every deadline. Whoever gives something time, and ends it when the time is over, asks this clock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_LOOK_S = 0.25
_FROZEN_S = 2.0
"""No thread of this process has looked at the clock for so long, although one does four times a second."""


class Clock:
    """Counts like `time.monotonic` until `watch` is called; from then on what was frozen is left out."""

    def __init__(self) -> None:
        self.frozen_s = 0.0
        self._seen: float | None = None
        self._lock = threading.Lock()
        self._on_thaw: Callable[[float], None] = lambda _: None

    def watch(self, on_thaw: Callable[[float], None]) -> None:
        """Begins to look; `on_thaw` gets the seconds of each freeze."""
        self._on_thaw = on_thaw
        self._seen = time.monotonic()
        threading.Thread(target=self._look, daemon=True, name="clock").start()

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            self.now()

    def now(self) -> float:
        """Seconds; whoever asks first after a thaw takes note of it, so that no one is late."""
        with self._lock:
            now = time.monotonic()
            gap_s = 0.0 if self._seen is None else now - self._seen
            if gap_s > _FROZEN_S:
                self.frozen_s += gap_s
                self._on_thaw(round(gap_s, 1))
            if self._seen is not None:
                self._seen = now
            return now - self.frozen_s


clock = Clock()
"""The worker's."""
