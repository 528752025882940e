"""The warm-up: a real generation in a container of the base, judged, and what it left harvested."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import requests
from docker.errors import NotFound
from docker.models.containers import Container
from docker.types import Mount

from bake.console import Console
from bake.errors import BuildError
from bake.files import unpack
from bake.image.build.picture import judge_picture
from bake.image.engine.device import (
    ContainerStartError,
    DeviceChoice,
    explain_other_card,
    gpu_requests,
    running,
)
from bake.image.engine.docker import Engine
from bake.manifest.model import Warmup
from runtime.worker import HOME, WORKER_FILE, Device, Worker

INSIDE = PurePosixPath("/warmup")
_STOP_GRACE_S = 120
_SCRIPT = Path(__file__).with_name("warmup_inside.py")


@dataclass(frozen=True, kw_only=True)
class WarmupResult:
    """What a warm-up showed."""

    device: Device
    picture: bytes
    """The PNG as the webui made it."""
    loaded_s: float
    drawn_s: float
    timeline: list[dict[str, Any]]
    """What began and ended when: `name`, `began`, `ended` in seconds of one clock."""
    tricks: list[str]
    """Those of the start's tricks that are proven on this kind of device."""


def warm_up(
    worker: Worker,
    request: Warmup,
    *,
    engine: Engine,
    image: str,
    weights: Sequence[tuple[Path, str]],
    device: DeviceChoice,
    run: str,
    runtime: Path,
    harvest: Path,
    scratch: Path,
    log: Path,
    start_timeout_s: int,
    draw_timeout_s: int,
    console: Console,
    extensions: Path | None = None,
) -> WarmupResult:
    """Draws the manifest's warm-up picture and fills `harvest` with the caches that it left.

    Args:
        worker: What the image will know of itself.
        request: The manifest's warm-up.
        engine: Runs the container.
        image: The base image's id.
        weights: Files of the store, each with its path in the image.
        device: `auto` takes the GPU where the engine has one.
        run: The build folder's identity, by which a killed bake's container is found.
        runtime: The folder of the runtime's source.
        harvest: An empty folder; its top stands for the image's root.
        scratch: A folder for the exchange with the container.
        log: Takes the webui's output.
        start_timeout_s: Until the model is loaded.
        draw_timeout_s: Then until the picture is drawn.
        console: Says on which device it ran.
        extensions: The layer of the webui's extensions, if there are any.

    Raises:
        BuildError: the webui did not start, did not load the model, or drew no proper picture; with its own last lines.
    """

    @contextmanager
    def make(chosen: Device) -> Iterator[Container]:
        asked = {
            "device": chosen,
            "start_timeout_s": start_timeout_s,
            "draw_timeout_s": draw_timeout_s,
            "payload": request.payload(),
        }
        exchange = scratch / chosen
        exchange.mkdir()
        (exchange / "request.json").write_text(json.dumps(asked), encoding="utf-8")
        mounts = _mounts(weights, runtime=runtime, exchange=exchange, scratch=scratch)
        with engine.container(image, run=run, **_options(worker, chosen, mounts)) as container:
            if extensions is not None:
                with extensions.open("rb") as layer:
                    container.put_archive("/", layer)
            yield container

    (scratch / "worker.json").write_text(worker.to_json(), encoding="utf-8")
    try:
        with running(device, make) as (chosen, container):
            if chosen == "cpu" and device == "auto":
                console.say("no GPU in this engine: warming up on the CPU")
            exchange = scratch / chosen
            # Twice, with the tricks of the start and without.
            status = _wait(container, 2 * (start_timeout_s + draw_timeout_s + _STOP_GRACE_S))
            _keep_log(exchange / "webui.log", container, log)
            answer = _read_answer(exchange, container, status=status, log=log)
            _judge(answer, worker, request)
            if answer["unproven"]:
                console.warn(f"this image's start does without tricks: {answer['unproven']}")
            collect_files(container, worker.webui.harvest_paths, harvest)
            _collect_record(exchange / "record", harvest)
    except ContainerStartError as error:
        if error.lacks_gpu:
            raise BuildError(
                f"the engine has no GPU to warm up on: {error.reason}",
                hint="--device cpu, or install the NVIDIA container toolkit",
            ) from error
        raise BuildError(f"the warm-up container does not start: {error.reason}") from error
    return WarmupResult(
        device=chosen,
        picture=base64.b64decode(answer["image"]),
        loaded_s=answer["loaded_s"],
        drawn_s=answer["drawn_s"],
        timeline=_read_timeline(exchange / "timeline.jsonl"),
        tricks=answer["tricks"],
    )


def _mounts(
    weights: Sequence[tuple[Path, str]], *, runtime: Path, exchange: Path, scratch: Path
) -> list[Mount]:
    read_only = [
        (runtime, f"{HOME}/runtime"),
        (_SCRIPT, f"{HOME}/{_SCRIPT.name}"),
        (scratch / "worker.json", WORKER_FILE),
        *weights,
    ]
    mounts = [
        Mount(target, str(source), type="bind", read_only=True) for source, target in read_only
    ]
    return [*mounts, Mount(str(INSIDE), str(exchange), type="bind")]


def _options(worker: Worker, device: Device, mounts: list[Mount]) -> dict[str, Any]:
    return {
        "entrypoint": [worker.webui.python, f"{HOME}/{_SCRIPT.name}", str(INSIDE)],
        "command": [],
        "user": "0:0",
        "network_mode": "none",
        "mounts": mounts,
        "device_requests": gpu_requests(device),
        "shm_size": "1g",
        "environment": {
            "PYTHONPATH": HOME,
            "PYTHONDONTWRITEBYTECODE": "1",
            "BAKERY_TIMELINE": str(INSIDE / "timeline.jsonl"),
        },
    }


def _wait(container: Container, timeout_s: int) -> int:
    """The exit status; the script inside has its own deadlines, ours is for when it hangs itself."""
    try:
        return int(container.wait(timeout=timeout_s)["StatusCode"])
    except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError) as error:
        raise BuildError(f"the warm-up did not end within {timeout_s} s") from error


def _keep_log(webui_log: Path, container: Container, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as kept:
        if webui_log.exists():
            kept.write(webui_log.read_bytes())
        kept.write(container.logs())


def _read_answer(exchange: Path, container: Container, *, status: int, log: Path) -> dict[str, Any]:
    hint = f"the webui's whole output is in {log}"
    failure = exchange / "failure.json"
    if failure.exists():
        failed = json.loads(failure.read_text(encoding="utf-8"))
        lines = "\n    ".join(failed["last_lines"])
        what = f"the warm-up failed: {failed['reason']}\n    {lines}"
        raise BuildError(what, hint=explain_other_card(what) or hint)
    response = exchange / "response.json"
    if status != 0 or not response.exists():
        container.reload()
        memory = container.attrs["State"].get("OOMKilled")
        reason = "it ran out of memory" if memory else f"it ended with status {status}"
        lines = "\n    ".join(container.logs(tail=15).decode(errors="replace").splitlines())
        raise BuildError(f"the warm-up failed: {reason}\n    {lines}", hint=hint)
    answer: dict[str, Any] = json.loads(response.read_text(encoding="utf-8"))
    return answer


def _judge(answer: dict[str, Any], worker: Worker, request: Warmup) -> None:
    problems = judge_picture(
        base64.b64decode(answer["image"]),
        width=request.width,
        height=request.height,
        checkpoint_sha256=worker.checkpoint.sha256,
    )
    if problems:
        raise BuildError("the warm-up's picture is not good: " + "; ".join(problems))


def collect_files(container: Container, paths: Iterable[str], folder: Path) -> None:
    """Copies files and folders out of a stopped container; what is not there is left out."""
    for path in paths:
        try:
            stream, _ = container.get_archive(path)
        except NotFound:
            continue
        parent = folder / str(PurePosixPath(path).parent).lstrip("/")
        parent.mkdir(parents=True, exist_ok=True)
        packed = folder.parent / "archive.tar"
        try:
            with packed.open("wb") as file:
                file.writelines(stream)
            unpack(packed, parent)
        finally:
            packed.unlink(missing_ok=True)


def _read_timeline(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def _collect_record(record: Path, harvest: Path) -> None:
    """What boot recorded of the start belongs into the image's harvest folder."""
    target = harvest / HOME.lstrip("/") / "harvest"
    for path in sorted(record.iterdir()) if record.is_dir() else []:
        target.mkdir(parents=True, exist_ok=True)
        (target / path.name).write_bytes(path.read_bytes())
