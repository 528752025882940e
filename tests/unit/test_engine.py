"""What the engine's gateway decides without an engine."""

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from types import FrameType

import pytest

from bake.console import Console
from bake.errors import BuildError, MachineError
from bake.image.engine.buildx import build_image, build_secrets, buildx_version, docker_environment
from bake.image.engine.docker import Engine


def test_a_build_is_lent_what_the_machine_has(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("ca.pem", "pip.conf", "git")}
    for file in files.values():
        file.write_text("-----BEGIN CERTIFICATE-----\n")
    environment = {
        "SSL_CERT_FILE": str(files["ca.pem"]),
        "PIP_CONFIG_FILE": str(files["pip.conf"]),
        "BAKE_GIT_CREDENTIALS": str(files["git"]),
    }
    assert build_secrets(environment) == [
        "--secret", f"id=ca_bundle,src={files['ca.pem']}",
        "--secret", f"id=pip_conf,src={files['pip.conf']}",
        "--secret", f"id=git_credentials,src={files['git']}",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["", os.devnull, "/no/such/file"])
def test_what_is_not_there_is_not_lent(path: str) -> None:
    assert build_secrets({"SSL_CERT_FILE": "", "PIP_CONFIG_FILE": path}) == []


def test_docker_gets_what_it_needs_and_no_token(tmp_path: Path) -> None:
    needed = {
        "PATH": "/bin", "HOME": str(tmp_path), "DOCKER_HOST": "unix:///x", "DOCKER_CONFIG": str(tmp_path),
        "BUILDX_BUILDER": "b", "https_proxy": "http://p", "NO_PROXY": "x", "SSL_CERT_FILE": "/c", "LC_ALL": "C",
    }  # fmt: skip
    others = {
        "HF_TOKEN": "t", "CIVITAI_TOKEN": "t", "RUNPOD_API_KEY": "k", "BAKE_STORE": "/s", "PYTHONPATH": "/p",
        "SOURCE_DATE_EPOCH": "1",
    }  # fmt: skip
    cloud = {"AWS_SECRET_ACCESS_KEY": "s", "GOOGLE_APPLICATION_CREDENTIALS": "/g"}
    assert docker_environment({**needed, **others, **cloud}) == needed
    config = tmp_path / "config.json"
    config.write_text('{"credHelpers": {"1.dkr.ecr.example": "ecr-login"}}')
    assert docker_environment({**needed, **others, **cloud}) == {**needed, **cloud}
    config.write_text("[")
    assert docker_environment({**needed, **cloud}) == needed


def test_no_engine_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(MachineError) as caught, Engine(Console(quiet=True)):
        pass
    what = f"no Docker Engine answers at unix://{tmp_path}/no.sock: No such file or directory"
    assert caught.value.what == what
    assert "make engine-start" in str(caught.value)


@pytest.mark.parametrize("does", ["sleep 600", "exit 1", "head -c 200000 /dev/zero"])
def test_a_docker_that_names_no_context_is_the_same_error(
    does: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_docker(tmp_path, does)
    monkeypatch.setenv("DOCKER_CONTEXT", "rootless")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr("docker.utils.utils.DEFAULT_UNIX_SOCKET", f"http+unix://{tmp_path}/no.sock")
    monkeypatch.setattr("bake.image.engine.docker._CONTEXT_S", 0.5)
    with pytest.raises(MachineError, match="no Docker Engine answers at the default socket"):
        Engine(Console(quiet=True)).__enter__()


def test_a_docker_without_buildx_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="the docker command is not installed"):
        buildx_version({"PATH": str(tmp_path)})
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'unknown command: docker buildx' >&2\nexit 1\n")
    docker.chmod(0o755)
    with pytest.raises(MachineError, match="docker buildx is not installed") as caught:
        buildx_version({"PATH": str(tmp_path)})
    assert "docker-buildx-plugin" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["docker.io/library/python:3.10.14-slim", "127.0.0.1:5005/a/b:1"])
def test_a_base_that_cannot_be_pulled_may_be_another(name: str, tmp_path: Path) -> None:
    """In the words of Engine 26.1's BuildKit."""
    said = f"ERROR: failed to solve: x: failed to resolve source metadata for {name}: pull access denied"
    docker = tmp_path / "docker"
    docker.write_text(
        f"#!/bin/sh\n[ $2 = version ] && echo buildx 1 && exit\necho '{said}'\nexit 1\n"
    )
    docker.chmod(0o755)
    with pytest.raises(BuildError, match="the base failed to build") as caught:
        build_image(
            ["."], environment={"PATH": f"{tmp_path}:/bin"}, log=tmp_path / "log",
            console=Console(quiet=True), what="the base",
        )  # fmt: skip
    hint = caught.value.hint or ""
    assert hint.startswith(
        f"{name} cannot be pulled: check the network and `docker login`, or name"
    )
    assert "--build-arg PYTHON_IMAGE=NAME" in hint
    assert hint.endswith(f"the whole output is in {tmp_path}/log")


class Engine29(BaseHTTPRequestHandler):
    """What Engine 29 answers: no API older than 1.44, and no field of an image's config that is not set."""

    def do_GET(self) -> None:
        version = re.match(r"/v1\.(\d+)/", self.path)
        if version and not 44 <= int(version[1]) <= 52:
            old = f"client version 1.{version[1]} is too old. Minimum supported API version is 1.44"
            self.answer(400, {"message": f"{old}, please upgrade your client to a newer version"})
        elif self.path.endswith("/version"):
            self.answer(200, {"Version": "29.1.0", "ApiVersion": "1.52", "MinAPIVersion": "1.44"})
        elif self.path == "/v1.52/images/base/json":
            self.answer(200, {"Id": "sha256:1", "RepoTags": ["base:latest"], "Config": {}})
        else:
            self.answer(404, {"message": "No such image: other:latest"})

    def answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "a unix socket"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the parent's name
        pass


@pytest.fixture
def engine_29(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingUnixStreamServer(str(tmp_path / "socket"), Engine29) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/socket")
        yield
        server.shutdown()


def test_an_engine_that_knows_no_old_api_is_asked_in_its_own(engine_29: None) -> None:
    with Engine(Console(quiet=True)) as engine:
        assert engine.client.api.api_version == "1.52"
        assert engine.image_id("base") == "sha256:1"
        assert engine.labels("base") == {}
        assert engine.image_id("other") is None


def write_docker(folder: Path, does: str) -> None:
    """A docker command line of our own."""
    command = folder / "docker"
    command.write_text(f"#!/bin/sh\n{does}\n")
    command.chmod(0o755)


@pytest.mark.parametrize("chosen", ["by the configuration", "by a variable"])
def test_the_engine_is_the_one_that_docker_is_set_to(
    chosen: str, engine_29: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rootless engines, Docker Desktop and Colima are contexts, which the SDK does not read; builds mean it too."""
    monkeypatch.delenv("DOCKER_HOST")
    write_docker(tmp_path, f'[ "$1 $2" = "context inspect" ] && echo unix://{tmp_path}/socket')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    other = f"http+unix://{tmp_path}/other"
    monkeypatch.setattr("docker.utils.utils.DEFAULT_UNIX_SOCKET", other)
    if chosen == "by a variable":
        monkeypatch.setenv("DOCKER_CONTEXT", "rootless")
    else:
        monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
        (tmp_path / "config.json").write_text('{"currentContext": "rootless"}')
    with Engine(Console(quiet=True)) as engine:
        assert engine.image_id("base") == "sha256:1"
        assert engine.environment["DOCKER_HOST"] == f"unix://{tmp_path}/socket"


def test_an_engine_of_a_context_that_is_down_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another engine, which happens to answer at the default socket, is not what was meant."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONTEXT", "colima")
    write_docker(tmp_path, f"echo unix://{tmp_path}/down")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(MachineError, match=f"no Docker Engine answers at unix://{tmp_path}/down"):
        Engine(Console(quiet=True)).__enter__()


@pytest.mark.parametrize(
    ("variables", "builder"),
    [({}, "--builder default "), ({"BUILDX_BUILDER": "mine"}, "")],
)
def test_a_build_is_the_engines_own_and_for_the_workers_machine(
    variables: dict[str, str], builder: str, tmp_path: Path
) -> None:
    """Whatever `docker buildx use` and DOCKER_DEFAULT_PLATFORM say."""
    write_docker(tmp_path, f'echo buildx 1\necho "$@" > {tmp_path}/command')
    environment = {
        "PATH": f"{tmp_path}:/bin", "DOCKER_DEFAULT_PLATFORM": "linux/arm64", **variables,
    }  # fmt: skip
    log, console = tmp_path / "log", Console(quiet=True)
    build_image(["."], environment=environment, log=log, console=console, what="the base")
    command = (tmp_path / "command").read_text()
    assert command.startswith(f"buildx build {builder}--platform linux/amd64 --progress plain")


class InterruptedEngine:
    """As much of the SDK's client as a container needs; a signal comes while one is created."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.containers = self
        self.made: list[str] = []
        self.removed: list[str] = []

    def create(self, image: str, **_options: object) -> "InterruptedEngine":
        signal.raise_signal(self.number)
        self.made.append(image)
        return self

    def remove(self, **_options: object) -> None:
        self.removed.append(self.made[-1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_container_is_removed_though_a_signal_came_while_it_was_made(
    number: signal.Signals,
) -> None:
    class CameError(Exception):
        pass

    def raise_it(_number: int, _frame: FrameType | None) -> None:
        raise CameError

    engine, client = Engine(Console(quiet=True)), InterruptedEngine(number)
    engine._client = client  # type: ignore[assignment]
    before = signal.signal(number, raise_it)
    try:
        with pytest.raises(CameError), engine.container("base", run="run"):
            raise AssertionError("the signal was lost")
        assert signal.getsignal(number) is raise_it
    finally:
        signal.signal(number, before)
    assert (client.made, client.removed) == (["base"], ["base"])
