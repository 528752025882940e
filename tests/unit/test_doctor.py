"""`bake doctor`: each thing that a bake needs, in words, with the remedy; a check never raises."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bake import doctor
from bake.doctor import Finding, examine_machine
from bake.errors import MachineError

TOKENS = (
    "CIVITAI_TOKEN",
    "CIVITAI_API_KEY",
    "CIVITAI_TOKEN_FILE",
    "HF_TOKEN",
    "HF_TOKEN_FILE",
    "HUGGING_FACE_HUB_TOKEN",
)


@pytest.fixture(autouse=True)
def good_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An engine with a card, buildx, room, both tokens; each test takes one away."""
    for name in TOKENS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CIVITAI_API_KEY", "a")
    monkeypatch.setenv("HF_TOKEN", "b")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BAKE_STORE", str(tmp_path / "not" / "yet" / "there"))
    monkeypatch.setattr(doctor, "buildx_version", lambda _: "buildx v0.13")
    have_room(monkeypatch, 100 << 30)
    have_engine(monkeypatch, {"ServerVersion": "29.1", "Runtimes": {"runc": {}, "nvidia": {}}})


def have_room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def have_engine(monkeypatch: pytest.MonkeyPatch, about: Mapping[str, Any] | MachineError) -> None:
    @contextmanager
    def entered(_console: object) -> Iterator[Any]:
        if isinstance(about, MachineError):
            raise about
        yield SimpleNamespace(client=SimpleNamespace(info=lambda: about))

    monkeypatch.setattr(doctor, "Engine", entered)


def found(severity: str) -> list[Finding]:
    return [each for each in examine_machine() if each.severity == severity]


def test_a_machine_with_all_that_a_bake_needs(tmp_path: Path) -> None:
    assert [each.what for each in examine_machine()] == [
        "Docker Engine 29.1 answers",
        "the engine can give a container a GPU",
        "buildx v0.13",
        f"the store {tmp_path}/not/yet/there has 100.0 GiB free",
        "CIVITAI_TOKEN is set",
        "HF_TOKEN is set",
    ]
    assert len(found("ok")) == 6


@pytest.mark.parametrize("runtimes", [{"runc": {}}, {}, None])
def test_an_engine_without_a_card_warms_up_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, runtimes: Any
) -> None:
    have_engine(monkeypatch, {"Runtimes": runtimes})
    (warning,) = found("warning")
    assert "no NVIDIA runtime: warm-ups run on the CPU" in warning.what
    assert "NVIDIA container toolkit" in warning.remedy
    assert "Docker Engine of an unknown version answers" in [each.what for each in found("ok")]


def test_what_is_missing_is_an_error_with_its_remedy_and_the_rest_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = MachineError("does not answer", where="DOCKER_HOST", hint="start it")
    have_engine(monkeypatch, error)

    def no_buildx(_environment: object) -> str:
        raise MachineError("docker has no buildx", hint="install docker-buildx-plugin")

    monkeypatch.setattr(doctor, "buildx_version", no_buildx)
    assert [(each.what, each.remedy) for each in found("error")] == [
        ("DOCKER_HOST: does not answer", "start it"),
        ("docker has no buildx", "install docker-buildx-plugin"),
    ]
    assert len(found("ok")) == 3


@pytest.mark.parametrize(
    ("store", "words"), [("/dev/null/x", "cannot be written"), ("", "BAKE_STORE")]
)
def test_a_store_that_cannot_be(monkeypatch: pytest.MonkeyPatch, store: str, words: str) -> None:
    monkeypatch.setenv("BAKE_STORE", store)
    errors = found("error")
    assert len(errors) == bool(store), "an empty value is no value"
    assert all(words in each.what for each in errors)


def test_little_room_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    have_room(monkeypatch, 5 << 30)
    (warning,) = found("warning")
    assert warning.what.endswith("has 5.0 GiB free")
    assert "bake store gc" in warning.remedy


def test_tokens_that_are_not_there_and_a_netrc_that_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CIVITAI_API_KEY")
    monkeypatch.setenv("CIVITAI_TOKEN_FILE", "/run/secrets/civitai")
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / ".netrc").write_text("")
    (warning,) = found("warning")
    assert warning.what.startswith("HF_TOKEN is not set")
    assert warning.remedy == "export HF_TOKEN=… or HF_TOKEN_FILE=…"
    assert found("ok")[-1].what == f"{tmp_path}/.netrc is there, and never read by bake"
