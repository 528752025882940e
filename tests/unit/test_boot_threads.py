"""Work that threads share: everything is done once, and a failure ends it for all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runtime.boot.threads import share


def test_each_item_is_taken_once() -> None:
    done: list[int] = []
    share(range(1000), 4, done.extend)
    assert sorted(done) == list(range(1000))


def test_the_first_failure_is_raised_and_nothing_more_is_taken() -> None:
    done: list[int] = []

    def work(items: Iterator[int]) -> None:
        for item in items:
            if item == 3:
                raise OSError("the third")
            done.append(item)

    with pytest.raises(OSError, match="the third"):
        share(range(1000), 1, work)
    assert done == [0, 1, 2]


def test_one_that_fails_before_it_takes_anything() -> None:
    def work(_items: Iterator[int]) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        share([1], 2, work)
