"""One generation: tried again only where that is safe, watched while it runs, ended when it must end.

Safe means that the webui had not begun to draw, or that its memory ran out and the operator allows smaller
batches. The webui is asked how it goes twice a second; one that answers nothing for long is killed.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from runtime.errors import JobError
from runtime.log import Counters, log
from runtime.settings import Settings
from runtime.webui.client import WebuiAnswerError, WebuiError, WebuiUnreachableError
from runtime.webui.process import WebuiProcess, WebuiProcessError, describe_exit

_POLL_S = 0.5
_PRINTED_S = 0.05
_TRANSIENT = {"", "RuntimeError", "OSError", "ConnectionError", "TimeoutError"}
"""Kinds of the webui's errors that may be gone the next time; a TypeError comes again."""
_T = TypeVar("_T")
OnProgress = Callable[[Mapping[str, Any]], None]
"""Gets what `WebuiClient.progress` gives."""


@dataclass(kw_only=True)
class Drawing:
    """What came of it."""

    answer: dict[str, Any]
    attempts: int
    degraded: dict[str, int] | None
    """The batch that was drawn instead of the one asked for, where memory ran out."""


@dataclass
class _Watch:
    """What is known of the try that runs."""

    heard_at: float
    began_drawing: bool = False


def smaller_batch(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same pictures, with the same seeds, in smaller batches; None for a batch of one.

    The webui numbers seeds through all batches, so the largest divisor keeps every picture.
    """
    size, n_iter = payload.get("batch_size", 1), payload.get("n_iter", 1)
    for smaller in range(size - 1, 0, -1):
        if size % smaller == 0:
            return {**payload, "batch_size": smaller, "n_iter": n_iter * (size // smaller)}
    return None


class Generator:
    """Owns the webui's process from its first start on; one generation at a time."""

    def __init__(self, webui: WebuiProcess, settings: Settings, counters: Counters) -> None:
        self.webui = webui
        self.restarts_left = settings.restarts
        self.stop_at = float("inf")
        """On the monotonic clock: when the worker must be gone; set by SIGTERM."""
        self._settings = settings
        self._counters = counters
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="webui-call")

    async def draw(
        self, payload: Mapping[str, Any], *, deadline: float, on_progress: OnProgress
    ) -> Drawing:
        """Draws.

        Raises:
            JobError: with the reason, and `refresh` where the worker cannot go on.
        """
        degraded: dict[str, int] | None = None
        attempt = 1
        while True:
            await self.ensure_running(deadline)
            watch, missing = _Watch(heard_at=time.monotonic()), self.webui.missing_models
            try:
                answer = await self._try(payload, watch, deadline, on_progress)
                await self._check_models(payload, missing)
                return Drawing(answer=answer, attempts=attempt, degraded=degraded)
            except WebuiError as error:
                if isinstance(error, WebuiAnswerError) and error.is_out_of_memory:
                    payload = self._degrade(payload, error)
                    degraded = {key: payload[key] for key in ("batch_size", "n_iter")}
                    continue
                await self._wait_before_next(attempt, error, deadline, watch.began_drawing)
            attempt += 1

    async def _check_models(self, payload: Mapping[str, Any], missing_before: int) -> None:
        """The webui fetches these models at their first use, and draws without one that does not come."""
        if not (payload.get("restore_faces") or payload.get("enable_hr")):
            return
        # What it printed before it answered may be read a moment after the answer.
        await asyncio.sleep(_PRINTED_S)
        if self.webui.missing_models > missing_before:
            what = "the webui could not load the model of the upscaler or of the face restorer"
            raise JobError("not_honoured", what)

    async def ensure_running(self, deadline: float) -> None:
        """Starts a dead webui again, within the limit on restarts.

        Raises:
            JobError: it cannot be had back, the worker must be replaced.
        """
        exit_code = self.webui.exit_code
        if exit_code is None:
            return
        log("ERROR", "webui", describe_exit(exit_code), last_lines=self.webui.last_lines())
        if self.restarts_left <= 0:
            raise JobError("webui_unavailable", "the webui ended", refresh=True)
        self.restarts_left -= 1
        self._counters.add("webui_restarts")
        allowed_s = min(self._settings.start_timeout_s, max(deadline - time.monotonic(), 1.0))
        try:
            await self._in_thread(self.webui.stop)
            self.webui.start()
            await self._in_thread(self.webui.wait_until_loaded, allowed_s)
        except WebuiProcessError as error:
            log("ERROR", "webui", str(error), last_lines=error.last_lines)
            what = "the webui did not start again"
            raise JobError("webui_unavailable", what, refresh=True) from error
        log("WARN", "webui", "started again")

    async def _try(
        self, payload: Mapping[str, Any], watch: _Watch, deadline: float, on_progress: OnProgress
    ) -> dict[str, Any]:
        """One call of txt2img, beside a call of progress every half second."""
        timeout_s = max(deadline - time.monotonic(), 0) + self._settings.interrupt_timeout_s + 60
        txt2img = functools.partial(self.webui.client.txt2img, payload, timeout_s=timeout_s)
        call = asyncio.ensure_future(self._in_thread(txt2img))
        listener = asyncio.ensure_future(self._listen(watch, on_progress))
        try:
            while not call.done():
                await asyncio.wait({call}, timeout=_POLL_S)
                if not call.done():
                    await self._check_time(call, watch, deadline)
            return call.result()
        except asyncio.CancelledError:
            self._counters.add("cancelled")
            await self._end(call, self._settings.interrupt_timeout_s)
            raise
        finally:
            listener.cancel()

    async def _listen(self, watch: _Watch, on_progress: OnProgress) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                progress = await self._in_thread(self.webui.client.progress)
            except WebuiError:
                continue
            watch.heard_at = time.monotonic()
            state = progress.get("state") or {}
            watch.began_drawing |= bool(state.get("sampling_step") or state.get("job_no"))
            on_progress(progress)

    async def _check_time(
        self, call: asyncio.Future[dict[str, Any]], watch: _Watch, deadline: float
    ) -> None:
        now, interrupt_s = time.monotonic(), self._settings.interrupt_timeout_s
        if now > watch.heard_at + self._settings.hang_timeout_s:
            failure = JobError(
                "webui_unavailable", "the webui hung", refresh=self.restarts_left <= 0
            )
            interrupt_s = 0.0
        elif overdue := self.overdue(deadline):
            failure = overdue
        else:
            return
        await self._end(call, interrupt_s)
        raise failure

    def overdue(self, deadline: float) -> JobError | None:
        """Why a job must end now, if it must."""
        now, limit_s = time.monotonic(), self._settings.job_timeout_s
        if now > self.stop_at:
            return JobError("worker_stopping", "the worker was told to stop")
        if now > deadline:
            return JobError("timeout", f"the job took longer than {limit_s:.0f} s")
        return None

    async def _end(self, call: asyncio.Future[dict[str, Any]], interrupt_s: float) -> None:
        """Interrupts until the call returns, so that the next job meets an idle webui; else kills it.

        Again and again, because the webui forgets an interrupt that comes before it begins.
        """
        end = time.monotonic() + interrupt_s
        interrupt = functools.partial(self.webui.client.interrupt, timeout_s=2.0)
        while not call.done() and time.monotonic() < end:
            asyncio.ensure_future(self._in_thread(interrupt)).add_done_callback(_forget)
            await asyncio.wait({call}, timeout=1.0)
        if not call.done():
            what = "does not stop drawing; killed" if interrupt_s else "answers nothing; killed"
            log("ERROR", "webui", what, last_lines=self.webui.last_lines())
            await self._in_thread(self.webui.stop, 0.0)
            await asyncio.wait({call})
        call.add_done_callback(_forget)

    def _degrade(self, payload: Mapping[str, Any], refused: WebuiAnswerError) -> dict[str, Any]:
        self._counters.add("out_of_memory")
        smaller = smaller_batch(payload) if self._settings.oom == "split" else None
        if smaller is None:
            what = "batch_size" if payload.get("batch_size", 1) > 1 else "picture"
            message = f"the device's memory ran out; a smaller {what} may fit"
            raise JobError("out_of_memory", message, detail=refused.detail)
        log("WARN", "generate", "out of memory; smaller batches", batch_size=smaller["batch_size"])
        return smaller

    async def _wait_before_next(
        self, attempt: int, error: WebuiError, deadline: float, began: bool
    ) -> None:
        """Returns when the next try is due; raises where there must be none."""
        if isinstance(error, WebuiUnreachableError):
            # The connection breaks a moment before the process can be seen to have ended.
            for _ in range(20):
                if self.webui.exit_code is not None:
                    break
                await asyncio.sleep(0.05)
        dead, permanent = self.webui.exit_code is not None, began
        if isinstance(error, WebuiAnswerError):
            # Whatever it had begun, it is at rest again.
            began, permanent = False, error.status < 500 or error.kind not in _TRANSIENT
        log("ERROR", "generate", str(error), attempt=attempt, webui_ended=dead, began=began)
        if dead and began:
            what = "the webui ended while it drew"
            raise JobError("webui_unavailable", what, refresh=True) from error
        wait_s = 0.0 if dead else self._settings.retry_wait_s * 2 ** (attempt - 1)
        late = time.monotonic() + wait_s > min(deadline, self.stop_at)
        if permanent or late or attempt >= self._settings.attempts:
            raise JobError("generation_failed", "the webui could not draw this") from error
        self._counters.add("retries")
        await asyncio.sleep(wait_s)

    async def _in_thread(self, function: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)


def _forget(future: asyncio.Future[Any]) -> None:
    """Takes a result that nobody waits for any more, so that asyncio does not complain of it."""
    if not future.cancelled():
        future.exception()
