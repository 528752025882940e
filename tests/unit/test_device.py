"""A container starts on the GPU where the engine has one, else on the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import cast

import pytest
from docker.errors import APIError, DockerException
from docker.models.containers import Container

from bake.errors import BuildError
from bake.image.build.warmup import _read_answer
from bake.image.engine.device import ContainerStartError, DeviceChoice, gpu_requests, running
from bake.image.engine.docker import reason_of
from bake.image.engine.load import _check
from bake.image.verify.worker import _failed
from bake.serve.job import read_problem
from runtime.worker import Device

NO_DRIVER = 'could not select device driver "" with capabilities: [[gpu]]'


class Containers:
    """Creates containers of which those for some devices do not start; knows which are left."""

    def __init__(self, *, at_create: bool = False, **refusals: str) -> None:
        self.refusals = refusals
        self.at_create = at_create
        self.made: list[Device] = []
        self.left: list[Device] = []

    def make(self, device: Device) -> AbstractContextManager[Container]:
        reason = self.refusals.get(device)

        class Made:
            def start(self) -> None:
                if reason:
                    raise APIError("500 Server Error", explanation=reason)

        @contextmanager
        def created() -> Iterator[Container]:
            self.made.append(device)
            if reason and self.at_create:
                raise APIError("500 Server Error", explanation=reason)
            self.left.append(device)
            try:
                yield cast("Container", Made())
            finally:
                self.left.remove(device)

        return created()


@pytest.mark.parametrize("at_create", [False, True])
@pytest.mark.parametrize(
    ("choice", "refusals", "chosen", "made"),
    [
        ("auto", {}, "cuda", ["cuda"]),
        ("auto", {"cuda": NO_DRIVER}, "cpu", ["cuda", "cpu"]),
        ("cuda", {}, "cuda", ["cuda"]),
        ("cpu", {"cuda": NO_DRIVER}, "cpu", ["cpu"]),
    ],
)
def test_the_first_device_that_the_engine_has(
    choice: DeviceChoice,
    refusals: dict[str, str],
    chosen: Device,
    made: list[Device],
    at_create: bool,
) -> None:
    containers = Containers(at_create=at_create, **refusals)
    with running(choice, containers.make) as (device, _):
        assert device == chosen
        assert containers.left == [chosen]
    assert containers.made == made
    assert not containers.left


@pytest.mark.parametrize("at_create", [False, True])
@pytest.mark.parametrize(
    ("choice", "refusals", "reason", "lacks_gpu"),
    [
        # a name or port that is taken says nothing of GPUs: on the CPU it would hide what is wrong
        ("auto", {"cuda": "port is already allocated"}, "port is already allocated", False),
        ("cuda", {"cuda": NO_DRIVER}, NO_DRIVER, True),
        ("auto", {"cuda": NO_DRIVER, "cpu": "no such image"}, "no such image", False),
    ],
)
def test_a_refusal_that_is_not_about_gpus_is_told(
    choice: DeviceChoice, refusals: dict[str, str], reason: str, lacks_gpu: bool, at_create: bool
) -> None:
    containers = Containers(at_create=at_create, **refusals)
    with (
        pytest.raises(ContainerStartError) as caught,
        running(choice, containers.make),
    ):
        pytest.fail("it must not start")
    assert (caught.value.reason, caught.value.lacks_gpu) == (reason, lacks_gpu)
    assert not containers.left


def test_what_breaks_while_it_runs_is_no_refusal_to_start() -> None:
    containers = Containers()
    with pytest.raises(APIError, match="gone"), running("auto", containers.make):
        raise APIError("gone")
    assert (containers.made, containers.left) == (["cuda"], [])


def test_an_engines_reason_shows_no_signed_address() -> None:
    """Docker's, as it stands in public reports of pulls that time out."""
    said = 'Get "https://r2.example/blobs/1/data?X-Amz-Credential=a&X-Amz-Signature=0123abcd": net/http: TLS handshake timeout'
    for reason in (
        ContainerStartError(APIError("500", explanation=said)).reason,
        reason_of(APIError(said)),
        reason_of(DockerException(f"{said}\nand more")),
    ):
        assert "https://r2.example/blobs/1/data?***" in reason
        assert "0123abcd" not in reason
    assert reason_of(DockerException()) == "DockerException"
    with pytest.raises(BuildError, match=r"data\?\*\*\*") as caught:
        _check({"error": said})
    assert "0123abcd" not in str(caught.value)


NO_CODE = "RuntimeError: CUDA error: no kernel image is available for execution on the device"


class Ended:
    """A container of which a log is left."""

    def logs(self, **_how: object) -> bytes:
        return NO_CODE.encode()


def test_a_card_that_the_base_has_no_code_for_is_named(tmp_path: Path) -> None:
    """Other cards' code is left out of a base: on a machine with one, a bake says what to do."""
    failed = {"reason": "the webui drew nothing", "last_lines": [NO_CODE]}
    (tmp_path / "failure.json").write_text(json.dumps(failed))
    container = cast("Container", Ended())
    with pytest.raises(BuildError) as caught:
        _read_answer(tmp_path, container, status=1, log=tmp_path / "log")
    hints = [caught.value.hint, _failed("the job failed", container).check.remedy]
    hints.append(read_problem({"detail": NO_CODE}).hint)
    for hint in hints:
        assert "this machine's card is another: --device cpu draws without it" in str(hint)
    failed["last_lines"] = ["CUDA out of memory"]
    (tmp_path / "failure.json").write_text(json.dumps(failed))
    with pytest.raises(BuildError) as caught:
        _read_answer(tmp_path, container, status=1, log=tmp_path / "log")
    assert "whole output" in str(caught.value.hint)
    assert read_problem({"detail": "no"}).hint is None


def test_what_is_asked_of_the_engine() -> None:
    assert gpu_requests("cpu") == []
    assert [dict(each) for each in gpu_requests("cuda")] == [
        {"Driver": "", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
    ]
