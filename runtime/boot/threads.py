"""Work that several threads share, and how they let the imports, which everything waits for, go first."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
NICE = 10


def share(items: Sequence[T], count: int, work: Callable[[Iterator[T]], None]) -> None:
    """Runs `work` in so many threads until all items are taken, each by the thread that asks first.

    Raises:
        BaseException: whatever went wrong first; the others then take no further item.
    """
    left = iter(items)
    failed: list[BaseException] = []

    def take() -> Iterator[T]:
        for item in left:
            if failed:
                return
            yield item

    def run() -> None:
        try:
            work(take())
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            failed.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def be_nice() -> None:
    """Lets the other threads of this process go first, where Linux lets it."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
