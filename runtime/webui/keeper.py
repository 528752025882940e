"""The only owner of the webui's life: its start, the watch over it, restarts within a budget, its end.

Who draws or asks uses `client`, holds `in_use` meanwhile, and says `kill` where the webui must go.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from runtime.clock import clock
from runtime.errors import JobError
from runtime.log import Counters, log
from runtime.settings import Settings
from runtime.webui.client import WebuiClient
from runtime.webui.process import WebuiProcess, WebuiProcessError, describe_exit

_WATCH_S = 1.0
_SHARE_OF_TRICKS = 2 / 3
"""Of the time for a start: what the start with tricks gets, so that the plain one has some left."""
_T = TypeVar("_T")


class Keeper:
    """Keeps one webui alive from its first start to the worker's end."""

    def __init__(self, webui: WebuiProcess, settings: Settings, counters: Counters) -> None:
        self.in_use = asyncio.Lock()
        """Held while a job uses the webui, and while it is started again between two jobs."""
        self.stop_at = float("inf")
        """On the worker's clock: when the worker must be gone; set by SIGTERM."""
        self._webui = webui
        self._settings = settings
        self._counters = counters
        self._restarts_left = settings.restarts
        # Not asyncio's own, which the loop's end waits for: these calls end when the webui is stopped, after it.
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="webui-call")

    @property
    def client(self) -> WebuiClient:
        """Calls to the webui's API."""
        return self._webui.client

    @property
    def has_ended(self) -> bool:
        """Whether the webui's process is gone."""
        return self._webui.exit_code is not None

    @property
    def missing_models(self) -> int:
        """How often the webui has said that it goes on without a model."""
        return self._webui.missing_models

    @property
    def has_unread_output(self) -> bool:
        """Whether that may be more often, as some of what the webui has printed is still to be read."""
        return self._webui.has_unread_output

    def start(self) -> None:
        """Starts the webui for the first time; returns at once. Raises WebuiProcessError."""
        self._webui.start()

    def wait_until_loaded(self) -> list[dict[str, Any]]:
        """Waits for the first start's model; returns the start's timeline.

        Raises:
            WebuiProcessError: it ended, its model failed, or the deadline passed.
        """
        self._load(self._settings.start_timeout_s)
        return self._webui.timeline()

    def _load(self, allowed_s: float) -> None:
        """Waits for the model; a start with tricks that fails is tried once more as upstream's own."""
        if self._webui.is_plain:
            self._webui.wait_until_loaded(allowed_s)
            return
        began = clock.now()
        try:
            self._webui.wait_until_loaded(allowed_s * _SHARE_OF_TRICKS)
        except WebuiProcessError as error:
            what = "the start with tricks failed; tried once more without"
            log("WARN", "start", what, why=str(error), last_lines=error.last_lines)
            self._counters.add("plain_starts")
            self._webui.stop(0.0)
            self._webui.start(plain=True)
            self._webui.wait_until_loaded(allowed_s, began=began)

    async def in_thread(self, function: Callable[..., _T], *args: Any) -> _T:
        """A call that waits for the webui."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    def stop(self) -> None:
        """Ends the webui and all its children."""
        self._webui.stop()

    async def ensure_running(self, deadline: float) -> None:
        """Starts a dead webui again, within the limit on restarts.

        Raises:
            JobError: it cannot be had back, the worker must be replaced.
        """
        exit_code = self._webui.exit_code
        if exit_code is None:
            return
        log("ERROR", "webui", describe_exit(exit_code), last_lines=self._webui.last_lines())
        if self._restarts_left <= 0:
            raise JobError("webui_unavailable", "the webui ended", refresh=True)
        self._restarts_left -= 1
        self._counters.add("webui_restarts")
        allowed_s = min(self._settings.start_timeout_s, max(deadline - clock.now(), 1.0))
        try:
            await self.in_thread(self._webui.stop)
            self._webui.start()
            await self.in_thread(self._load, allowed_s)
        except WebuiProcessError as error:
            log("ERROR", "webui", str(error), last_lines=error.last_lines)
            what = "the webui did not start again"
            raise JobError("webui_unavailable", what, refresh=True) from error
        log("WARN", "webui", "started again")

    async def watch(self) -> None:
        """Starts a webui that died between two jobs again at once, not in the next job's time.

        Only as often as the operator allows; after that the next job finds it dead, and says so.
        """
        while True:
            await asyncio.sleep(_WATCH_S)
            if not self.has_ended or not self._restarts_left:
                continue
            async with self.in_use:
                with contextlib.suppress(JobError):
                    await self.ensure_running(clock.now() + self._settings.start_timeout_s)

    async def kill(self, why: str) -> None:
        """Ends the webui at once; the watch or the next job starts it again."""
        log("ERROR", "webui", f"{why}; killed", last_lines=self._webui.last_lines())
        await self.in_thread(self._webui.stop, 0.0)

    def unavailable(self, what: str, detail: str = "") -> JobError:
        """The error of a job whose webui was killed; the worker is replaced if no restart is left."""
        refresh = self._restarts_left <= 0
        return JobError("webui_unavailable", what, detail=detail, refresh=refresh)

    def overdue(self, deadline: float) -> JobError | None:
        """Why a job must end now, if it must."""
        now = clock.now()
        if now > self.stop_at:
            return JobError("worker_stopping", "the worker was told to stop")
        if now > deadline:
            what = f"the job took longer than {self._settings.job_timeout_s:.0f} s"
            return JobError("timeout", what)
        return None
