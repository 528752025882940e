"""Who of a download's connections fetches which segment, what one that gave up has left, and what went wrong."""

from __future__ import annotations

import threading

import requests

from bake.weights.transfer.judge import Options
from bake.weights.transfer.partial import PartFile
from bake.weights.transfer.ranges import Ranges

ENDLESS = 1 << 62
"""The end of a segment in a file of unknown length."""


class TooManyError(Exception):
    """This connection gets nowhere while others do: the source does not want so many."""


class Pass:
    """What the threads of one pass over a file share; guarded by the part file's lock."""

    def __init__(self, part: PartFile, options: Options) -> None:
        self._part = part
        self._options = options
        self._claimed = Ranges(part.done.as_list())
        self._returned: list[tuple[int, int]] = []
        self.has_ranges = True
        self.stopped = False
        self.failure: BaseException | None = None
        self.active: set[int] = set()
        """Numbers of the workers that will still take segments."""
        self.changed = threading.Event()
        self.live: dict[int, requests.Response] = {}

    def begin(self, count: int, start: int, end: int | None) -> None:
        """Workers 0 to `count` - 1 begin; the first has the segment from `start` to `end` already."""
        with self._part.lock:
            self._claimed.add(start, ENDLESS if end is None else end)
            self.active = set(range(count))

    def next_segment(self, number: int) -> tuple[int, int] | None:
        """What worker `number` does next. With None it is no longer active, so that nobody leaves it work."""
        with self._part.lock:
            segment = None if self.stopped else self._take_segment()
            if segment is None:
                self.active.discard(number)
            return segment

    def _take_segment(self) -> tuple[int, int] | None:
        size = self._part.size_bytes
        if size is None or not self.has_ranges:
            return None
        if self._returned:
            return self._returned.pop()
        gap = self._claimed.first_gap(size)
        if gap is None:
            return None
        start, end = gap
        if self._options.connections > 1:
            end = min(end, start + self._options.segment_bytes)
        self._claimed.add(start, end)
        return start, end

    def give_back(self, number: int, at: int, end: int | None, refused: bool) -> None:
        """Gives a refused connection up and its segment to the others, if there are any that get on.

        Raises:
            TooManyError: it is given up; its worker ends.
        """
        with self._part.lock:
            if not refused or end is None or self.active <= {number} or self.stopped:
                return
            self._returned.append((at, end))
            self.active.discard(number)
        raise TooManyError

    def fail(self, error: BaseException) -> None:
        """Ends the pass; the first error counts."""
        with self._part.lock:
            if self.failure is None:
                self.failure = error
            self.stopped = True

    def leave(self, number: int) -> None:
        """Worker `number` has ended."""
        with self._part.lock:
            self.active.discard(number)
        self.changed.set()
