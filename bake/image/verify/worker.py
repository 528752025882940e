"""Does the worker serve a picture as it would on RunPod, but with no network at all?

A worker that fetches anything at its start works on the day it is built and fails on the day that the
other side is down.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import tarfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import requests
from docker.errors import NotFound
from docker.models.containers import Container

from bake.errors import VerifyError
from bake.image.build.picture import judge_picture
from bake.image.engine.device import (
    ContainerStartError,
    DeviceChoice,
    explain_other_card,
    gpu_requests,
    running,
)
from bake.image.engine.docker import Engine
from bake.image.verify.verdict import Check
from runtime.worker import WORKER_FILE, Device, Worker

_OUT = "/out"
_OUTPUT = f"{_OUT}/output.json"
_LAST_LINES = 15
_LINE_CHARACTERS = 400
_REMEDY = "run it by hand: docker run --rm --network none IMAGE --test_input '{\"input\": {…}}'"


@dataclass(frozen=True, kw_only=True)
class WorkerTrial:
    """What came of one start of a worker."""

    check: Check
    picture: bytes = b""
    """The PNG, where there was one."""
    seconds: float = 0.0
    """From the container's start to its end."""
    output: Mapping[str, Any] | None = None
    """The job's output without the pictures."""
    start: Mapping[str, Any] | None = None
    """What the worker's log says of its start: `start_s` and `timeline` (docs/boot.md), where it said it."""


def verify_worker(
    engine: Engine,
    image: str,
    *,
    worker: Worker,
    job: Mapping[str, Any],
    run: str,
    device: DeviceChoice = "auto",
    timeout_s: float = 1800,
) -> WorkerTrial:
    """Starts the image with no network, gives it one job, and judges the picture.

    Args:
        engine: Has the image.
        image: Its id or tag.
        worker: What the image knows of itself; the picture must be drawn by its checkpoint.
        job: The job's `input`, with `width` and `height` in pixels.
        run: Marks the container, so that a killed run's is found.
        device: `auto` takes the GPU where the engine has one.
        timeout_s: For start, load and picture together.
    """

    def make(device: Device) -> AbstractContextManager[Container]:
        return engine.container(
            image,
            run=run,
            command=["--test_input", json.dumps({"input": dict(job)})],
            network_mode="none",
            environment={"BAKERY_TEST_OUTPUT": _OUTPUT, "BAKERY_DEVICE": device},
            volumes=[_OUT],
            shm_size="1g",
            device_requests=gpu_requests(device),
        )

    try:
        with running(device, make) as (_, container):
            return _judge(container, worker=worker, job=job, timeout_s=timeout_s)
    except ContainerStartError as error:
        return _failed(f"the container does not start: {error.reason}")


def read_worker(engine: Engine, image: str) -> Worker:
    """The worker.json of an image in the engine, without starting it.

    Raises:
        VerifyError: it has none, or one of another contract.
    """
    with engine.container(image, run=f"inspect {image}", command=[]) as container:
        try:
            return Worker.from_json(_read_file(container, WORKER_FILE).decode())
        except (NotFound, ValueError, TypeError) as error:
            raise VerifyError(f"{WORKER_FILE} is missing or cannot be read", where=image) from error


def _judge(
    container: Container, *, worker: Worker, job: Mapping[str, Any], timeout_s: float
) -> WorkerTrial:
    began = time.monotonic()
    try:
        status = int(container.wait(timeout=timeout_s)["StatusCode"])
    except requests.RequestException:
        return _failed(f"the worker served nothing within {timeout_s:.0f} s", container)
    seconds = round(time.monotonic() - began, 3)
    output = _read_output(container)
    if output is None:
        return _failed(f"the worker ended with status {status} and without output", container)
    if "images" not in output:
        reason = output.get("error", "no pictures in its output")
        return _failed(f"the job failed: {str(reason)[:500]}", container)
    try:
        picture = base64.b64decode(output["images"][0], validate=True)
    except (binascii.Error, IndexError, TypeError, ValueError):
        return _failed("the output's first picture is not base64", container)
    problems = judge_picture(
        picture,
        width=int(job["width"]),
        height=int(job["height"]),
        checkpoint_sha256=worker.checkpoint.sha256,
    )
    rest = {key: value for key, value in output.items() if key != "images"}
    check = Check(
        name="worker",
        severity="error" if problems else "ok",
        message="; ".join(problems)
        or f"started with no network and served a picture within {seconds:.1f} s",
        remedy=_REMEDY if problems else "",
    )
    return WorkerTrial(
        check=check,
        picture=picture,
        seconds=seconds,
        output=rest,
        start=read_start(container.logs(stderr=False)),
    )


def read_start(log: bytes) -> dict[str, Any] | None:
    """The start's seconds and timeline, of the worker's own line `model loaded`; None without one."""
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the SDK's lines, and the webui's
        if isinstance(entry, dict) and entry.get("message") == "model loaded":
            timeline = entry.get("timeline")
            events = [each for each in timeline or () if _is_event(each)]
            if isinstance(entry.get("start_s"), int | float):
                return {"start_s": entry["start_s"], "timeline": events}
    return None


def _is_event(event: object) -> bool:
    return isinstance(event, dict) and all(
        isinstance(event.get(key), kind)
        for key, kind in (("name", str), ("began", int | float), ("ended", int | float))
    )


def _read_output(container: Container) -> dict[str, Any] | None:
    """The file that the runtime's handler writes; it may lie inside an `output` of the SDK's."""
    try:
        output = json.loads(_read_file(container, _OUTPUT))
    except (NotFound, ValueError):
        return None
    if isinstance(output, dict) and isinstance(output.get("output"), dict):
        output = output["output"]
    return output if isinstance(output, dict) else None


def _read_file(container: Container, path: str) -> bytes:
    stream, _ = container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        member = tar.next()
        opened = tar.extractfile(member) if member else None
        return opened.read() if opened else b""


def _failed(reason: str, container: Container | None = None) -> WorkerTrial:
    lines = []
    if container is not None:
        log = container.logs(tail=_LAST_LINES).decode(errors="replace")
        lines = [f"\n    {line[:_LINE_CHARACTERS]}" for line in log.splitlines()]
    message = reason + "".join(lines)
    remedy = explain_other_card(message) or _REMEDY
    check = Check(name="worker", severity="error", message=message, remedy=remedy)
    return WorkerTrial(check=check)
