"""One job from its input to its output or its error. The SDK calls it; it never raises but to be cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from runtime.clock import clock
from runtime.errors import JobError
from runtime.job.asked import Pictures, Request
from runtime.job.bucket import Bucket
from runtime.job.fields import OVERRIDES, PREVIEWS
from runtime.job.honoured import Honoured, check_honoured, check_size, read_info
from runtime.job.lora import EMBEDDING, Applied, LoraStore
from runtime.job.names import Names, pin_settings, read_names
from runtime.job.request import parse_request
from runtime.job.response import deliver, make_preview
from runtime.job.rules.tasks import UPSCALING
from runtime.log import Counters, bind_job, log
from runtime.settings import Settings
from runtime.webui.client import WebuiError
from runtime.webui.generate import Drawing, Generator, Order
from runtime.webui.keeper import Keeper
from runtime.worker import Worker

_WATCH_S = 1.0
_T = TypeVar("_T")


@dataclass(kw_only=True, eq=False)
class Handler:
    """Callable as the SDK wants it: `await handler(job)`."""

    settings: Settings
    worker: Worker
    keeper: Keeper
    generator: Generator
    loras: LoraStore
    bucket: Bucket
    limits: Mapping[str, int]
    """Maxima of requests."""
    counters: Counters
    report: Callable[[Mapping[str, Any], Any], None]
    """Sends a progress report of a job to the platform."""
    on_refresh: Callable[[], None]
    """Called when the worker must be replaced after this job."""
    _offers: tuple[Names, dict[str, Any]] | None = None

    @classmethod
    def create(
        cls,
        worker: Worker,
        settings: Settings,
        *,
        limits: Mapping[str, int],
        keeper: Keeper,
        counters: Counters,
        report: Callable[[Mapping[str, Any], Any], None],
        on_refresh: Callable[[], None],
    ) -> Handler:
        """A worker's handler with all that it uses."""
        bucket = Bucket(settings)
        bucket.prepare()
        return cls(
            settings=settings,
            worker=worker,
            keeper=keeper,
            generator=Generator(keeper, settings, counters),
            loras=LoraStore(settings, worker, _tokens(settings)),
            bucket=bucket,
            limits=limits,
            counters=counters,
            report=report,
            on_refresh=on_refresh,
        )

    async def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The output, or `{"error": JSON text}`, with `refresh_worker` where the worker cannot go on."""
        bind_job(str(job.get("id", "")))
        timings: dict[str, float] = {}
        with _timed(timings, "total_s"):
            with _timed(timings, "wait_s"):
                await self.keeper.in_use.acquire()
            try:
                result = await self._answer(job, timings)
            finally:
                self.keeper.in_use.release()
        self.counters.add("jobs_failed" if "error" in result else "jobs")
        self.counters.add("job_seconds", timings["total_s"])
        if "bakery" in result:
            result["bakery"]["timings"] = timings
        log("INFO", "job", "done", failed="error" in result, **timings)
        if path := self.settings.test_output:
            # For `bake verify`: the SDK's local mode prints the output cut to 4,096 characters.
            Path(path).write_text(json.dumps(result), encoding="utf-8")
        return result

    async def _answer(self, job: Mapping[str, Any], timings: dict[str, float]) -> dict[str, Any]:
        try:
            return await self._run(job, timings)
        except JobError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  # the SDK would send its traceback to the client
            detail = f"{type(error).__name__}: {error}"
            log("ERROR", "job", detail, traceback="".join(traceback.format_exception(error)))
            failure = JobError("internal", "the worker made a mistake; its log says more")
        names = [each.field for each in failure.fields]
        about = {"code": failure.code, "fields": names, "detail": failure.detail}
        log("ERROR", "job", failure.message, **about)
        self.counters.add(f"error_{failure.code}")
        result: dict[str, Any] = {"error": failure.to_json()}
        if failure.refresh:
            self.on_refresh()
            result["refresh_worker"] = True
        return result

    async def _run(self, job: Mapping[str, Any], timings: dict[str, float]) -> dict[str, Any]:
        deadline = clock.now() + self.settings.job_timeout_s
        await self.keeper.ensure_running(deadline)
        request = await self._parse(job.get("input"))
        if self.settings.log_prompts:
            log("INFO", "job", "request", payload=dict(request.payload))
        pictures = await self._prepare_pictures(request, deadline, timings)
        with _timed(timings, "lora_s"):
            fetch = functools.partial(self._prepare_files, request, deadline=deadline)
            loras, embeddings = await self._in_time(fetch, deadline)
        on_progress = _throttle(self.report, job, self.settings.progress_s)
        with _timed(timings, "generate_s"):
            order = Order(
                payload={**_with_tags(request, loras), **pictures.payload},
                endpoint=request.endpoint,
                with_previews=request.output.previews and self.settings.progress_s > 0,
            )
            drawing = await self.generator.draw(order, deadline=deadline, on_progress=on_progress)
        with _timed(timings, "output_s"):
            info, proof = read_info(drawing.answer)
            drawn = len(drawing.answer["images"])
            honoured = check_honoured(request, loras, drawn=drawn, info=info, proof=proof)
            check_size(drawing.answer["images"], pictures.result)
            honoured.notes += pictures.notes
            output = await asyncio.to_thread(
                deliver,
                self._compose(request, honoured, embeddings, drawing, info),
                request.output,
                infotexts=info.get("infotexts") or [],
                job_id=str(job.get("id", "job")),
                limit_bytes=int(self.settings.max_response_mb * 1_000_000),
                bucket=self.bucket,
            )
        if request.endpoint == UPSCALING:
            output["image"] = output.pop("images")[0]
        return output

    async def _parse(self, value: object) -> Request:
        if self._offers is None:
            try:
                self._offers = await asyncio.to_thread(self._ask_webui)
            except WebuiError as error:
                # So that it is started again: one that hangs would fail every job from now on.
                what = "did not say what it offers"
                await self.keeper.kill(what)
                raise self.keeper.unavailable(f"the webui {what}", str(error)) from error
        names, extra = self._offers
        return parse_request(
            value, worker=self.worker, names=names, limits=self.limits, extra_overrides=extra
        )

    def _ask_webui(self) -> tuple[Names, dict[str, Any]]:
        """What it offers, and the present values of the settings that the operator allows in addition."""
        client = self.keeper.client
        extra = self.settings.allowed_overrides
        config_file = Path(self.worker.webui.config_file)
        values = pin_settings(client, config_file, [*OVERRIDES, *PREVIEWS, *extra])
        names = read_names(
            client,
            [each.name for each in self.worker.of_role("upscaler")],
            with_scripts=any(each.scripts for each in self.worker.extensions),
        )
        return names, {key: values[key] for key in extra if key in values}

    def _prepare_files(
        self, request: Request, *, deadline: float, cancelled: threading.Event
    ) -> tuple[list[Applied], list[Applied]]:
        """LoRAs and embeddings; of the latter, none of the job before is left."""
        wait: dict[str, Any] = {"deadline": deadline, "cancelled": cancelled}
        embeddings = self.loras.prepare(request.embeddings, kind=EMBEDDING, **wait)
        return self.loras.prepare(request.loras, **wait), embeddings

    async def _prepare_pictures(
        self, request: Request, deadline: float, timings: dict[str, float]
    ) -> Pictures:
        if not request.pictures:
            return Pictures()
        from runtime.job.pictures import prepare_pictures  # noqa: PLC0415  # only where there are any

        with _timed(timings, "pictures_s"):
            prepare = functools.partial(
                prepare_pictures, request, self.settings, self.limits, deadline=deadline
            )
            return await self._in_time(prepare, deadline)

    async def _in_time(self, blocking: Callable[..., _T], deadline: float) -> _T:
        """Calls what waits for others in a thread, with an event that tells it to give up."""
        cancelled = threading.Event()
        prepare = asyncio.ensure_future(asyncio.to_thread(blocking, cancelled=cancelled))
        try:
            while not (await asyncio.wait({prepare}, timeout=_WATCH_S))[0]:
                if overdue := self.keeper.overdue(deadline):
                    raise overdue
            return prepare.result()
        finally:
            # Ends a download that nobody waits for any more.
            cancelled.set()
            prepare.cancel()

    def _compose(
        self,
        request: Request,
        honoured: Honoured,
        embeddings: Sequence[Applied],
        drawing: Drawing,
        info: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The output, its pictures still as the webui gave them."""
        worker, answer = self.worker, drawing.answer
        checkpoints = {each.name: each.sha256 for each in worker.of_role("checkpoint")}
        model = {"name": request.checkpoint, "sha256": checkpoints.get(request.checkpoint)}
        image = {"name": worker.name, "lock_sha256": worker.lock_sha256}
        if request.places:
            # The webui sends back what scripts were given; pictures that went in are not sent back.
            scripts = {"alwayson_scripts": request.payload["alwayson_scripts"]}
            answer["parameters"] = {**answer.get("parameters", {}), **scripts}
        extra = len(answer["images"]) - request.images
        return {
            "images": answer["images"],
            **({"parameters": {}, "info": ""} if request.checkpoint else {}),
            **{key: answer[key] for key in ("parameters", "info", "html_info") if key in answer},
            "bakery": {
                "seeds": info.get("all_seeds", []),
                "loras": honoured.loras,
                "embeddings": [
                    {key: getattr(each, key) for key in ("name", "sha256", "source", "was_cached")}
                    for each in embeddings
                ],
                "model": model if request.checkpoint else None,
                "image": {**image, "webui": worker.webui.version},
                "attempts": drawing.attempts,
                "degraded": drawing.degraded,
                "notes": [*request.notes, *honoured.notes],
                **({"extra_images": extra} if extra > 0 else {}),
            },
        }


def _tokens(settings: Settings) -> dict[str, str]:
    """Who may see which token."""
    tokens = {
        settings.civitai_url: settings.civitai_token,
        "https://huggingface.co": settings.hf_token,
    }
    return {origin: token for origin, token in tokens.items() if token}


@contextlib.contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    timings[name] = round(time.monotonic() - began, 4)


def _with_tags(request: Request, loras: Sequence[Applied]) -> dict[str, Any]:
    """The payload with its LoRAs' tags, in front, where nothing before them can swallow them.

    The webui takes them out again without a trace in the prompt. Its second pass knows the tags of
    `hr_prompt` only, where there is one.
    """
    payload = request.payload
    if request.endpoint == UPSCALING:
        return dict(payload)
    scales = [f"{each.scale:.6f}".rstrip("0").rstrip(".") for each in loras]
    tags = [f"<lora:{each.tag}:{scale}>" for each, scale in zip(loras, scales, strict=True)]
    prompts = {"prompt": payload.get("prompt", "")}
    if payload.get("hr_prompt"):
        prompts["hr_prompt"] = payload["hr_prompt"]
    return {**payload, **{key: "".join(tags) + text for key, text in prompts.items()}}


def _throttle(
    report: Callable[[Mapping[str, Any], Any], None], job: Mapping[str, Any], least_s: float
) -> Callable[[Mapping[str, Any]], None]:
    """At most one report in so many seconds: each is a thread and a connection in the SDK."""
    last = time.monotonic()

    def on_progress(progress: Mapping[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if least_s <= 0 or now - last < least_s:
            return
        last = now
        state = progress.get("state") or {}
        what = {
            "progress": round(float(progress.get("progress") or 0), 3),
            "eta_s": round(float(progress.get("eta_relative") or 0), 1),
            "step": state.get("sampling_step"),
            "steps": state.get("sampling_steps"),
        }
        if picture := progress.get("current_image"):
            what["preview"] = make_preview(picture)
        report(job, what)

    return on_progress
