"""`alwayson_scripts`: those of the webui's own page, and those of baked extensions. Pure.

The page's own the webui takes through its API and makes nothing of (v1.9.3: `setup_for_ui_only`). Here each argument
counts as the field that it stands for, so that the picture is the one asked for; one that says something else than the
field is an error. The arguments of an extension's script are its own business and go on as they are, but for the
pictures in them, which are fetched and looked at as any other picture is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtime.job.values import check_text, cut, describe
from runtime.worker import Extension

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
Place = tuple[str | int, ...]
"""Keys and indexes that lead to a value in nested objects and lists."""
MOST_PICTURES = 16
_MOST_DEPTH = 12
_LEAST_CHARS = 64
_OF_PICTURES = re.compile("image|mask", re.IGNORECASE)
_ADDRESS = re.compile(r"\s*(?:https?:|data:)", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/=_\s-]{64,}")
_STARTS = re.compile(r"\s*(?:data:image/|iVBORw0KGgo|/9j/|UklGR|R0lGOD|SUkqA|TU0AK)")
"""A data URL, or PNG, JPEG, WebP, GIF and TIFF in base64."""


class Scripts:
    """What a request gives to the scripts of extensions; filled while it is read."""

    def __init__(self, extensions: Sequence[Extension]) -> None:
        self.titles = tuple(title for each in extensions for title in each.scripts)
        self.pictures: dict[str, str] = {}
        self.places: dict[str, Place] = {}
        """Where each of the pictures belongs in the payload, which has null there."""
        self._given: dict[str, Any] = {}

    @property
    def payload(self) -> dict[str, Any]:
        """The webui's field; empty where no script is given anything."""
        return {"alwayson_scripts": self._given} if self._given else {}

    def take(self, name: str, script: object, offered: Mapping[str, int]) -> bool:
        """Takes what a request says of a script; False where no extension's script has that name.

        Args:
            name: The script's, in any case.
            script: What the request says of it.
            offered: The webui's scripts for such a request, and how many arguments each takes.

        Raises:
            ValueError: the webui would answer with an error, or ignore a part of it in silence.
        """
        name = name.lower()
        if name not in map(str.lower, self.titles):
            return False
        if name in self._given:
            raise ValueError(f"{name}: is there twice")
        arguments = _arguments(name, script, offered)
        try:
            found = find_pictures(arguments)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        given: Any = {"args": arguments}
        for inside, text in found.items():
            place = ("alwayson_scripts", name, "args", *inside)
            where = _show(place)
            self.places[where], self.pictures[where] = place, text
            given = put(given, ("args", *inside), None)
        if len(self.pictures) > MOST_PICTURES:
            what = f"{len(self.pictures)} pictures, at most {MOST_PICTURES} are allowed"
            raise ValueError(f"{name}: makes it {what}")
        self._given[name] = given
        return True


def _arguments(name: str, script: object, offered: Mapping[str, int]) -> list[Any]:
    arguments = script.get("args", []) if isinstance(script, Mapping) else None
    if not isinstance(script, Mapping) or not isinstance(arguments, list):
        raise ValueError(f"{name}: must be an object with a list `args`, not {describe(script)}")
    if unknown := sorted(set(script) - {"args"}):
        raise ValueError(f"{name}: has {cut(unknown[0])!r}; only its list `args` is used")
    if name not in offered:
        known = f"there is {', '.join(sorted(offered))}" if offered else "there is none"
        raise ValueError(f"{name}: the webui has no such script for this kind of request; {known}")
    if len(arguments) > offered[name]:
        raise ValueError(f"{name}: has {len(arguments)} arguments, it takes {offered[name]}")
    return arguments


def find_pictures(arguments: object) -> dict[Place, str]:
    """Where in the arguments of a script there are pictures: data URLs, addresses, base64.

    Raises:
        ValueError: there is what no script can be given.
    """
    return {place: text for place, text in _texts(arguments, ()) if _is_picture(place, text)}


def _texts(item: object, place: Place) -> Iterator[tuple[Place, str]]:
    if len(place) > _MOST_DEPTH:
        raise ValueError("is nested too deeply")
    if isinstance(item, str):
        check_text(item)
        yield place, item
    elif isinstance(item, float) and not math.isfinite(item):
        raise ValueError(f"has the number {item}, which JSON has no word for")
    elif isinstance(item, (dict, list)):
        for key, each in item.items() if isinstance(item, dict) else enumerate(item):
            check_text(key)
            yield from _texts(each, (*place, key))


def _is_picture(place: Place, text: str) -> bool:
    """By how it begins or, under a key that speaks of one, by its form."""
    key = next((each for each in reversed(place) if isinstance(each, str)), "")
    if _OF_PICTURES.search(key) and (_ADDRESS.match(text) or _BASE64.fullmatch(text)):
        return True
    return len(text) >= _LEAST_CHARS and _STARTS.match(text) is not None


def put(item: Any, place: Place, value: object) -> Any:
    """A copy of nested objects and lists with another value in one place."""
    if not place:
        return value
    copy: Any = dict(item) if isinstance(item, dict) else list(item)
    copy[place[0]] = put(copy[place[0]], place[1:], value)
    return copy


def _show(place: Place) -> str:
    """`alwayson_scripts.controlnet.args[0].image`."""
    parts = [f"[{each}]" if isinstance(each, int) else f".{cut(each)}" for each in place]
    return "".join(parts).lstrip(".")


def fields_of_script(name: str, script: object, known_too: Sequence[str] = ()) -> dict[str, Any]:
    """The fields that a script's arguments stand for, by the rules of its `setup`.

    Args:
        name: The script's.
        script: What the request says of it.
        known_too: The names of extensions' scripts, for the message.

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
        *others, last = ["Seed", "Sampler", "Refiner", *known_too]
        raise ValueError(f"{cut(name)}: this worker has {', '.join(others)} and {last} only")
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
