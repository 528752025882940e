"""Several tasks at once, of which the first that fails ends the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818  # no fault of this task's
    """Another task of the same undertaking failed."""


def run_in_parallel(
    tasks: Sequence[Callable[[], T]], *, workers: int, stop: threading.Event
) -> list[T]:
    """Runs tasks, so many at once.

    Args:
        tasks: Each may raise `Stopped` once `stop` is set.
        workers: The most at once.
        stop: Is set when one fails, or somebody interrupts.

    Returns:
        Their results, in their order.

    Raises:
        Exception: the first task's that failed; no task runs any more then.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures: list[Future[T]] = [pool.submit(task) for task in tasks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done() and not isinstance(future.exception(), (Stopped, type(None))):
                    future.result()
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
