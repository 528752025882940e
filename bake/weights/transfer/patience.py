"""When a connection counts as dead, how long to wait before the next attempt, and when to give up."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from runtime.files.answers import MAX_RETRY_AFTER_S, RetryableError, stalled

MAX_BACKOFF_S = 30.0
MAX_LONE_FAILURES = 3
"""A connection that fails as often in a row while others get on is given up."""
MIN_BYTES_PER_S = 1024
"""Slower than this over a whole stall time-out counts as a stall."""


@dataclass
class Patience:
    """How often one connection has failed since its last byte."""

    backoff_s: float
    max_failures: int
    failures: int = 0
    _silent: int = 0
    """Failures in a row between which no connection received a byte."""
    _received: int = -1

    @property
    def is_alone_in_failing(self) -> bool:
        """Whether it has failed so often that it should leave the rest to others that get on."""
        return self.failures >= MAX_LONE_FAILURES

    def note(self, failure: RetryableError, received: int) -> float:
        """Counts a failure; gives the seconds of pause after it.

        Args:
            failure: What happened.
            received: Bytes that all connections together have received.

        Raises:
            WeightsError: the failure itself, when nothing has come for too long.
        """
        self.failures += 1
        self._silent = self._silent + 1 if received == self._received else 1
        self._received = received
        is_stuck = self._silent > (failure.attempts or self.max_failures)
        if is_stuck or (failure.wait_s or 0) > MAX_RETRY_AFTER_S:
            raise failure.failure
        if failure.wait_s:  # a server that says 0, or a time that has passed, gets our own pause
            return failure.wait_s
        # After progress the first attempt comes almost at once: most cuts are single events.
        factor = 0.1 if self.failures == 1 else 2.0 ** (self.failures - 2)
        wait_s = min(MAX_BACKOFF_S, self.backoff_s * factor)
        # Connections that broke together do not come back in step.
        return wait_s * random.uniform(0.5, 1.0)  # noqa: S311


class Pace:
    """Notices a connection that is alive but as good as dead."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._began = time.monotonic()
        self._bytes = 0

    def count(self, size_bytes: int, url: str) -> None:
        """Counts bytes that came. Raises RetryableError when they come too slowly."""
        self._bytes += size_bytes
        passed_s = time.monotonic() - self._began
        if passed_s < self._stall_s:
            return
        if self._bytes < MIN_BYTES_PER_S * passed_s:
            raise RetryableError(stalled(url))
        self._began, self._bytes = time.monotonic(), 0
