"""When a thing is tried again: the one rule, for `bake` and for a worker.

A `Retry` is a value: whoever repeats something counts the tries, asks it, and waits.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 531)})
"""HTTP answers that may be others the next time; 520 to 530 are Cloudflare's, for an origin out of its reach."""
MAX_ASKED_S = 120.0
"""A server that asks to wait longer is not waited for."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often a thing is tried, and how long is waited between."""

    attempts: int = 7
    """Tries in all, the first one included; where progress may come between them, tries in a row without any."""
    backoff_s: float = 1.0
    """Longest pause before the third try; doubled before each further one."""
    first_s: float | None = None
    """Longest pause before the second try. None: a tenth of `backoff_s`, since most cuts are single events."""

    def at_most(self, attempts: int | None) -> Retry:
        """The same with fewer tries; None for as many."""
        return self if attempts is None else replace(self, attempts=min(self.attempts, attempts))

    def pause_s(
        self, tries: int, *, asked_s: float | None = None, left_s: float = math.inf
    ) -> float | None:
        """Seconds until the next try, or None where there is none.

        Args:
            tries: How many there were, none of them with success.
            asked_s: What the server asked to wait; 0, or a time that has passed, gets our own pause.
            left_s: Seconds that are left; the next try would begin within them.
        """
        if asked_s:
            pause_s = asked_s
        else:
            first_s = self.backoff_s / 10 if self.first_s is None else self.first_s
            longest_s = first_s if tries == 1 else self.backoff_s * 2.0 ** min(tries - 2, 30)
            # What broke together does not come back in step.
            pause_s = longest_s * random.uniform(0.5, 1.0)  # noqa: S311
        is_over = tries >= self.attempts or (asked_s or 0) > MAX_ASKED_S or pause_s > left_s
        return None if is_over else pause_s


USUAL = Retry()
"""Seven tries, with about half a minute of pauses between them where nobody asks for more."""
