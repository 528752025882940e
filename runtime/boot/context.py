"""One start: its arguments, and the moments that tricks wait for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from runtime.boot import hooks, timeline

HARVEST = "/opt/bakery/harvest"
"""Where an image keeps what a warm-up recorded for boot; `$BAKERY_HARVEST` overrides it."""


class Context:
    """What a trick is given."""

    def __init__(self, *, script: str, arguments: tuple[str, ...], began: float) -> None:
        self.script = script
        self.arguments = arguments
        self.began = began
        self.chosen: tuple[str, ...] = ()
        self.is_recording = bool(os.environ.get("BAKERY_RECORD"))
        self.prepared: Any = None
        """The checkpoint that `weights` prepares (`runtime.boot.tricks.weights.Prepared`)."""
        self.has_model_hook = False
        self.model_is_loaded = False
        self._when_loaded: list[Callable[[], None]] = []

    @property
    def harvest(self) -> str:
        """The folder with `modules.pack` and `hashes.json`; may not exist."""
        return os.environ.get("BAKERY_HARVEST") or HARVEST

    def option(self, name: str) -> str | None:
        """The value of `--name VALUE` or `--name=VALUE`, the last one, as argparse takes it."""
        value = None
        for number, word in enumerate(self.arguments):
            if word == name and number + 1 < len(self.arguments):
                value = self.arguments[number + 1]
            elif word.startswith(f"{name}="):
                value = word[len(name) + 1 :]
        return value

    @property
    def device(self) -> str:
        """`cpu` or `cuda`: what the worker chose, else what the webui's arguments say."""
        chosen = os.environ.get("BAKERY_DEVICE")
        if chosen in ("cpu", "cuda"):
            return chosen
        return "cuda" if self.option("--use-cpu") is None else "cpu"

    def has_flag(self, name: str) -> bool:
        return name in self.arguments

    def when_loaded(self, function: Callable[[], None]) -> None:
        """Calls the function once, when the webui's first model has been loaded."""
        self._when_loaded.append(function)

    def watch_model(self) -> None:
        """Writes the event `model` when AUTOMATIC1111's `sd_models.load_model` first returns."""
        hooks.after_import("modules.sd_models", self._wrap_load, trick="the event `model`")

    def _wrap_load(self, sd_models: Any) -> None:
        upstream = sd_models.load_model
        self.has_model_hook = True
        # Tells the runtime to wait for the event, however long it takes, and not to ask for a picture.
        timeline.write("model-expected", self.began)

        def load_model(*args: object, **kwargs: object) -> object:
            began = time.monotonic()
            try:
                model = upstream(*args, **kwargs)
            except BaseException as error:
                timeline.write("model-failed", began, error=repr(error)[:500])
                raise
            if not self.model_is_loaded:
                self.model_is_loaded = True
                timeline.write("model", began)
                for function in self._when_loaded:
                    function()
            return model

        sd_models.load_model = load_model
