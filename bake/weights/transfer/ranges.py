"""Which bytes of a file are there: sorted, disjoint, half-open ranges."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable


class Ranges:
    """A set of byte offsets. Not thread-safe by itself."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges: list[tuple[int, int]] = []
        for start, end in ranges:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Adds `start` to `end` (exclusive) and merges with what it touches."""
        if start < 0 or end < start:
            raise ValueError(f"no range: {start} to {end}")
        if start == end:
            return
        at = bisect_left(self._ranges, (start, start))
        if at > 0 and self._ranges[at - 1][1] >= start:
            at -= 1
            start = self._ranges[at][0]
        last = at
        while last < len(self._ranges) and self._ranges[last][0] <= end:
            end = max(end, self._ranges[last][1])
            last += 1
        self._ranges[at:last] = [(start, end)]

    def first_gap(self, size_bytes: int) -> tuple[int, int] | None:
        """The first range below `size_bytes` that is missing."""
        start = self.prefix
        if start >= size_bytes:
            return None
        follows = 1 if start else 0
        end = self._ranges[follows][0] if len(self._ranges) > follows else size_bytes
        return start, min(end, size_bytes)

    @property
    def prefix(self) -> int:
        """Bytes that are there from the beginning without a hole."""
        return self._ranges[0][1] if self._ranges and self._ranges[0][0] == 0 else 0

    @property
    def total(self) -> int:
        """Bytes that are there."""
        return sum(end - start for start, end in self._ranges)

    @property
    def end(self) -> int:
        """The offset after the last byte that is there."""
        return self._ranges[-1][1] if self._ranges else 0

    def as_list(self) -> list[tuple[int, int]]:
        """A copy, in order."""
        return list(self._ranges)
