"""Waiting until a worker of the new release has served a test job, and what ends that otherwise.

Where there is no queue the job is a request to the load balancer, which does not say who has answered.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bake.console import Console
from bake.deploy.client import Endpoint, Job, RunpodClient, Workers
from bake.errors import BakeError, PushError, VerifyError
from bake.image.registry.transport import Transient
from bake.manifest.model import Warmup

_POLL_S = 2.0
_DONE = {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}
_LOG_LINES = 10
_REQUEST_S = 330
"""The load balancer ends a request then, and waits 120 s for a worker."""
_MOST_FAILURES = 3
"""Of a worker that answers 500, in a row."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A test job that a worker of the new release did."""

    worker: str
    """Empty where that is not to be known."""
    waited_s: float
    """From the queue to a worker: the cold start, with the image's download where a host had it not."""
    drew_s: float
    picture: bytes


def make_request(warmup: Warmup) -> dict[str, Any]:
    """The warm-up's picture as a job."""
    return {**warmup.payload(), "batch_size": 1}


def wait_for_release(
    client: RunpodClient,
    endpoint: Endpoint,
    warmup: Warmup,
    *,
    timeout_s: float,
    console: Console,
) -> Served:
    """Sends a test job, again where a worker of an older release took it, or may have.

    Raises:
        VerifyError: it failed, was superseded, or no worker served it in time; the job is cancelled then.
    """
    wait = _Wait(client, endpoint, console)
    run = wait.run if endpoint.type == "QUEUE" else wait.run_without_queue
    return run(make_request(warmup), deadline=time.monotonic() + timeout_s)


class _Wait:
    def __init__(self, client: RunpodClient, endpoint: Endpoint, console: Console) -> None:
        self._client, self._endpoint, self._console = client, endpoint, console
        self._version: int | None = None
        self._stale: set[str] = set()
        self._fresh: set[str] = set()
        self._said = ""
        self._last = Workers(workers=(), version=None)

    def run(self, request: Mapping[str, Any], *, deadline: float) -> Served:
        job = self._client.submit(self._endpoint, request)
        try:
            while True:
                # Before the look, which may have stood still.
                is_late = time.monotonic() >= deadline
                self._look()
                job = self._client.job(self._endpoint, job.id)
                if job.status in _DONE:
                    self._note(self._client.workers(self._endpoint.id))
                    if job.status == "COMPLETED" and self._is_of_older_release(job):
                        self._console.say(
                            f"worker {job.worker} of the older release took the job; once more"
                        )
                        job = self._client.submit(self._endpoint, request)
                    else:
                        return self._result(job)
                if is_late:
                    raise self._error("no worker of the new release served the test job in time")
                time.sleep(_POLL_S)
        except BaseException:
            self._cancel(job)
            raise

    def run_without_queue(self, request: Mapping[str, Any], *, deadline: float) -> Served:
        began = time.monotonic()
        failures = 0
        while True:
            is_late = time.monotonic() >= deadline
            self._look()
            try:
                output = self._client.draw(self._endpoint, request, read_s=_REQUEST_S)
            except Transient as error:
                why = error.what
                failures = failures + 1 if why.startswith("HTTP 500") else 0
            except PushError as error:
                raise self._error(f"the test request is refused: {error.what}") from error
            else:
                self._note(self._client.workers(self._endpoint.id))
                if not any(each.is_stale for each in self._last.workers):
                    return self._answered(output, time.monotonic() - began)
                why, failures = "a worker of the older release may have answered", 0
            if failures == _MOST_FAILURES:
                raise self._error(f"the test request fails: {why}")
            if is_late:
                raise self._error(f"no worker of the new release served the test request in time; at last: {why}")  # fmt: skip
            time.sleep(_POLL_S)

    def _look(self) -> None:
        """Notes which worker is of which release, and ends where this one cannot come up."""
        found = self._client.workers(self._endpoint.id)
        if self._version is None:
            self._version = found.version
        if found.version is not None and found.version != self._version:
            raise VerifyError(
                f"release {self._version} was superseded by release {found.version} while it was waited for",
                where=self._endpoint.id,
                hint="somebody else changed the endpoint: bake deploy MANIFEST --dry-run shows the difference",
            )
        self._note(found)
        if (text := _summary(found)) != self._said:
            self._said = text
            self._console.say(f"workers: {text}")
        sick = [
            each.id for each in found.workers if not each.is_stale and each.status == "UNHEALTHY"
        ]
        if sick:
            raise self._error(f"worker {sick[0]} of the new release is unhealthy", log_of=sick[0])

    def _note(self, found: Workers) -> None:
        self._last = found
        for worker in found.workers:
            (self._stale if worker.is_stale else self._fresh).add(worker.id)

    def _is_of_older_release(self, job: Job) -> bool:
        return job.worker in self._stale - self._fresh

    def _result(self, job: Job) -> Served:
        if job.status != "COMPLETED":
            raise self._error(f"the test job ended as {job.status}{_why(job)}", log_of=job.worker)
        return Served(
            worker=job.worker,
            waited_s=job.waited_ms / 1000,
            drew_s=job.ran_ms / 1000,
            picture=self._picture(job.output, log_of=job.worker),
        )

    def _answered(self, output: Any, seconds: float) -> Served:
        picture = self._picture(output)
        try:
            drew_s = float(output["bakery"]["timings"]["generate_s"])
        except (KeyError, TypeError, ValueError):
            drew_s = 0.0
        up = [each.id for each in self._last.workers]
        return Served(
            worker=up[0] if len(up) == 1 else "",
            waited_s=max(0.0, seconds - drew_s),
            drew_s=drew_s,
            picture=picture,
        )

    def _picture(self, output: Any, *, log_of: str = "") -> bytes:
        try:
            return base64.b64decode(output["images"][0], validate=True)
        except (KeyError, IndexError, TypeError, ValueError, binascii.Error) as error:
            raise self._error("the test job's answer holds no picture", log_of=log_of) from error

    def _error(self, what: str, *, log_of: str = "") -> VerifyError:
        lines = [f"{what}; workers: {_summary(self._last)}"]
        worker = log_of or next((each.id for each in self._last.workers if not each.is_stale), "")
        try:
            log = (
                self._client.log(self._endpoint.id, worker, tail=_LOG_LINES, read_s=5)
                if worker
                else ()
            )
            for number, line in enumerate(log):
                lines.append(f"  {line.text[:300]}")
                if number + 1 >= _LOG_LINES:
                    break
        except BakeError as error:
            lines.append(f"  its log cannot be read: {error.what}")
        return VerifyError(
            "\n".join(lines),
            where=self._endpoint.id,
            hint="bake logs MANIFEST shows more; bake deploy MANIFEST --rollback goes back",
        )

    def _cancel(self, job: Job) -> None:
        if job.status not in _DONE:
            try:
                self._client.cancel(self._endpoint, job.id)
            except BakeError:
                self._console.warn(f"the test job {job.id} could not be cancelled")


def _summary(found: Workers) -> str:
    counts: dict[str, int] = {}
    for each in found.workers:
        name = each.status.lower() + (" (older release)" if each.is_stale else "")
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def _why(job: Job) -> str:
    """The worker's own error is JSON with a message; other text is the platform's."""
    try:
        error = json.loads(job.error)
        return f": {error['code']}: {error['message']}"
    except (ValueError, KeyError, TypeError):
        return f": {' '.join(job.error.split())[:300]}" if job.error else ""
