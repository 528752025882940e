"""Moving pins: what was published since, the manifest edit that takes it, and what changes by it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bake.errors import ManifestError
from bake.lock import ExtensionPin, Lock, Pin
from bake.manifest.load import parse_manifest
from bake.manifest.model import Manifest
from bake.manifest.yaml import parse_yaml
from bake.weights.context import Context, Newer, bake_errors
from bake.weights.providers import parse_pinned, provider_for
from bake.weights.sites.civitai_records import families_of

_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One pin and what was published after it."""

    pin: Pin
    newer: tuple[Newer, ...] | None
    """The newest first; None where the source cannot be asked for versions."""


def find_standing(context: Context, manifest: Manifest, pin: Pin) -> Standing:
    """Asks a pin's source for what came after it, limited to what the manifest's family can use.

    Raises:
        SourceError: it does not answer.
    """
    source = parse_pinned(pin.source, where=pin.key)
    provider = provider_for(source)
    with bake_errors(pin.key):
        newer = provider.newer(context, source, pin) if provider else None
    if newer is None:
        return Standing(pin=pin, newer=None)
    fitting = tuple(each for each in newer if _fits(each, manifest.family))
    return Standing(pin=pin, newer=fitting)


def _fits(newer: Newer, family: str) -> bool:
    families = families_of(newer.base_model)
    return families is None or family in families


def find_keys(manifest: Manifest, name: str | None) -> list[str]:
    """The manifest keys that NAME means: a key (`loras.x`), a bare name (`x`), or all of them, extensions too.

    Raises:
        ManifestError: there is none, or there are two.
    """
    keys = [entry.key for entry in manifest.sources()]
    keys += [f"extensions.{each.folder}" for each in manifest.extensions]
    if name is None:
        return keys
    found = [key for key in keys if name in (key, key.partition(".")[2])]
    exact = [key for key in found if key == name]
    if len(exact or found) != 1:
        what = "names two keys" if found else "names no source of the manifest"
        raise ManifestError(
            f"{name} {what}", where=str(manifest.path), hint=f"choose one of {', '.join(keys)}"
        )
    return exact or found


def next_source(standing: Standing) -> str | None:
    """What to write into the manifest for the newest version; None where the text can stay.

    A source that follows a branch (or names no revision) moves by being pinned again.
    """
    if not standing.newer:
        return None
    source = parse_pinned(standing.pin.source, where=standing.pin.key)
    if source.provider == "huggingface" and not _COMMIT.match(source.revision or ""):
        return None
    return standing.newer[0].source


def edit_manifest(manifest: Manifest, text: str, changes: dict[str, str]) -> tuple[str, Manifest]:
    """Puts new sources in place of old ones, each where its value stands; all else stays as it is.

    The text is edited, not written anew from what was parsed: that would lose what YAML does not mean,
    such as line ends, spaces and the indentation of lists.

    Raises:
        ManifestError: a source is written in a way that only its author can change.
    """
    document = parse_yaml(text)
    lines = text.splitlines(keepends=True)
    entries = {entry.key: entry for entry in manifest.sources()}
    for key, source in changes.items():
        entry = entries[key]
        line, column = document.value_of(tuple(key.split(".", 1))) or (0, 0)
        before, value = lines[line][:column], lines[line][column:]
        if entry.source not in value:
            raise _by_hand(f"{manifest.path}:{entry.line}", {key: source})
        lines[line] = before + value.replace(entry.source, source, 1)
    edited = "".join(lines)
    parsed = parse_manifest(edited, manifest.path)
    wanted = {key: changes.get(key, entry.source) for key, entry in entries.items()}
    if {entry.key: entry.source for entry in parsed.sources()} != wanted:
        raise _by_hand(str(manifest.path), changes)
    return edited, parsed


def _by_hand(where: str, changes: dict[str, str]) -> ManifestError:
    wanted = ", ".join(f"{key}: {source}" for key, source in changes.items())
    return ManifestError(
        "the line cannot be edited by a program", where=where, hint=f"write {wanted} by hand"
    )


def describe_changes(old: Pin | ExtensionPin, new: Pin | ExtensionPin) -> list[str]:
    """`field: before → after` of everything that differs, but for the day."""
    lines = []
    for each in dataclasses.fields(old):
        before, after = getattr(old, each.name), getattr(new, each.name)
        if each.name == "resolved_on" or before == after:
            continue
        lines.append(f"{each.name}: {_shown(before)} → {_shown(after)}")
    return lines


def _shown(value: object) -> str:
    if value is None or value == ():
        return "unknown"
    if isinstance(value, tuple):
        return ", ".join(str(each) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        known = {name: each for name, each in dataclasses.asdict(value).items() if each is not None}
        return (
            ", ".join(f"{name}={_shown(each)}" for name, each in sorted(known.items())) or "unknown"
        )
    return str(value)


def without(lock: Lock, keys: Sequence[str]) -> Lock:
    """The lock with these pins left out, so that they are pinned afresh."""
    return dataclasses.replace(
        lock,
        pins=tuple(pin for pin in lock.pins if pin.key not in keys),
        extensions=tuple(pin for pin in lock.extensions if pin.key not in keys),
    )
