"""What the licences in a lock forbid of what an image is for: serving pictures, and being pushed."""

from __future__ import annotations

from bake.lock import ExtensionPin, Lock, Pin
from bake.weights.sources import is_local


def licence_warnings(lock: Lock) -> list[str]:
    """One text for each pin whose licence forbids or leaves open what an image does; for lock and push."""
    own = [f"{each.key}: {text}" for each in lock.extensions for text in extension_warnings(each)]
    return own + [
        f"{pin.key} ({pin.title or pin.file_name}): {text}"
        for pin in lock.pins
        for text in pin_warnings(pin)
    ]


def pin_warnings(pin: Pin) -> list[str]:
    """What the licence of one forbids, or that none is known; nothing of a file of this machine."""
    if is_local(pin.source):
        return []
    problems = [*_named(pin.licence.name), *_flags(pin)]
    if problems:
        label = f" {pin.licence.name}" if pin.licence.name else ""
        return [f"its licence{label} {'; '.join(problems)}"]
    if pin.licence.name is None and pin.licence.commercial_use is None:
        return ["no licence is known; look at its page before you publish an image of it"]
    return []


def extension_warnings(pin: ExtensionPin) -> list[str]:
    """The same of an extension's code; nothing of a repository of this machine."""
    if is_local(pin.url):
        return []
    if pin.licence is None:
        return ["no licence is known; look at its page before you publish an image of it"]
    if pin.licence.startswith("AGPL"):
        return [
            f"its licence {pin.licence}: whoever is served by the image may ask for its source,"
            " which its address is enough for as long as it is unchanged"
        ]
    return [f"its licence {pin.licence} {text}" for text in _named(pin.licence)]


def describe_licence(pin: Pin) -> str:
    """The licence in a few words, for a table."""
    licence = pin.licence
    if licence.name:
        return licence.name
    if licence.commercial_use is not None:
        allowed = [word for word in licence.commercial_use if word.lower() != "none"]
        return f"commercial use: {', '.join(allowed) or 'none'}"
    return "a file of your own" if is_local(pin.source) else "not known"


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
