"""The tricks by name, and which of them are on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

TRICKS = {
    "weights": "weights",
    "ahead": "ahead",
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


HARMLESS = frozenset({"ahead", "pack", "gc", "stack", "hashes"})
"""They bring the same code and bytes sooner, or look at them less: on without a proof."""
ON_DEVICE = frozenset({"weights", "gpu", "place"})
"""They put something on the device: a proof on another kind of device says nothing of them."""
RECORDED: frozenset[str] = frozenset()
"""Kinds of device on which a record in docs/records/ shows that all tricks draw upstream's picture."""


def proven_on(device: str, proof: Mapping[str, Sequence[str]] | None) -> frozenset[str]:
    """What a worker on this kind of device (`cpu`, `cuda`) uses unless the operator says otherwise.

    Args:
        device: Where the webui computes.
        proof: From a warm-up: kind of device to the tricks with which it drew upstream's own picture, bit
            by bit; None where there was no warm-up.
    """
    if proof is None:
        return HARMLESS
    if device in proof:
        return frozenset(proof[device])
    elsewhere = frozenset(name for names in proof.values() for name in names)
    return elsewhere if device in RECORDED else elsewhere - ON_DEVICE


def choose(text: str, names: Sequence[str], proven: Collection[str]) -> tuple[list[str], list[str]]:
    """Reads `BAKERY_BOOT`.

    Args:
        text: `proven` or empty; `all`, proven or not; `plain`; `-gc,-ui` (what is proven, but not these),
            `all,-gc`; `gc,ui` (only these, proven or not).
        names: Every trick, in the order in which they are installed.
        proven: Those that are on by default.

    Returns:
        The chosen names in that order, and the words that are no trick's name (the caller logs them:
        a mistyped switch must not keep a worker from starting).
    """
    words = {word.strip() for word in text.split(",")} - {"", "proven"}
    if words == {"plain"}:
        return [], []
    off = {word[1:] for word in words if word.startswith("-")}
    only = {word for word in words - {"all"} if not word.startswith("-")}
    unknown = sorted((off | only) - set(names))
    on = only & set(names) or (names if "all" in words else proven)
    return [name for name in names if name in on and name not in off], unknown
