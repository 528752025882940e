"""How often a registry is asked the same, and how long is waited between.

`attempts` are tries in a row that brought nothing, the first one included. What passes by itself, and how
long a server is waited for, is the same as for sources (`runtime.files.answers`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from runtime.files.answers import MAX_RETRY_AFTER_S, RETRIED

TRANSIENT_STATUSES = RETRIED | {429}
"""Answers that may be others the next time, for whatever is asked of whom."""
MAX_PAUSE_S = 60.0
_MOST_UNCOUNTED = 8
"""New tokens, or smaller pieces, in a row."""


@dataclass(kw_only=True)
class Retry:
    """Counts the tries of one undertaking."""

    attempts: int
    backoff_s: float
    """Before the second try; doubled at each, with jitter, up to a minute."""
    failed: int = 0
    """Tries in a row that brought nothing."""
    _uncounted: int = 0

    def next_pause_s(self, *, wait_s: float | None = None, counts: bool = True) -> float | None:
        """Notes a failure. Returns how long to wait before the next try, or None where there is none.

        Args:
            wait_s: What the server asked to wait. More than two minutes are not waited for.
            counts: False where the next try will not be the same, such as after a new token.
        """
        if not counts and self._uncounted < _MOST_UNCOUNTED:
            self._uncounted += 1
            return 0.0
        self.failed += 1
        if self.failed >= self.attempts or (wait_s or 0) > MAX_RETRY_AFTER_S:
            return None
        if wait_s:  # a server that says 0, or a time that has passed, gets our own pause
            return wait_s
        longest_s = min(MAX_PAUSE_S, self.backoff_s * 2.0 ** min(self.failed - 1, 30))
        # What broke together does not come back in step.
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311

    def progressed(self) -> None:
        """Starts counting anew."""
        self.failed = 0
        self._uncounted = 0
