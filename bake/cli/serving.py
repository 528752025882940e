"""What `bake try` and `bake serve` have in common on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from bake.cli.options import device_option
from bake.errors import ManifestError
from bake.settings import Settings
from runtime.errors import SettingsError
from runtime.settings import Settings as WorkerSettings

_Function = TypeVar("_Function", bound=Callable[..., Any])


def worker_options(function: _Function) -> _Function:
    """How the worker is run."""
    for option in (
        device_option("What it draws on; auto: the GPU where the engine has one."),
        click.option(
            "--env",
            "variables",
            multiple=True,
            metavar="NAME=VALUE",
            help="A variable of the worker (docs/operations.md#variables).",
        ),
        click.option(
            "--timeout",
            "timeout_s",
            type=click.IntRange(1, 86400),
            default=900,
            show_default=True,
            help="Seconds in which the worker must have started, and say something while it draws.",
        ),
    ):
        function = option(function)
    return function


def make_environment(variables: tuple[str, ...], settings: Settings) -> dict[str, str]:
    """The worker's variables: those of the command line, and our tokens for its LoRAs.

    Raises:
        ManifestError: one is not NAME=VALUE, or the worker would not start with it.
    """
    made = {
        name: token
        for name, token in (
            ("CIVITAI_TOKEN", settings.civitai_token),
            ("HF_TOKEN", settings.huggingface_token),
        )
        if token
    }
    for text in variables:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            shown = f"{name}=…" if equals else name  # the value may be a secret
            raise ManifestError(f"{shown!r} is not NAME=VALUE", where="--env")
        made[name] = value
    try:
        WorkerSettings.from_environment(made)
    except SettingsError as error:
        raise ManifestError(str(error), where="--env") from error
    return made
