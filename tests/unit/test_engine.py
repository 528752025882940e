"""What the engine's gateway decides without an engine."""

import os
import signal
from pathlib import Path
from types import FrameType

import pytest

from bake.console import Console
from bake.errors import MachineError
from bake.image.engine.buildx import build_secrets, buildx_version, docker_environment
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
    assert f"no Docker Engine answers at unix://{tmp_path}/no.sock" in caught.value.what
    assert "make engine-start" in str(caught.value)


def test_a_docker_without_buildx_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="the docker command is not installed"):
        buildx_version({"PATH": str(tmp_path)})
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'unknown command: docker buildx' >&2\nexit 1\n")
    docker.chmod(0o755)
    with pytest.raises(MachineError, match="docker buildx is not installed") as caught:
        buildx_version({"PATH": str(tmp_path)})
    assert "docker-buildx-plugin" in (caught.value.hint or "")


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
