"""One generation: tried again only where that is safe, watched while it runs, ended when it must end.

Safe means that the webui had not begun to draw, or that its memory ran out and the operator allows smaller
batches. The webui is asked how it goes twice a second; one that answers nothing for long is killed.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runtime.clock import clock
from runtime.errors import JobError
from runtime.log import Counters, log
from runtime.retry import Retry
from runtime.settings import Settings
from runtime.webui.client import WebuiAnswerError, WebuiError, WebuiUnreachableError
from runtime.webui.keeper import Keeper

_POLL_S = 0.5
_PRINTED_S = 0.05
_PRINTED_TIMES = 200  # of a webui that never stops printing
_NOISE = 2
_TRANSIENT = {"", "RuntimeError", "OSError", "ConnectionError", "TimeoutError"}
"""Kinds of the webui's errors that may be gone the next time; a TypeError comes again."""
_NO_PICTURE = re.compile(
    "image file|this image|encoded image|png file|data stream|next frame|decompress", re.IGNORECASE
)
"""Pillow's words, in the webui, for a picture whose header promised more than its inside holds."""
OnProgress = Callable[[Mapping[str, Any]], None]
"""Gets what `WebuiClient.progress` gives."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked of the webui."""

    payload: Mapping[str, Any]
    endpoint: str = "txt2img"
    with_previews: bool = False
    """Whether progress comes with a picture."""


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
    frozen_s: float
    """How long the worker had been frozen in all, before this try."""
    began_drawing: bool = False


def smaller_batch(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same pictures, with the same seeds, in smaller batches; None for a batch of one.

    The webui numbers seeds through all batches, so the largest divisor keeps every picture; but not where a
    batch has a picture for each, nor where a mask's noise is made of the first batch's seeds; and what a script
    makes of batches is its own business.
    """
    is_noise = payload.get("inpainting_fill") == _NOISE
    if len(payload.get("init_images", ())) > 1 or is_noise or payload.get("alwayson_scripts"):
        return None
    size, n_iter = payload.get("batch_size", 1), payload.get("n_iter", 1)
    for smaller in range(size - 1, 0, -1):
        if size % smaller == 0:
            return {**payload, "batch_size": smaller, "n_iter": n_iter * (size // smaller)}
    return None


class Generator:
    """Draws with the keeper's webui; one generation at a time."""

    def __init__(self, keeper: Keeper, settings: Settings, counters: Counters) -> None:
        self._keeper = keeper
        self._settings = settings
        self._counters = counters

    async def draw(self, order: Order, *, deadline: float, on_progress: OnProgress) -> Drawing:
        """Draws.

        Raises:
            JobError: with the reason, and `refresh` where the worker cannot go on.
        """
        degraded: dict[str, int] | None = None
        attempt = 1
        while True:
            await self._keeper.ensure_running(deadline)
            missing = self._keeper.missing_models
            watch = _Watch(heard_at=clock.now(), frozen_s=clock.frozen_s)
            try:
                answer = await self._try(order, watch, deadline, on_progress)
                await self._check_models(order, missing)
                return Drawing(answer=answer, attempts=attempt, degraded=degraded)
            except WebuiError as error:
                if isinstance(error, WebuiAnswerError) and error.is_out_of_memory:
                    smaller = self._degrade(order.payload, error)
                    order = replace(order, payload=smaller)
                    degraded = {key: smaller[key] for key in ("batch_size", "n_iter")}
                    continue
                await self._wait_before_next(attempt, error, deadline, watch)
            attempt += 1

    async def _check_models(self, order: Order, missing_before: int) -> None:
        """The webui fetches these models at their first use, and draws without one that does not come."""
        uses_models = order.endpoint == "extra-single-image"
        if not any((uses_models, *map(order.payload.get, ("restore_faces", "enable_hr")))):
            return
        # What it printed before it answered may be read a moment after the answer.
        for _ in range(_PRINTED_TIMES):
            is_read = not self._keeper.has_unread_output
            await asyncio.sleep(_PRINTED_S)
            if is_read:
                break
        if self._keeper.missing_models > missing_before:
            what = "the webui could not load the model of the upscaler or of the face restorer"
            raise JobError("not_honoured", what)

    async def _try(
        self, order: Order, watch: _Watch, deadline: float, on_progress: OnProgress
    ) -> dict[str, Any]:
        """One call that draws, beside a call of progress every half second."""
        timeout_s = max(deadline - clock.now(), 0) + self._settings.interrupt_timeout_s + 60
        client, where = self._keeper.client, order.endpoint
        draw = functools.partial(client.draw, order.payload, endpoint=where, timeout_s=timeout_s)
        call = asyncio.ensure_future(self._keeper.in_thread(draw))
        progress = functools.partial(client.progress, with_picture=order.with_previews)
        listener = asyncio.ensure_future(self._listen(watch, progress, on_progress))
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

    async def _listen(
        self, watch: _Watch, ask: Callable[[], dict[str, Any]], on_progress: OnProgress
    ) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                progress = await self._keeper.in_thread(ask)
            except WebuiError:
                continue
            watch.heard_at = clock.now()
            if (state := progress.get("state") or {}).get("job"):  # else it shows the last job's
                watch.began_drawing |= bool(state.get("sampling_step") or state.get("job_no"))
                on_progress(progress)

    async def _check_time(
        self, call: asyncio.Future[dict[str, Any]], watch: _Watch, deadline: float
    ) -> None:
        now, interrupt_s = clock.now(), self._settings.interrupt_timeout_s
        if now > watch.heard_at + self._settings.hang_timeout_s:
            failure = self._keeper.unavailable("the webui hung")
            interrupt_s = 0.0
        elif overdue := self._keeper.overdue(deadline):
            failure = overdue
        else:
            return
        await self._end(call, interrupt_s)
        raise failure

    async def _end(self, call: asyncio.Future[dict[str, Any]], interrupt_s: float) -> None:
        """Interrupts until the call returns, so that the next job meets an idle webui; else kills it.

        Again and again, because the webui forgets an interrupt that comes before it begins.
        """
        end = clock.now() + interrupt_s
        interrupt = functools.partial(self._keeper.client.interrupt, timeout_s=2.0)
        on_their_way: set[asyncio.Future[Any]] = {call}
        while not call.done() and clock.now() < end:
            asked = asyncio.ensure_future(self._keeper.in_thread(interrupt))
            asked.add_done_callback(_forget)
            on_their_way.add(asked)
            await asyncio.wait({call}, timeout=1.0)
        if not call.done():
            await self._keeper.kill("does not stop drawing" if interrupt_s else "answers nothing")
        # The call itself, and every interrupt: one that comes late would end the next job's picture.
        await asyncio.wait(on_their_way)
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
        self, attempt: int, error: WebuiError, deadline: float, watch: _Watch
    ) -> None:
        """Returns when the next try is due; raises where there must be none."""
        if isinstance(error, WebuiUnreachableError):
            # The connection breaks a moment before the process can be seen to have ended.
            for _ in range(20):
                if self._keeper.has_ended:
                    break
                await asyncio.sleep(0.05)
        dead, began = self._keeper.has_ended, watch.began_drawing
        # A connection that did not outlive a freeze says nothing of the webui: the job is drawn anew.
        permanent = began and clock.frozen_s == watch.frozen_s
        if isinstance(error, WebuiAnswerError):
            # Whatever it had begun, it is at rest again.
            began, permanent = False, error.status < 500 or error.kind not in _TRANSIENT
        log("ERROR", "generate", str(error), attempt=attempt, webui_ended=dead, began=began)
        if dead and began:
            what = "the webui ended while it drew"
            raise JobError("webui_unavailable", what, refresh=True) from error
        if isinstance(error, WebuiAnswerError) and _NO_PICTURE.search(str(error)):
            what = "a picture is broken: it cannot be decoded"
            raise JobError("invalid_request", what) from error
        wait_s = 0.0 if dead else self._settings.retry_wait_s
        retry = Retry(attempts=self._settings.attempts, first_s=wait_s, backoff_s=2 * wait_s)
        left_s = min(deadline, self._keeper.stop_at) - clock.now()
        pause_s = retry.pause_s(attempt, left_s=left_s)
        if permanent or pause_s is None:
            raise JobError("generation_failed", "the webui could not draw this") from error
        self._counters.add("retries")
        await asyncio.sleep(pause_s)


def _forget(future: asyncio.Future[Any]) -> None:
    """Takes a result that nobody waits for any more, so that asyncio does not complain of it."""
    if not future.cancelled():
        future.exception()
