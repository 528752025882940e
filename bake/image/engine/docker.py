"""The one gateway to a Docker Engine: the SDK for images and containers, `buildx` for Dockerfiles.

The CLI cannot tell a container's fault from its own, so it is used for builds only.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container

from bake.console import Console
from bake.errors import BuildError, MachineError
from bake.image.engine.buildx import build_image, docker_config, docker_environment
from bake.process import CommandError, capture_command
from bake.secrets import mask_secrets

MINIMUM_MAJOR = 23
"""Older engines lack BuildKit's named contexts and `COPY --link`."""
RUN_LABEL = "bakery.run"
"""Marks every container with the build folder that it belongs to, so that a killed bake's are found."""
_API_TIMEOUT_S = 120
_CONTEXT_S = 60
_INSTALL_HINT = (
    "install Docker Engine 23 or newer with buildx and start it, or set DOCKER_HOST or `docker context use`; "
    "on a bare Debian machine `make engine-start` sets up a private one"
)


class Engine:
    """A reachable engine; use it as a context manager.

    Raises:
        MachineError: on entry, where no engine answers, or it is too old.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._client: docker.DockerClient | None = None
        self.environment = dict(os.environ)
        """The environment in which the same engine is reached."""

    def __enter__(self) -> Engine:
        self._client = _connect(self.environment)
        try:
            version = self._client.version()["Version"]
            major = int(version.split(".")[0])
        except (DockerException, requests.RequestException, KeyError, ValueError) as error:
            self._client.close()
            raise MachineError(
                f"the Docker Engine does not answer as it should: {reason_of(error)}",
                hint=_INSTALL_HINT,
            ) from error
        if major < MINIMUM_MAJOR:
            self._client.close()
            raise MachineError(
                f"the Docker Engine is version {version}, {MINIMUM_MAJOR} is needed",
                hint=_INSTALL_HINT,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.close()

    @property
    def client(self) -> docker.DockerClient:
        """The SDK's client."""
        if self._client is None:
            raise RuntimeError("the engine is used outside its `with` block")
        return self._client

    def image_id(self, reference: str) -> str | None:
        """The id of a local image, or None where the engine has none of that name or id."""
        try:
            found = self.client.images.get(reference).id
        except ImageNotFound:
            return None
        except APIError as error:
            if error.status_code == 400:  # the text is no reference: it names nothing
                return None
            raise
        return str(found) if found else None

    def labels(self, reference: str) -> dict[str, str]:
        """The labels of a local image."""
        return dict(self.client.images.get(reference).labels)

    def pull(self, reference: str) -> str:
        """Pulls an image where the engine does not have it. Returns its id.

        Raises:
            BuildError: the image cannot be had.
        """
        found = self.image_id(reference)
        if found:
            return found
        self._console.say(f"pulling {reference}")
        try:
            pulled = self.client.images.pull(reference, platform="linux/amd64")
        except (APIError, DockerException) as error:
            raise BuildError(
                f"cannot be pulled: {reason_of(error)}",
                where=reference,
                hint="check the name, and `docker login` for a private registry",
            ) from error
        return str(pulled.id)

    def buildx(self, arguments: Sequence[str], *, log: Path, what: str) -> None:
        """Runs `docker buildx build` with what this machine lends as secrets (`bake.image.engine.buildx`).

        Args:
            arguments: What follows `docker buildx build`; the context comes last.
            log: The file that the build's output is appended to.
            what: What is built, for the message.

        Raises:
            BuildError: the build failed; with the end of its output.
            MachineError: buildx is not installed.
        """
        build_image(
            arguments, environment=self.environment, log=log, console=self._console, what=what
        )

    @contextmanager
    def container(self, image: str, *, run: str, **options: Any) -> Iterator[Container]:
        """Creates a container, and removes it on every way out.

        Args:
            image: The image's id or name.
            run: The build folder that the container belongs to.
            options: As `docker.client.containers.create` takes them.
        """
        labels = {RUN_LABEL: run, **options.pop("labels", {})}
        with ExitStack() as stack:
            with _signals_later():
                created = self.client.containers.create(image, labels=labels, **options)
                stack.callback(_remove, created)
            yield created

    def remove_leftovers(self, run: str) -> int:
        """Removes the containers of an earlier, killed bake of the same build folder."""
        left = self.client.containers.list(all=True, filters={"label": f"{RUN_LABEL}={run}"})
        for container in left:
            _remove(container)
        return len(left)


def _connect(environment: dict[str, str]) -> docker.DockerClient:
    """A client of the engine that docker's command line means; `environment` names it, for builds to mean it too.

    The SDK knows no contexts (github.com/docker/docker-py/issues/3146), and would take the default socket.
    """
    if not environment.get("DOCKER_HOST") and (host := _context_host(environment)):
        environment["DOCKER_HOST"] = host
    try:
        return docker.from_env(timeout=_API_TIMEOUT_S, environment=dict(environment))
    except DockerException as error:
        where = environment.get("DOCKER_HOST") or "the default socket"
        raise MachineError(
            f"no Docker Engine answers at {where}: {_why_unreached(error)}", hint=_INSTALL_HINT
        ) from error


def _context_host(environment: Mapping[str, str]) -> str | None:
    """The address of the context that docker's command line is set to; None where that is its default."""
    named = environment.get("DOCKER_CONTEXT") or docker_config(environment).get("currentContext")
    if named in (None, "", "default") or not shutil.which("docker", path=environment.get("PATH")):
        return None
    try:
        shown = capture_command(
            ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"],
            environment=docker_environment(environment),
            timeout_s=_CONTEXT_S,
            most_bytes=1 << 16,
        )
    except (CommandError, TimeoutError, OverflowError, OSError):
        return None  # what the SDK says of the default socket stands
    return shown.decode(errors="replace").strip() or None


@contextmanager
def _signals_later() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back; else they could come between what an engine did and its answer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for held, handler in handlers.items():
            signal.signal(held, handler or signal.SIG_DFL)
        for number in came:
            signal.raise_signal(number)


def _remove(container: Container) -> None:
    try:
        container.remove(force=True, v=True)
    except NotFound:
        pass
    except APIError as error:
        # 409: a removal is under way already
        if error.status_code != 409:
            raise


def _why_unreached(error: BaseException) -> str:
    """What the system says (`Connection refused`), out of what three libraries have wrapped around it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return reason_of(error)


def reason_of(error: BaseException) -> str:
    """What an engine says of a failure, with secrets masked: of a pull it may name an address that is signed."""
    if isinstance(error, APIError) and error.explanation:
        return mask_secrets(str(error.explanation))
    text = str(error)
    return mask_secrets(text.splitlines()[0][:200]) if text else type(error).__name__
