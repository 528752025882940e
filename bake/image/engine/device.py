"""A container on the engine's GPU, or on the CPU where it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal

from docker.errors import APIError
from docker.models.containers import Container
from docker.types import DeviceRequest

from bake.image.engine.docker import reason_of
from runtime.worker import Device

DeviceChoice = Literal["auto", "cuda", "cpu"]
_NO_GPU = ("could not select device driver", "nvidia-container-cli", "CDI")
"""What engines say where there is no GPU, or no NVIDIA container toolkit."""


_OTHER_CARD = (
    "no kernel image is available",  # torch, by CUDA's error 209
    "but was built for sm",  # xformers' kernels: "is for sm80-sm100, but was built for sm89"
    "requires device with capability",  # xformers, as it chooses a kernel
)


class ContainerStartError(Exception):
    """The engine does not start a container; the text is its reason."""

    def __init__(self, error: APIError) -> None:
        self.reason = reason_of(error)
        super().__init__(self.reason)

    @property
    def lacks_gpu(self) -> bool:
        """Whether the engine has no GPU to give, which on the CPU would not matter."""
        return any(sign in self.reason for sign in _NO_GPU)


def gpu_requests(device: Device) -> list[DeviceRequest]:
    """What a container asks for to compute on `cuda`, all GPUs of the engine, or on `cpu`, nothing."""
    return [DeviceRequest(count=-1, capabilities=[["gpu"]])] if device == "cuda" else []


def explain_other_card(said: str) -> str:
    """What to do where a webui's words tell of a card that its base has no code for; empty where they do not.

    A base is built for the manifest's card (`gpu`), and the machine that bakes may have another.
    """
    if not any(sign in said for sign in _OTHER_CARD):
        return ""
    return (
        "the base has code for the manifest's `gpu` alone, and this machine's card is another: --device cpu draws"
        " without it; a check that tries no worker: bake verify IMAGE --no-start"
    )


@contextmanager
def running(
    choice: DeviceChoice, make: Callable[[Device], AbstractContextManager[Container]]
) -> Iterator[tuple[Device, Container]]:
    """Starts a container, and removes it on every way out.

    Args:
        choice: `auto` takes the GPU where the engine has one.
        make: Creates the container for a device, with what `gpu_requests` says; called again where there is no GPU.

    Yields:
        The device that it was, and the started container.

    Raises:
        ContainerStartError: the engine does not start it.
    """
    with ExitStack() as stack:
        if choice == "auto":
            try:
                container = stack.enter_context(_started(make, "cuda"))
            except ContainerStartError as refused:
                if not refused.lacks_gpu:
                    raise
            else:
                yield "cuda", container
                return
        chosen: Device = "cuda" if choice == "cuda" else "cpu"
        yield chosen, stack.enter_context(_started(make, chosen))


@contextmanager
def _started(
    make: Callable[[Device], AbstractContextManager[Container]], device: Device
) -> Iterator[Container]:
    """Some engines refuse a GPU as a container is created, others as it starts."""
    with ExitStack() as stack:
        try:
            container = stack.enter_context(make(device))
            container.start()
        except APIError as error:
            raise ContainerStartError(error) from error
        yield container
