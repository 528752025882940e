"""Taking jobs over HTTP, behind a load balancer: RunPod's load balancing endpoints, `bake serve`, a laptop.

    GET  /ping      204 while the model is loaded, 200 when requests are taken, 503 when the worker ends
    POST /txt2img   the request of a job, `{"input": {…}}` or the input alone; its output, or a problem

The answer's form follows `Accept`: the output as JSON; the picture itself (`image/png`, `image/jpeg`,
`image/webp`; one picture); or `text/event-stream`, with an event for each progress report and one for the
result or the error. Errors are problem documents (RFC 9457) with our codes. A job whose connection goes is
cancelled. What a job is, and how it is drawn, is the handler's, as with the SDK.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from runtime.clock import clock
from runtime.errors import CODES
from runtime.job.handler import Handler
from runtime.log import Counters, log
from runtime.settings import Settings
from runtime.webui.keeper import Keeper
from runtime.worker import Worker

MAX_BODY_BYTES = 30_000_000
"""RunPod's limit for a request to a load balancing endpoint."""
STATUS = {
    "invalid_request": 422,
    "lora_refused": 422,
    "lora_unavailable": 502,
    "lora_not_applied": 422,
    "not_honoured": 500,
    "out_of_memory": 422,
    "generation_failed": 500,
    "webui_unavailable": 503,
    "timeout": 504,
    "worker_stopping": 503,
    "worker_starting": 503,
    "result_too_large": 422,
    "storage_not_configured": 422,
    "storage_failed": 502,
    "internal": 500,
    "busy": 503,
}
"""By the codes of `runtime.errors`."""
_PICTURES = ("image/png", "image/jpeg", "image/webp")
_JSON, _EVENTS = "application/json", "text/event-stream"
_RETRY_AFTER_S = 5
_BODY_TIMEOUT_S = 60.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class HttpServer:
    """Takes jobs until the worker is told to stop or cannot go on; the running ones end first."""

    def __init__(
        self,
        worker: Worker,
        settings: Settings,
        *,
        limits: Mapping[str, int],
        keeper: Keeper,
        counters: Counters,
    ) -> None:
        self._settings = settings
        self._keeper = keeper
        self._reports: dict[str, Callable[[Any], None]] = {}
        self._handler = Handler.create(
            worker,
            settings,
            limits=limits,
            keeper=keeper,
            counters=counters,
            report=self._report,
            on_refresh=self._refresh,
        )
        self._is_ready = False
        self._jobs = 0
        self._end: asyncio.Event = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._exit_code = 0

    def run(self, load: Callable[[], None]) -> int:
        """Listens, loads the model, takes jobs; returns the exit code. Raises what `load` raises."""
        return asyncio.run(self._run(load))

    async def _run(self, load: Callable[[], None]) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_term)
        async with self._listening():
            loading = asyncio.ensure_future(asyncio.to_thread(load))
            ended = asyncio.ensure_future(self._end.wait())
            tasks: set[asyncio.Future[Any]] = {loading, ended}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():
                # Told to stop before there was anything to finish. Ending the webui ends the wait for it.
                self._keeper.stop()
                await asyncio.wait({loading})
                loading.exception()
                return 128 + signal.SIGTERM
            loading.result()
            self._is_ready = True
            watch = asyncio.create_task(self._keeper.watch())
            await ended
            await self._idle.wait()
            watch.cancel()
        return self._exit_code

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        health = web.Application()
        health.router.add_get(self._settings.health_path, self._ping)
        jobs = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_in_words])
        jobs.router.add_get(self._settings.health_path, self._ping)
        jobs.router.add_post("/txt2img", self._txt2img)
        ports = {
            self._settings.health_port or self._settings.port: health,
            self._settings.port: jobs,
        }
        runners = []
        try:
            for port, application in ports.items():
                runner = web.AppRunner(
                    application, handler_cancellation=True, access_log=None, shutdown_timeout=1.0
                )
                runners.append(runner)
                await runner.setup()
                await web.TCPSite(runner, self._settings.http_host or None, port).start()
            log("INFO", "start", "listening", ports=sorted(ports))
            yield
        finally:
            for runner in runners:
                await runner.cleanup()

    async def _ping(self, _request: web.Request) -> web.Response:
        if self._end.is_set():
            return web.Response(status=503)
        return web.Response(status=200 if self._is_ready else 204)

    async def _txt2img(self, request: web.Request) -> web.StreamResponse:
        named = request.headers.get("X-Request-ID", "")
        job_id = named if _REQUEST_ID.fullmatch(named) else uuid.uuid4().hex
        if job_id in self._reports:
            job_id = uuid.uuid4().hex
        form = choose_form(request.headers.get("Accept", ""))
        if form is None:
            what = f"the answer can be {_JSON}, {', '.join(_PICTURES)} or {_EVENTS}"
            return problem(406, "invalid_request", what, job_id=job_id)
        if self._end.is_set():
            return problem(503, "worker_stopping", "the worker ends", job_id=job_id)
        if not self._is_ready:
            what = "the model is being loaded"
            return problem(503, "worker_starting", what, job_id=job_id)
        if self._jobs > self._settings.http_queue:
            what = f"{self._jobs} requests are being worked on, and one is drawn at a time"
            return problem(503, "busy", what, job_id=job_id)
        self._jobs += 1
        self._idle.clear()
        try:
            value = await read_input(request, form)
            if isinstance(value, web.Response):
                return value
            return await self._answer(request, {"id": job_id, "input": value}, form)
        finally:
            self._jobs -= 1
            if not self._jobs:
                self._idle.set()

    async def _answer(
        self, request: web.Request, job: Mapping[str, Any], form: str
    ) -> web.StreamResponse:
        if form == _EVENTS:
            return await self._stream(request, job)
        self._reports[job["id"]] = lambda _progress: None
        try:
            result = await self._handler(job)
        finally:
            del self._reports[job["id"]]
        if "error" in result:
            return problem_of(result, job["id"])
        if form == _JSON:
            return web.json_response(result, headers={"X-Request-ID": job["id"]})
        return _picture(result, form, job["id"])

    async def _stream(self, request: web.Request, job: Mapping[str, Any]) -> web.StreamResponse:
        """Server-sent events: `progress` with what the platform is told, then `result` or `error`."""
        headers = {"Content-Type": _EVENTS, "Cache-Control": "no-store", "X-Request-ID": job["id"]}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        reports: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def report(progress: Any) -> None:
            loop.call_soon_threadsafe(reports.put_nowait, progress)

        self._reports[job["id"]] = report
        drawing = asyncio.ensure_future(self._handler(job))
        drawing.add_done_callback(lambda _: reports.put_nowait(None))
        try:
            while (progress := await reports.get()) is not None:
                await response.write(event("progress", progress))
            result = drawing.result()
            name = "error" if "error" in result else "result"
            await response.write(
                event(name, json.loads(result["error"]) if name == "error" else result)
            )
            await response.write_eof()
        finally:
            del self._reports[job["id"]]
            drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drawing
        return response

    def _report(self, job: Mapping[str, Any], progress: Any) -> None:
        if (report := self._reports.get(str(job["id"]))) is not None:
            report(progress)

    def _refresh(self) -> None:
        self._exit_code = 1
        self._end.set()

    def _on_term(self) -> None:
        grace_s = self._settings.term_grace_s
        log("WARN", "stop", "told to stop", grace_s=grace_s)
        self._keeper.stop_at = clock.now() + grace_s
        self._end.set()


def choose_form(accept: str) -> str | None:
    """Which of the forms an `Accept` header wants most; JSON where it does not care, None where it wants none."""
    forms = (_JSON, *_PICTURES, _EVENTS)
    best: tuple[float, str | None] = (0.0, None if accept.strip() else _JSON)
    for part in accept.split(","):
        kind, *parameters = (each.strip().lower() for each in part.split(";"))
        weight = 1.0
        for name, _, text in (each.partition("=") for each in parameters):
            if name.strip() == "q":
                with contextlib.suppress(ValueError):
                    weight = float(text)
        found = {"*/*": _JSON, "application/*": _JSON, "image/*": _PICTURES[0]}.get(kind, kind)
        if found in forms and weight > best[0]:
            best = (weight, found)
    return best[1]


async def read_input(request: web.Request, form: str) -> Any:
    """The job's input; a problem where there is none."""
    reading, end = asyncio.ensure_future(request.read()), clock.now() + _BODY_TIMEOUT_S
    try:
        while not (await asyncio.wait({reading}, timeout=1.0))[0]:
            if clock.now() > end:
                what = f"no whole request came in {_BODY_TIMEOUT_S:.0f} s"
                return problem(408, "invalid_request", what)
        value = json.loads(reading.result())
    except (ValueError, RecursionError):
        return problem(400, "invalid_request", 'the body is no JSON; it may be {"prompt": "a cat"}')
    finally:
        reading.cancel()
    if isinstance(value, dict) and "input" in value:
        value = value["input"]
    if isinstance(value, dict) and form in _PICTURES[1:]:
        value.setdefault("image_format", form.removeprefix("image/"))
    return value


def _picture(result: Mapping[str, Any], form: str, job_id: str) -> web.Response:
    images, made = result.get("images") or [result["image"]], result["bakery"]["output"]
    if len(images) != 1:
        what = f"the request asks for {len(images)} pictures, of which {_JSON} is the form"
        return problem(406, "invalid_request", what, job_id=job_id)
    headers = {"X-Request-ID": job_id}
    if made["delivery"] == "s3":
        return web.Response(status=303, headers={**headers, "Location": images[0]})
    if form != f"image/{made['format']}":
        what = (
            f"the picture became {made['format']}, as the request says; {form} was to be accepted"
        )
        return problem(406, "invalid_request", what, job_id=job_id)
    return web.Response(body=base64.b64decode(images[0]), content_type=form, headers=headers)


def problem_of(result: Mapping[str, Any], job_id: str) -> web.Response:
    """The problem document of a job's error."""
    error = json.loads(result["error"])
    more = {"fields": error["fields"], "retryable": error["retryable"]}
    return problem(STATUS[error["code"]], error["code"], error["message"], job_id=job_id, **more)


def problem(
    status: int, code: str, message: str, /, *, job_id: str | None = None, **more: Any
) -> web.Response:
    """RFC 9457: `title` is what the code means, `detail` what happened, beside the members of a job's error."""
    retryable, meaning = CODES[code]
    document = {
        "type": "about:blank",
        "title": meaning,
        "status": status,
        "detail": message,
        "code": code,
        "retryable": retryable,
        "fields": [],
        **more,
    }
    headers = {} if job_id is None else {"X-Request-ID": job_id}
    if status == 503:
        headers["Retry-After"] = str(_RETRY_AFTER_S)
    return web.Response(
        status=status,
        text=json.dumps(document),
        content_type="application/problem+json",
        headers=headers,
    )


def event(name: str, data: Any) -> bytes:
    """One server-sent event; JSON has no line ends of its own."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


@web.middleware  # type: ignore[untyped-decorator]  # aiohttp is not in the build tool's environment
async def _in_words(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """What aiohttp itself refuses, as problems too."""
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        what = f"a request has at most {MAX_BODY_BYTES // 10**6} MB"
        return problem(413, "invalid_request", what)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = problem(405, "invalid_request", f"{request.path} takes {allowed}")
        response.headers["Allow"] = allowed
        return response
    except web.HTTPNotFound:
        return problem(404, "invalid_request", "there are GET /ping and POST /txt2img")
