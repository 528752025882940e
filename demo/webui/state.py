"""What is being done right now, as `/sdapi/v1/progress` tells it, and the queue before it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any


class State:
    """The running job. An interrupt while nothing runs is forgotten when the next job begins."""

    def __init__(self) -> None:
        self.skipped = False
        self.interrupted = False
        self.job = ""
        self.job_no = 0
        self.job_count = 0
        self.job_timestamp = "0"
        self.sampling_step = 0
        self.sampling_steps = 0
        self.current_latent: Any = None
        self._began = 0.0

    def begin(self, job: str) -> None:
        self.skipped = self.interrupted = False
        self.job, self.job_no, self.job_count = job, 0, -1
        self.job_timestamp = datetime.now().strftime("%Y%m%d%H%M%S")  # as the webui
        self.sampling_step = 0
        self.current_latent = None
        self._began = time.monotonic()

    def end(self) -> None:
        self.job, self.job_count = "", 0

    def next_job(self) -> None:
        self.job_no += 1
        self.sampling_step = 0

    def progress(self) -> dict[str, Any]:
        """progress (0 to 1), eta_relative (seconds) and the state itself."""
        done, left = 0.0, 0.0
        if self.job_count:
            done = 0.01
            if self.job_count > 0:
                done += self.job_no / self.job_count
            if self.sampling_steps > 0:
                done += self.sampling_step / self.sampling_steps / self.job_count
            elapsed = time.monotonic() - self._began
            # A job that has begun but not counted its parts has a job_count of -1: the webui's sum may be 0 then.
            left = elapsed / done - elapsed if done else 0.0
        names = [
            "skipped",
            "interrupted",
            "job",
            "job_count",
            "job_timestamp",
            "job_no",
            "sampling_step",
            "sampling_steps",
        ]
        state = {name: getattr(self, name) for name in names}
        state["stopping_generation"] = False
        return {
            "progress": min(done, 1),
            "eta_relative": left,
            "state": state,
            "current_image": None,
            "textinfo": None,
        }


class Queue:
    """A lock that is given to its waiters in the order of their coming."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        turn = threading.Event()
        with self._lock:
            if self._taken:
                self._waiting.append(turn)
            else:
                self._taken = True
                turn.set()
        turn.wait()
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().set()
                else:
                    self._taken = False
