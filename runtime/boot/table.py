"""The tricks by name, in the order in which they are installed."""

from __future__ import annotations

import importlib

from runtime.boot.context import Context

TRICKS = {
    "pages": "runtime.boot.tricks.pages",
    "weights": "runtime.boot.tricks.weights",
    "pack": "runtime.boot.tricks.pack",
    "gc": "runtime.boot.tricks.collector",
    "stack": "runtime.boot.tricks.stack",
    "ui": "runtime.boot.tricks.ui",
    "lazy": "runtime.boot.tricks.lazy",
    "gpu": "runtime.boot.tricks.gpu",
    "place": "runtime.boot.tricks.place",
    "hashes": "runtime.boot.tricks.hashes",
}
"""Name to module; each has `install(context)`. Imported where it is chosen: off costs nothing."""


def install_trick(name: str, context: Context) -> None:
    importlib.import_module(TRICKS[name]).install(context)
