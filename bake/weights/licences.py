"""What the licences in a lock forbid of what an image is for: serving pictures, and being pushed."""

from __future__ import annotations

from bake.lock import Lock, Pin
from bake.weights.sources import is_local


def licence_warnings(lock: Lock) -> list[str]:
    """One text for each pin whose licence forbids or leaves open what an image does; for lock and push."""
    return [text for pin in lock.pins for text in _warnings(pin)]


def _warnings(pin: Pin) -> list[str]:
    shown = f"{pin.key} ({pin.title or pin.file_name})"
    if is_local(pin.source):
        return []
    problems = [*_named(pin.licence.name), *_flags(pin)]
    if problems:
        label = f" {pin.licence.name}" if pin.licence.name else ""
        return [f"{shown}: its licence{label} {'; '.join(problems)}"]
    if pin.licence.name is None and pin.licence.commercial_use is None:
        return [f"{shown}: no licence is known; look at its page before you publish an image of it"]
    return []


def _named(name: str | None) -> list[str]:
    """Creative Commons' parts say it in the name; `nc` and `nd` are words of their own there."""
    parts = (name or "").lower().replace("_", "-").split("-")
    problems = []
    if "nc" in parts or "noncommercial" in parts or "non" in parts:
        problems.append("forbids commercial use, of the image and of its pictures' sale")
    if "nd" in parts:
        problems.append("forbids passing on changed versions")
    return problems


def _flags(pin: Pin) -> list[str]:
    allowed = pin.licence.commercial_use
    if allowed is None:
        return []
    words = {word.lower() for word in allowed}
    problems = []
    if not words or words == {"none"}:
        problems.append("forbids commercial use")
    else:
        if "image" not in words:
            problems.append("forbids selling pictures made with it")
        if "rent" not in words:
            problems.append("forbids running it in a paid generation service")
        if "sell" not in words:
            problems.append("forbids selling it, an image that holds it included")
    return problems
