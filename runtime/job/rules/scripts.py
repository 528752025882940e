"""`alwayson_scripts` as the webui's own page and the clients that copy it send them.

Through its API the webui takes them and makes nothing of them (v1.9.3: `setup_for_ui_only`). Here each argument counts
as the field that it stands for, so that the picture is the one asked for; one that says something else than the field
is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.job.values import cut, describe

_ARGUMENTS = {
    "seed": (
        "seed",
        "extras",
        "subseed",
        "subseed_strength",
        "seed_resize_from_w",
        "seed_resize_from_h",
    ),
    "sampler": ("steps", "sampler_name", "scheduler"),
    "refiner": ("enabled", "refiner_checkpoint", "refiner_switch_at"),
}
"""In the order of modules/processing_scripts/*.py."""


def fields_of_script(name: str, script: object) -> dict[str, Any]:
    """The fields that a script's arguments stand for, by the rules of its `setup`.

    Raises:
        ValueError: this worker has no such script, or the arguments are no list.
    """
    arguments = script.get("args", []) if isinstance(script, Mapping) else script
    if not isinstance(arguments, list):
        raise ValueError(
            f"{cut(name)}: must be an object with a list `args`, not {describe(arguments)}"
        )
    known = _ARGUMENTS.get(name.lower())
    if known is None and arguments:
        raise ValueError(f"{cut(name)}: this worker has Seed, Sampler and Refiner only")
    given = dict(zip(known or (), arguments, strict=False))
    if not given.pop("extras", False):
        given = _without(
            given, ("subseed", "subseed_strength", "seed_resize_from_w", "seed_resize_from_h")
        )
    if not given.pop("enabled", False):
        given = _without(given, ("refiner_checkpoint", "refiner_switch_at"))
    return given


def _without(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {key: item for key, item in given.items() if key not in names}
