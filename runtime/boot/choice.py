"""The tricks by name, and which of them are on."""

from __future__ import annotations

from collections.abc import Sequence

TRICKS = {
    "pages": "pages",
    "weights": "weights",
    "cpu": "cpu_memory",
    "pack": "pack",
    "gc": "collector",
    "stack": "stack",
    "ui": "ui",
    "lazy": "lazy",
    "gpu": "gpu",
    "place": "place",
    "hashes": "hashes",
}
"""Name to module of `runtime.boot.tricks`, in the order in which they are installed; each has `install(context)`.
Imported where it is chosen: off costs nothing."""


def choose(text: str, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Reads `BAKERY_BOOT`.

    Args:
        text: `all` or empty; `plain`; `-gc,-ui` (all but these); `gc,ui` (only these).
        names: Every trick, in the order in which they are installed.

    Returns:
        The chosen names in that order, and the words that are no trick's name (the caller logs them:
        a mistyped switch must not keep a worker from starting).
    """
    words = [word.strip() for word in text.split(",") if word.strip() not in ("", "all")]
    if words == ["plain"]:
        return [], []
    off = {word[1:] for word in words if word.startswith("-")}
    only = {word for word in words if not word.startswith("-")}
    unknown = sorted((off | only) - set(names))
    only &= set(names)
    chosen = [name for name in names if name not in off and (not only or name in only)]
    return chosen, unknown
