"""How a manifest's base is come by, and what its key depends on."""

from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from bake.console import Console
from bake.errors import BuildError, ManifestError
from bake.flock import locked
from bake.image.build.base import BasePlan, build_base, plan_base
from bake.image.engine.docker import Engine
from bake.manifest.load import parse_manifest
from bake.settings import Settings

GOOD = """\
name: a-model
family: demo
checkpoint: file:a.safetensors
warmup:
  prompt: a red circle
image: ghcr.io/you/a-model
"""
PLAIN = "ARG PYTHON_IMAGE=python:3.10\nFROM ${PYTHON_IMAGE}\nARG GREETING=hello\n"


def plan(tmp_path: Path, more: str = "", **build_args: str) -> BasePlan:
    manifest = parse_manifest(GOOD + more, tmp_path / "a-model.yaml")
    return plan_base(manifest, build_args=build_args, settings=Settings(cache=tmp_path))


class Builder:
    """Takes the engine's place."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.calls: list[list[str]] = []
        self.pulled: list[str] = []
        self.keeps = keeps

    def buildx(self, arguments: Sequence[str], *, log: Path, what: str) -> None:
        self.calls.append(list(arguments))

    def image_id(self, reference: str) -> str | None:
        return f"id of {reference}" if self.calls and self.keeps else None

    def pull(self, reference: str) -> str:
        self.pulled.append(reference)
        return "sha256:1"


def build(builder: Builder, planned: BasePlan, log: Path) -> str:
    return build_base(planned, engine=cast(Engine, builder), console=Console(quiet=True), log=log)


@pytest.fixture
def own(tmp_path: Path) -> str:
    """The lines of a manifest with its own Dockerfile."""
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "Dockerfile").write_text(PLAIN)
    return "base:\n  dockerfile: bases/Dockerfile\n"


def test_the_default_base_is_told_the_card_and_needs_its_wheel(tmp_path: Path) -> None:
    planned = plan(tmp_path, "gpu: a100\n")
    assert planned.dockerfile is not None
    assert planned.dockerfile.name == "Dockerfile.base"
    assert planned.build_args == {"CUDA_ARCHITECTURE": "8.0"}
    assert planned.wheel is not None
    assert planned.wheel.architecture == "8.0"
    assert planned.document["xformers wheel"] == planned.wheel.key
    assert planned.wheels == tmp_path / "wheels"


def test_the_default_base_needs_a_card(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"`gpu` is not given[\s\S]*rtx-6000-ada"):
        plan(tmp_path)
    assert plan(tmp_path, CUDA_ARCHITECTURE="9.0").build_args == {"CUDA_ARCHITECTURE": "9.0"}


def test_another_lock_dockerfile_or_argument_is_another_base(tmp_path: Path, own: str) -> None:
    first = plan(tmp_path, own)
    assert first.wheel is None
    assert plan(tmp_path, own, GREETING="hi").document != first.document
    (tmp_path / "bases" / "lock.txt").write_text("1")
    second = plan(tmp_path, own)
    assert second.document["dockerfile"] == first.document["dockerfile"]
    assert second.document["context"] != first.document["context"]
    assert second.tag != first.tag


def test_the_command_line_wins_over_the_manifest(tmp_path: Path, own: str) -> None:
    more = own + "  args: {GREETING: hi, PYTHON_IMAGE: mirror/python}\n"
    planned = plan(tmp_path, more, GREETING="hey")
    assert planned.build_args == {"GREETING": "hey", "PYTHON_IMAGE": "mirror/python"}


def test_a_mistyped_argument_is_refused_with_the_nearest(tmp_path: Path, own: str) -> None:
    with pytest.raises(ManifestError, match=r"GRETING[\s\S]*did you mean GREETING\?"):
        plan(tmp_path, own, GRETING="hi")


def test_a_missing_dockerfile_or_context_is_named(tmp_path: Path, own: str) -> None:
    with pytest.raises(ManifestError, match=r"Containerfile cannot be read"):
        plan(tmp_path, "base:\n  dockerfile: Containerfile\n")
    with pytest.raises(ManifestError, match=r"there is no folder .*nowhere"):
        plan(tmp_path, own + "  context: nowhere\n")


def test_the_build_gets_its_arguments_and_the_context_last(tmp_path: Path, own: str) -> None:
    builder, planned = Builder(), plan(tmp_path, own, GREETING="hi")
    assert build(builder, planned, tmp_path / "log") == f"id of {planned.tag}"
    (call,) = builder.calls
    assert call[call.index("--file") + 1] == str(tmp_path / "bases" / "Dockerfile")
    assert call[call.index("--build-arg") + 1] == "GREETING=hi"
    assert call[-2:] == ["--load", str(tmp_path / "bases")]
    assert "--build-context" not in call


def test_a_wheel_of_the_cache_takes_the_stage_s_place(tmp_path: Path) -> None:
    builder, planned = Builder(), plan(tmp_path, "gpu: a100\n")
    assert planned.wheel is not None
    folder = planned.wheels / planned.wheel.key
    folder.mkdir(parents=True)
    (folder / "xformers-0.0.23.post1-cp310-cp310-linux_x86_64.whl").write_bytes(b"")
    build(builder, planned, tmp_path / "log")
    (call,) = builder.calls
    lent = [call[at + 1] for at, word in enumerate(call) if word == "--build-context"]
    assert lent == [f"xformers={folder}", f"xformers-build={folder}"]


def test_a_ready_image_is_pulled_and_never_built(tmp_path: Path) -> None:
    builder = Builder()
    planned = plan(tmp_path, "base:\n  image: ghcr.io/you/base@sha256:ab\n")
    assert planned.document == {"image": "ghcr.io/you/base@sha256:ab"}
    assert build(builder, planned, tmp_path / "log") == "sha256:1"
    assert (builder.pulled, builder.calls) == (["ghcr.io/you/base@sha256:ab"], [])


def test_an_image_that_the_engine_does_not_have_after_its_build_is_an_error(
    tmp_path: Path, own: str
) -> None:
    with pytest.raises(BuildError, match=r"the engine has no bakery\.local/base:\w{16}"):
        build(Builder(keeps=False), plan(tmp_path, own), tmp_path / "log")


def test_two_bakes_of_the_same_base_build_it_once(tmp_path: Path, own: str) -> None:
    planned, builder = plan(tmp_path, own), Builder()
    key = planned.tag.rpartition(":")[2]
    with ThreadPoolExecutor() as pool:
        with locked(planned.wheels.parent / "locks" / key):
            others = [pool.submit(build, builder, planned, tmp_path / "log") for _ in range(2)]
            with pytest.raises(futures.TimeoutError):
                others[0].result(0.2)
            assert builder.calls == []
        assert {other.result(120) for other in others} == {f"id of {planned.tag}"}
    assert build(builder, planned, tmp_path / "log") == f"id of {planned.tag}"
    assert len(builder.calls) == 1
