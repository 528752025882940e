"""`gpu`: the CUDA context, which takes a second or more to make, is made beside the imports.

On a machine without a GPU, and with `--use-cpu all`, there is nothing to do.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from runtime.boot import timeline
from runtime.boot.context import Context
from runtime.boot.hooks import after_import


def install(context: Context) -> None:
    if context.option("--use-cpu") is None:
        after_import("torch", _start, trick="gpu")


def _start(torch: Any) -> None:
    def work() -> None:
        began = time.monotonic()
        try:
            if torch.cuda.is_available():
                # An allocation, not only `init`: the context is made by the first one.
                torch.zeros(1, device="cuda")
                timeline.write("gpu context", began)
        except Exception as error:  # noqa: BLE001  # the webui says itself what is wrong with the GPU
            timeline.log(f"gpu is off: {error!r}")

    threading.Thread(target=work, daemon=True, name="boot-gpu").start()
