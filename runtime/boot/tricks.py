"""The tricks by name, in the order in which they are installed."""

from __future__ import annotations

import importlib

from runtime.boot.context import Context

TRICKS = {
    "pages": "runtime.boot.pages",
    "weights": "runtime.boot.weights",
    "pack": "runtime.boot.pack",
    "gc": "runtime.boot.collector",
    "stack": "runtime.boot.stack",
    "ui": "runtime.boot.ui",
    "lazy": "runtime.boot.lazy",
    "gpu": "runtime.boot.gpu",
    "place": "runtime.boot.place",
    "hashes": "runtime.boot.hashes",
}
"""Name to module; each has `install(context)`. Imported where it is chosen: off costs nothing."""


def install_trick(name: str, context: Context) -> None:
    importlib.import_module(TRICKS[name]).install(context)
