"""A container starts on the GPU where the engine has one, else on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

import pytest
from docker.errors import APIError
from docker.models.containers import Container

from bake.image.engine.device import ContainerStartError, DeviceChoice, gpu_requests, running
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


def test_what_is_asked_of_the_engine() -> None:
    assert gpu_requests("cpu") == []
    assert [dict(each) for each in gpu_requests("cuda")] == [
        {"Driver": "", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
    ]
