"""When a connection counts as dead, how long to wait before the next attempt, and when to give up."""

from __future__ import annotations

import time
from dataclasses import dataclass

from runtime.files.answers import RetryableError, pause_after, stalled
from runtime.retry import Retry

MAX_LONE_FAILURES = 3
"""A connection that fails as often in a row while others get on is given up."""
MIN_BYTES_PER_S = 1024
"""Slower than this over a whole stall time-out counts as a stall."""


@dataclass
class Patience:
    """How often one connection has failed since its last byte."""

    retry: Retry
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
        return pause_after(failure, self._silent, self.retry)


class Pace:
    """Notices a connection that is alive but as good as dead."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._began = self._counted = time.monotonic()
        self._bytes = 0

    def count(self, size_bytes: int, url: str) -> None:
        """Counts bytes that came. Raises RetryableError when they come too slowly."""
        now = time.monotonic()
        # A silent server has met the socket's time-out by then: it is this machine that stood still.
        has_stood_still = now - self._counted > self._stall_s
        self._bytes, self._counted = self._bytes + size_bytes, now
        passed_s = now - self._began
        if passed_s < self._stall_s:
            return
        if self._bytes < MIN_BYTES_PER_S * passed_s and not has_stood_still:
            raise RetryableError(stalled(url))
        self._began, self._bytes = now, 0
