"""Values as JSON brings them: into the type of a field, or into a message that stays short whatever it is."""

from __future__ import annotations

import contextlib
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from runtime.job.fields import Field

_KINDS: Mapping[str, tuple[str, Any]] = {
    "integer": ("a whole number", int),
    "number": ("a number", (int, float)),
    "boolean": ("true or false", bool),
    "string": ("a string", str),
    "name": ("a string", str),
    "identifier": ("a string or a whole number", (str, int)),
    "strings": ("a list of strings", list),
    "object": ("an object", dict),
    "list": ("a list", list),
    "entries": ("a list of objects or names", list),
    "image": ("a picture: base64, a data URL or an https address", str),
    "images": ("a list of pictures: base64, data URLs or https addresses", list),
}
"""In words, and the types that JSON gives it."""
_TRUTHS: Mapping[object, bool] = {
    **dict.fromkeys((1, "1", "on", "t", "true", "y", "yes"), True),
    **dict.fromkeys((0, "0", "off", "f", "false", "n", "no"), False),
}
"""What the webui's pydantic 1 takes for a boolean; true and false are equal to 1 and 0."""


def read_value(field: Field, item: object, limits: Mapping[str, int]) -> Any:
    """The item in its Python type, within the field's bounds.

    Raises:
        ValueError: what is wrong with it, to be put behind the field's name.
    """
    if field.only is not None:
        with contextlib.suppress(ValueError):
            if (value := None if item is None else _convert(field.kind, item)) in field.only:
                return value
        raise ValueError(f"is not possible in a worker: {field.meaning}")
    value = _convert(field.kind, item)
    for text in value if field.kind in {"strings", "images"} else [value]:
        check_text(text)
    if field.choices and value not in field.choices:
        hint = suggest(value, field.choices)
        raise ValueError(f"must be one of {', '.join(field.choices)}{hint}")
    if field.form is not None and not re.fullmatch(field.form[0], value):
        raise ValueError(f"must be {field.form[1]}")
    _check_bounds(field, value, limits[field.limit] if field.limit else field.maximum)
    return value


def _convert(kind: str, item: object) -> Any:
    """As the webui's pydantic 1 converts, but for what would change a value (20.7 steps, true as a number)."""
    words, types = _KINDS[kind]
    value: object = item
    if kind == "strings" and isinstance(item, list):
        value = [_as_text(each) for each in item]
    elif kind in {"string", "name"}:
        value = _as_text(item)
    elif kind == "boolean" and isinstance(item, (str, int, float)):
        value = _TRUTHS.get(item.lower() if isinstance(item, str) else item)
    elif kind in {"integer", "number"} and isinstance(item, str):
        with contextlib.suppress(ValueError):
            value = (int if kind == "integer" else float)(item)
    elif kind == "integer" and isinstance(item, float) and item.is_integer():
        value = int(item)  # JSON from other languages may spell 20 as 20.0
    fits = isinstance(value, types) and isinstance(value, bool) == (kind == "boolean")
    if isinstance(value, float):
        fits = fits and math.isfinite(value)
    if kind in {"strings", "images"} and isinstance(value, list):
        fits = all(isinstance(each, str) for each in value)
    if not fits:
        # What may be a picture is shown nowhere.
        shown = "a string" if kind == "images" and isinstance(item, str) else describe(item)
        raise ValueError(f"must be {words}, not {shown}")
    return str(value) if kind == "identifier" else value


def _as_text(item: object) -> object:
    """A number as the text that pydantic makes of it; anything else as it is."""
    is_number = isinstance(item, (int, float)) and not isinstance(item, bool)
    return str(item) if is_number and not _is_huge(item) else item


def _is_huge(item: object) -> bool:
    """Python turns whole numbers above 4,300 digits into no text."""
    return isinstance(item, int) and abs(item) > 10**1000


def check_text(text: object) -> None:
    """Half a surrogate pair breaks the SDK's answer and loses the job."""
    if isinstance(text, str):
        if "\x00" in text:
            raise ValueError("contains a null character")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("is not valid Unicode (half of a surrogate pair)") from error


def _check_bounds(field: Field, value: Any, maximum: float | None) -> None:
    if isinstance(value, (str, list)):
        if maximum is not None and len(value) > maximum:
            what = "characters" if isinstance(value, str) else "entries"
            raise ValueError(f"has {len(value)} {what}, at most {maximum} are allowed")
    elif field.minimum is not None and value < field.minimum:
        raise ValueError(f"must be at least {field.minimum}, not {describe(value)}")
    elif maximum is not None and value > maximum:
        raise ValueError(f"must be at most {maximum}, not {describe(value)}")
    elif field.multiple_of and value % field.multiple_of:
        raise ValueError(f"must be a multiple of {field.multiple_of}, not {value}")


def describe(item: object) -> str:
    """A value in a message: short, and never a deep structure's repr."""
    if item is None or isinstance(item, bool):
        return {None: "null", True: "true", False: "false"}[item]
    if isinstance(item, str):
        return f"the string {cut(item)!r}"
    if isinstance(item, (int, float)):
        is_huge = isinstance(item, int) and abs(item) > 10**20
        return "a number beyond 10^20" if is_huge else str(item)
    return "a list" if isinstance(item, list) else "an object"


def cut(text: object) -> str:
    """At most 60 characters that can be printed, of a name that a client made up."""
    line = str(text)[:60].encode("utf-8", "replace").decode()
    return "".join(each if each.isprintable() else "?" for each in line)


def suggest(wrong: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` or nothing; case does not count."""
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(wrong[:100].lower(), by_lower, n=1, cutoff=0.6)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""
