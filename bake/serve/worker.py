"""The worker of an image as a container on this machine, with its HTTP server on loopback (runtime/http_server.py)."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from docker.errors import APIError
from docker.models.containers import Container

from bake.console import Console
from bake.errors import MachineError, VerifyError
from bake.image.engine.device import (
    ContainerStartError,
    DeviceChoice,
    explain_other_card,
    gpu_requests,
    running,
)
from bake.image.engine.docker import Engine
from runtime.worker import Device

_PORT = 8000
"""Inside a container that has a network of its own."""
_PING_S = 0.25
_LAST_LINES = 15
_LINE_CHARACTERS = 400
_SAID = ("start", "stop")
"""The phases of a worker's log whose lines people want to read; others only as warnings and errors."""


class LocalWorker:
    """A started container; what it writes is followed from the first line."""

    def __init__(
        self, container: Container, *, port: int, device: Device, console: Console
    ) -> None:
        self.port = port
        """Of 127.0.0.1."""
        self.device = device
        self.started_s = 0.0
        """From the container's start to the loaded model."""
        self.began = time.monotonic()
        self._container = container
        self._console = console
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._status: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._follow, daemon=True, name="worker-log").start()

    @property
    def has_ended(self) -> bool:
        """Whether the container is no longer there."""
        return self._ended.is_set()

    def ping(self) -> int:
        """The worker's health: 204 while it starts, 200 when it takes jobs, 503 when it ends or has ended."""
        if self.has_ended:
            return 503
        try:
            status = requests.get(f"http://127.0.0.1:{self.port}/ping", timeout=5).status_code
        except requests.RequestException:
            # Nobody listens yet; a container that has ended is found by its log.
            return 200 if self.started_s else 204
        if status == 200 and not self.started_s:
            self.started_s = round(time.monotonic() - self.began, 1)
        return status

    def wait_until_ready(self, timeout_s: float) -> None:
        """Waits for the loaded model.

        Raises:
            VerifyError: the worker ended, or was not ready in time; with the end of its log.
        """
        end = time.monotonic() + timeout_s
        while True:
            is_late = time.monotonic() > end  # before the look, which may have stood still
            if self.ping() == 200:
                return
            if self.has_ended:
                raise self.failure("the worker ended before it took a job")
            if is_late:
                raise self.failure(f"the worker took no job within {timeout_s:.0f} s")
            self._ended.wait(_PING_S)

    def wait(self) -> None:
        """Waits for its end; Ctrl-C ends the wait."""
        while not self._ended.wait(1.0):
            pass

    def failure(self, what: str) -> VerifyError:
        """An error with the last lines of the worker's log."""
        status = "" if self._status is None else f" (status {self._status})"
        told = what + status + "".join(f"\n    {line}" for line in self._lines)
        return VerifyError(
            told,
            hint=explain_other_card(told)
            or "bake verify IMAGE checks it; what an earlier bake made knows no HTTP: bake image MANIFEST",
        )

    def _follow(self) -> None:
        with contextlib.suppress(requests.RequestException, APIError, OSError):
            for raw in self._container.logs(stream=True, follow=True):
                for line in raw.decode(errors="replace").splitlines():
                    self._note(line)
            self._status = int(self._container.wait(timeout=30)["StatusCode"])
        self._ended.set()

    def _note(self, line: str) -> None:
        self._lines.append(line[:_LINE_CHARACTERS])
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if not isinstance(entry, dict):
                return
            if entry.get("level") != "INFO" or entry.get("phase") in _SAID:
                about = f"{entry.get('phase')}: {entry.get('message')}"
                self._console.say(f"  {about[:_LINE_CHARACTERS]}")


@contextmanager
def run_worker(
    engine: Engine,
    image: str,
    *,
    environment: Mapping[str, str],
    console: Console,
    device: DeviceChoice = "auto",
) -> Iterator[LocalWorker]:
    """Starts the image's worker as an HTTP server that only this machine reaches; removes it on every way out.

    Args:
        engine: Has the image.
        image: Its id or name.
        environment: Variables of the worker.
        console: Is told what the worker says of its start.
        device: `auto` takes the GPU where the engine has one.

    Raises:
        MachineError: the engine is on another machine, or cannot start the container.
    """
    _need_local(engine)
    network, variables = _network(engine)

    def make(device: Device) -> AbstractContextManager[Container]:
        return engine.container(
            image,
            run=f"serve {image}",
            command=[],
            shm_size="1g",
            environment={
                "BAKERY_SERVER": "http",
                "BAKERY_PROGRESS_S": "0.5",
                **environment,
                **variables,
                "BAKERY_DEVICE": device,
            },
            device_requests=gpu_requests(device),
            **network,
        )

    try:
        with running(device, make) as (chosen, container):
            port = _published(container) if "ports" in network else int(variables["PORT"])
            yield LocalWorker(container, port=port, device=chosen, console=console)
    except ContainerStartError as error:
        raise MachineError(f"the container does not start: {error.reason}", where=image) from error


def _need_local(engine: Engine) -> None:
    url = urlsplit(engine.client.api.base_url)
    if url.scheme == "http+docker" and url.hostname == "localhost":
        return
    if url.scheme in ("http", "https") and url.hostname in ("localhost", "127.0.0.1", "::1"):
        return
    raise MachineError(
        "the Docker Engine is on another machine, whose loopback cannot be reached from here",
        where=f"{url.scheme}://{url.hostname}",
        hint="run this command on that machine, or unset DOCKER_HOST",
    )


def _network(engine: Engine) -> tuple[dict[str, Any], dict[str, str]]:
    """How the container's port becomes one of this machine's loopback: options, and variables for the worker."""
    if engine.client.networks.list(names=["bridge"]):
        return {"ports": {f"{_PORT}/tcp": ("127.0.0.1", None)}}, {"PORT": str(_PORT)}
    # An engine without bridges (rootless or in a sandbox): the machine's own network, loopback alone.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return {"network_mode": "host"}, {"PORT": port, "BAKERY_HTTP_HOST": "127.0.0.1"}


def _published(container: Container) -> int:
    container.reload()
    bound = (container.ports or {}).get(f"{_PORT}/tcp")
    if not bound:
        # It ended at once; its log says why.
        return 0
    return int(bound[0]["HostPort"])
