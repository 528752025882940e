"""A webui that tells which kernels computed its attention: `python -m runtime.boot attention.py ARGS…`.

Runs the script that `WEBUI_SCRIPT` names, with counters around xformers' operators and torch's own function, and
writes `{"name of the operator": calls}` to `PROBE_FILE` at every call. It is for a start of its own, which is not
measured; xformers' names say whether flash attention (`flshatt…`) or CUTLASS (`cutlass…`) drew.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from runtime.boot import hooks
from runtime.boot.context import Context
from runtime.boot.start import run_script

_calls: Counter[str] = Counter()
_lock = threading.Lock()


def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which notes each call under this name."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with _lock:
            _calls[name] += 1
            write()
        return function(*args, **kwargs)

    return call


def write() -> None:
    """At each call, since the process is killed in the end; whole, since it is read meanwhile."""
    path = os.environ["PROBE_FILE"]
    with open(f"{path}.new", "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(_calls, file)
    os.replace(f"{path}.new", path)  # noqa: PTH105


def watch_xformers(fmha: Any) -> None:
    """Its operators are classes; the dispatcher calls `apply` of the one that it chose."""
    for operator in fmha.ALL_FW_OPS:
        operator.apply = staticmethod(counted(operator.NAME, operator.apply))


def watch_torch(functional: Any) -> None:
    name = "scaled_dot_product_attention"
    setattr(functional, name, counted(f"torch.{name}", getattr(functional, name)))


if __name__ == "__main__":
    write()
    hooks.after_import("xformers.ops.fmha", watch_xformers, trick="the probe of xformers")
    hooks.after_import("torch.nn.functional", watch_torch, trick="the probe of torch")
    script = os.environ["WEBUI_SCRIPT"]
    run_script(Context(script=script, arguments=tuple(sys.argv[1:]), began=time.monotonic()))
