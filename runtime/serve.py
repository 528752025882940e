"""Taking jobs with the RunPod SDK: what differs between its ways of running, and how a worker ends.

Works with the one in the image and with the newest; what is used of the SDK is `start` with its `handler`,
`concurrency_modifier` and `refresh_worker` entries, `progress_update`, and the list of jobs in progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import runpod
from runpod.serverless.modules.rp_job import job_progress

from runtime.clock import clock
from runtime.job.handler import Handler
from runtime.log import Counters, log
from runtime.settings import Settings
from runtime.webui.keeper import Keeper
from runtime.worker import Worker

_SETTLE_S = 30.0
"""How long a report on its way may hold the result back: a platform that is this slow is so with results too."""


class Server:
    """Takes jobs until the worker ends: the running one first, with its result on its way; then at once.

    The SDK alone would go on waiting for its open requests (for a job, for stop signals), up to 90 s.
    """

    def __init__(
        self,
        worker: Worker,
        settings: Settings,
        *,
        limits: Mapping[str, int],
        keeper: Keeper,
        counters: Counters,
    ) -> None:
        self._grace_s = settings.term_grace_s
        self._keeper = keeper
        self._handler = Handler.create(
            worker,
            settings,
            limits=limits,
            keeper=keeper,
            counters=counters,
            report=report_progress,
            on_refresh=self._refresh,
        )
        self._config: dict[str, Any] = {
            "handler": self._handle,
            "concurrency_modifier": self._before_taking,
        }
        self._taking: asyncio.Task[Any] | None = None
        self._background: list[asyncio.Task[None]] = []

    def run(self, load: Callable[[], None]) -> int:
        """Loads the model and takes jobs; returns the exit code. Raises what `load` raises."""
        load()
        with contextlib.suppress(asyncio.CancelledError):
            runpod.serverless.start(self._config)
        return 1 if "refresh_worker" in self._config else 0

    async def _handle(self, job: Mapping[str, Any]) -> dict[str, Any]:
        result = await self._handler(job)
        # A report that arrives after the result would set the job back to IN_PROGRESS.
        end = min(clock.now() + _SETTLE_S, self._keeper.stop_at)
        while _reports_on_their_way() and clock.now() < end:
            await asyncio.sleep(0.02)
        return result

    def _before_taking(self, concurrency: int) -> int:
        """The SDK calls this before each request for a job, the first time after it set its own handlers."""
        if self._taking is None:
            self._taking = asyncio.current_task()
            self._background.append(asyncio.create_task(self._keeper.watch()))
            sdk_handler = signal.getsignal(signal.SIGTERM)
            loop = asyncio.get_running_loop()

            def on_term(signum: int, frame: Any) -> None:
                if callable(sdk_handler):
                    sdk_handler(signum, frame)
                loop.call_soon_threadsafe(self._begin_grace)

            signal.signal(signal.SIGTERM, on_term)
        return concurrency

    def _refresh(self) -> None:
        self._config["refresh_worker"] = True
        self._leave()

    def _begin_grace(self) -> None:
        log("WARN", "stop", "told to stop", grace_s=self._grace_s)
        self._keeper.stop_at = clock.now() + self._grace_s
        self._leave()

    def _leave(self) -> None:
        if self._taking is not None:
            self._background.append(asyncio.create_task(self._end_when_idle(self._taking)))

    async def _end_when_idle(self, taking: asyncio.Task[Any]) -> None:
        # The SDK's own instance: in 1.7 calling its class empties the set.
        while job_progress.get_job_count():
            await asyncio.sleep(0.05)
        # Ends the SDK's loop with CancelledError, which `run` expects.
        taking.cancel()


def report_progress(job: Mapping[str, Any], progress: Any) -> None:
    """Sends a report, if the one before has gone: each is a thread of the SDK, and they must not pile up."""
    if os.environ.get("RUNPOD_WEBHOOK_POST_OUTPUT") and not _reports_on_their_way():
        runpod.serverless.progress_update(dict(job), progress)


def _reports_on_their_way() -> bool:
    return any("_thread_target" in each.name for each in threading.enumerate())
