"""`gpu`: the CUDA context, and the first use of what draws a picture, are made beside the imports.

The context comes from the driver itself, before torch is there: torch finds it, as its runtime works in the
device's primary context, too (CUDA Driver API, "Primary Context Management"). The first convolution, matrix product,
norm and attention load libraries and code onto the card, which took upstream's first job "about 2.7 seconds"
(`first_time_calculation` in modules/devices.py).

On a machine without a GPU, with `--use-cpu` and with `--device-id`, there is nothing to do.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from runtime.boot import timeline
from runtime.boot.context import Context
from runtime.boot.hooks import after_import

_is_made = threading.Event()
"""The context is there."""


def install(context: Context) -> None:
    if context.option("--use-cpu") is not None or context.option("--device-id") is not None:
        return
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:  # a machine without a card
        return
    # As torch sets it; the driver looks when it begins, which is now.
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    kind = "float32" if context.has_flag("--no-half") else "float16"
    _beside("gpu context", make_context, cuda)
    after_import("torch", lambda torch: _beside("gpu first use", use, torch, kind), trick="gpu")
    attend = partial(_beside, "gpu first attention", use_attention)
    after_import("xformers.ops", lambda ops: attend(ops, kind), trick="gpu")


def _beside(event: str, function: Callable[..., None], *arguments: Any) -> None:
    def work() -> None:
        try:
            with timeline.span(event):
                function(*arguments)
        except Exception as error:  # noqa: BLE001  # the webui says itself what is wrong with the GPU
            timeline.log(f"{event} is off: {error!r}")

    threading.Thread(target=work, daemon=True, name="boot-gpu").start()


def make_context(cuda: Any) -> None:
    """The first card's primary context, held to the process's end.

    Args:
        cuda: The driver's library.

    Raises:
        OSError: one of its calls failed.
    """
    device, handle = ctypes.c_int(), ctypes.c_void_p()
    for name, arguments in (
        ("cuInit", (ctypes.c_uint(0),)),
        ("cuDeviceGet", (ctypes.byref(device), ctypes.c_int(0))),
        ("cuDevicePrimaryCtxRetain", (ctypes.byref(handle), device)),
    ):
        if status := getattr(cuda, name)(*arguments):
            raise OSError(status, f"{name} failed")
    _is_made.set()


def use(torch: Any, kind: str) -> None:
    """A convolution, group norms and a matrix product, as small as they get."""
    _is_made.wait()
    functional = torch.nn.functional
    with torch.no_grad():
        picture = torch.zeros((1, 32, 8, 8), dtype=getattr(torch, kind), device="cuda")
        weight = torch.zeros((32, 32, 3, 3), dtype=picture.dtype, device="cuda")
        functional.conv2d(picture, weight, padding=1)
        functional.group_norm(picture, 32)
        functional.group_norm(picture.float(), 32)
        rows = picture.view(64, 32)
        torch.matmul(rows, rows.t())
        torch.cuda.synchronize()


def use_attention(ops: Any, kind: str) -> None:
    """xformers', of one head as SD1.5 has them."""
    _is_made.wait()
    torch = sys.modules["torch"]
    with torch.no_grad():
        rows = torch.zeros((1, 64, 1, 40), dtype=getattr(torch, kind), device="cuda")
        ops.memory_efficient_attention(rows, rows, rows)
        torch.cuda.synchronize()
