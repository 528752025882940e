"""The check on a card (`benchmarks/gpu/check.py`) in a container of a worker image, by the image's own webui."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
from docker.errors import APIError
from docker.models.containers import Container

from bake.assets import card_check_files
from bake.console import Console
from bake.errors import MachineError, VerifyError
from bake.image.engine.device import ContainerStartError, gpu_requests, running
from bake.image.engine.docker import Engine
from bake.image.oci.model import LAYERS_LABEL
from runtime.worker import HOME, WORKER_FILE, Device

_INSIDE = "/gpu-check"
_RECORD = f"{_INSIDE}/record.json"
_NO_CARD = 3
"""The check's exit status for a machine without one."""
_HINT = (
    "install NVIDIA's driver and container toolkit; --device cpu rehearses the check without a card"
)


@dataclass(frozen=True, kw_only=True)
class CardCheck:
    """What a check found."""

    table: str
    """For people: Markdown, and what it proves."""
    record: dict[str, Any]
    """For docs/records (`benchmarks.gpu.record`); as far as it came, where the check was ended."""
    is_good: bool
    """Whether every start drew upstream's picture."""


def check_card(
    engine: Engine,
    image: str,
    *,
    device: Device,
    arguments: Sequence[str],
    console: Console,
    keep: Callable[[Mapping[str, Any]], None],
) -> CardCheck:
    """Starts the image's webui plain, with each trick and with all, and compares.

    Args:
        engine: Has the image.
        image: Its id or name.
        device: `cpu` rehearses it.
        arguments: Of `benchmarks/gpu/check.py`.
        console: Is told of each start.
        keep: Is given the record of a check that is interrupted, as far as it came.

    Raises:
        VerifyError: it is no worker image, or the check ended without a result.
        MachineError: there is no card, or the container does not start.
    """
    labels = engine.labels(image)
    python = labels.get("bakery.webui.python")
    if not python or LAYERS_LABEL not in labels:
        lacking = LAYERS_LABEL if python else "bakery.webui.python"
        raise VerifyError(
            f"it is no worker image: it has no label {lacking}",
            where=image,
            hint="name a manifest that was baked here, or the worker image that was made of one",
        )

    @contextmanager
    def make(device: Device) -> Iterator[Container]:
        options: dict[str, Any] = {
            "entrypoint": [python, f"{_INSIDE}/benchmarks/gpu/check.py"],
            "command": ["--worker", WORKER_FILE, "--device", device, "--json", _RECORD, *arguments],
            "user": "0:0",
            "network_mode": "none",
            "device_requests": gpu_requests(device),
            "shm_size": "1g",
            "environment": {"PYTHONPATH": HOME, "PYTHONUNBUFFERED": "1"},
        }
        with engine.container(image, run=f"gpu-check {image}", **options) as container:
            container.put_archive("/", _pack_check())
            yield container

    try:
        with running(device, make) as (_, container):
            try:
                _follow(container, console)
                status = int(container.wait()["StatusCode"])
            except BaseException:
                if (record := _read_record(container)) is not None:
                    keep(record)
                raise
            return _read(container, status, image)
    except ContainerStartError as error:
        raise MachineError(
            f"the container does not start: {error.reason}",
            where=image,
            hint=_HINT if error.lacks_gpu else None,
        ) from error


def _pack_check() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, path in card_check_files().items():
            tar.add(path, f"{_INSIDE}/{name}".lstrip("/"))
    return packed.getvalue()


def _follow(container: Container, console: Console) -> None:
    """What the check says while it runs; the table comes on its other stream."""
    with contextlib.suppress(requests.RequestException):
        left = ""
        for raw in container.logs(stream=True, follow=True, stdout=False, stderr=True):
            *lines, left = (left + raw.decode(errors="replace")).split("\n")
            for line in lines:
                console.say(f"  {line}")


def _read(container: Container, status: int, image: str) -> CardCheck:
    table = container.logs(stdout=True, stderr=False).decode(errors="replace")
    if status == _NO_CARD:
        raise MachineError("no NVIDIA card is seen in a container", where=image, hint=_HINT)
    record = _read_record(container)
    if record is None:
        lines = container.logs(stdout=False, tail=15).decode(errors="replace").splitlines()
        told = "".join(f"\n    {line}" for line in lines)
        raise VerifyError(f"the check ended with status {status}{told}", where=image)
    return CardCheck(table=table, record=record, is_good=status == 0)


def _read_record(container: Container) -> dict[str, Any] | None:
    """What the check has written so far; None where that is nothing."""
    try:
        stream, _ = container.get_archive(_RECORD)
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
            file = tar.extractfile(_RECORD.rpartition("/")[2])
            record = json.load(file) if file is not None else None
    except (APIError, requests.RequestException, tarfile.TarError, KeyError, ValueError):
        return None
    return record if isinstance(record, dict) else None
