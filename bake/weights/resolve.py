"""From a manifest to its lock: every source is pinned to one exact file."""

from __future__ import annotations

import dataclasses
import re
from pathlib import PurePosixPath

from bake.console import Console
from bake.errors import ManifestError, SourceError
from bake.extensions.resolve import check_extensions, pin_extensions
from bake.lock import Lock, Pin
from bake.manifest.model import Manifest, SourceEntry, config_key
from bake.manifest.roles import ROLES
from bake.settings import Settings
from bake.weights.check import (
    Facts,
    a_role,
    check_name,
    check_stored,
    check_together,
    check_weights,
)
from bake.weights.context import Context, Found, bake_errors, today
from bake.weights.fetch import download_once, look_at
from bake.weights.licences import licence_warnings
from bake.weights.providers import parse_pinned, provider_for
from bake.weights.sites import local
from bake.weights.sites.civitai_records import families_of
from bake.weights.sources import is_local
from bake.weights.store import Store

_STEM = re.compile(r"[^A-Za-z0-9._-]+")


def resolve_lock(
    manifest: Manifest,
    *,
    previous: Lock | None,
    settings: Settings,
    store: Store,
    console: Console,
) -> Lock:
    """Asks every source and gives the lock; the caller writes it.

    A pin whose source text is unchanged is kept as it is, without asking, unless its size is still
    unknown or its source is a local file (which is read again: it may have changed under its name).

    Raises:
        SourceError: a source does not answer, or does not fit the manifest or another source.
        ManifestError: two files would get the same name in the image.
    """
    context = Context(settings=settings, store=store, console=console, folder=manifest.path.parent)
    kept = {pin.key: pin for pin in previous.pins} if previous else {}
    pins: list[Pin] = []
    seen: dict[str, Facts] = {}
    for entry in manifest.sources():
        if entry.role == "config":
            entry = _beside(entry, pins)  # noqa: PLW2901
        old = kept.get(entry.key)
        same_text = old is not None and old.source == entry.source and old.role == entry.role
        if old is not None and same_text and _is_final(old):
            if old.version_id is not None:  # the family may be another than when it was pinned
                _refuse_family(families_of(old.base_model), old.base_model, entry, manifest.family)
            console.skip(f"pin {entry.key}", "it is in the lock already")
            pins.append(old)
        else:
            with console.step(f"pin {entry.key}", entry.source):
                pin, facts = _resolve_entry(
                    context, entry, manifest, previous=old if same_text else None
                )
                warnings = []
                if store.has(pin.sha256):
                    warnings = check_stored(store.path_of(pin.sha256), manifest, pin)
                elif facts is not None:
                    seen[pin.key] = facts
                    warnings = check_weights(facts, manifest, pin)
                for warning in warnings:
                    console.warn(warning)
                pins.append(pin)
    _refuse_same_names(manifest, pins)
    refuse_same_places(manifest, pins)
    check_together(manifest, pins, store, seen)
    lock = Lock(
        manifest_name=manifest.name,
        family=manifest.family,
        pins=tuple(pins),
        extensions=pin_extensions(
            manifest.extensions,
            previous=previous.extensions if previous else (),
            context=context,
        ),
    )
    check_extensions(lock, context)
    for warning in licence_warnings(lock):
        console.warn(warning)
    return lock


def _beside(entry: SourceEntry, pins: list[Pin]) -> SourceEntry:
    """A config has the name of its checkpoint's file."""
    checkpoint = next(pin for pin in pins if config_key(pin.key) == entry.key)
    return dataclasses.replace(entry, name=checkpoint.name)


def _resolve_entry(
    context: Context, entry: SourceEntry, manifest: Manifest, *, previous: Pin | None
) -> tuple[Pin, Facts | None]:
    """Pins one source afresh; also what its header says, where it is not in the store.

    A previous pin of the same text keeps its day, if the answer is the same.
    """
    facts = None
    where = entry.key
    source = parse_pinned(entry.source, where=where)
    provider = provider_for(source)
    with bake_errors(where):
        if provider is None:
            found = local.find_file(context, source, where=where)
            sha256 = local.take_file(context, source, where=where, expected=None)
            size: int | None = context.store.size_of(sha256)
        else:
            found = provider.find(context, source)
            _refuse_mismatch(found, entry, manifest)
            sha256, size = found.sha256 or "", found.size_bytes
            if not sha256:
                sha256, size = download_once(context, provider, source, found, where=where)
            elif not context.store.has(sha256):
                look = look_at(context, provider, source, found)
                size, facts = look.size_bytes or size, look.facts
            elif size is None:
                size = context.store.size_of(sha256)
    if previous is not None and provider is not None and previous.sha256 != sha256:
        raise SourceError(
            f"the source now has SHA256 {sha256}, the lock says {previous.sha256}",
            where=where,
            hint="bake update MANIFEST moves the pin, if the change is meant",
        )
    pin = _make_pin(entry, found, sha256=sha256, size_bytes=size, previous=previous)
    return pin, facts


def _refuse_mismatch(found: Found, entry: SourceEntry, manifest: Manifest) -> None:
    """Compares what a source says of its file with the manifest, before gigabytes are fetched.

    Raises:
        SourceError: another kind of file, a pickle that is not allowed, or another family.
    """
    where = _shown(entry)
    if found.role not in (None, entry.role) and not ROLES[entry.role].is_path:
        what = f"the source is {a_role(found.role)}, not {a_role(entry.role)}"
        hint = "put it under the right key, or choose another source"
        raise SourceError(what, where=where, hint=hint)
    check_name(found.file_name, entry.role, allow_pickle=manifest.allow_pickle, where=where)
    _refuse_family(found.families, found.base_model, entry, manifest.family)


def _refuse_family(
    families: tuple[str, ...] | None, base_model: str | None, entry: SourceEntry, family: str
) -> None:
    if families is not None and family != "demo" and family not in families:
        raise SourceError(
            f"the source is made for {base_model}, the manifest's family is {family}",
            where=_shown(entry),
            hint="correct `family`, or choose another source",
        )


def _shown(entry: SourceEntry) -> str:
    return f"{entry.key} ({entry.source})"


def _make_pin(
    entry: SourceEntry, found: Found, *, sha256: str, size_bytes: int | None, previous: Pin | None
) -> Pin:
    pin = Pin(
        key=entry.key,
        role=entry.role,
        name=entry.name or image_name(found.file_name),
        source=entry.source,
        file_name=found.file_name,
        size_bytes=size_bytes,
        sha256=sha256,
        url=found.url,
        title=found.title,
        model_id=found.model_id,
        version_id=found.version_id,
        file_id=found.file_id,
        revision=found.revision,
        base_model=found.base_model,
        published_at=found.published_at,
        trigger_words=found.trigger_words,
        licence=found.licence,
        resolved_on=today(),
    )
    if previous is not None:
        same_day = dataclasses.replace(pin, resolved_on=previous.resolved_on)
        if same_day == previous:
            return previous
    return pin


def image_name(file_name: str) -> str:
    """The name of a file in the image, from its name at the source: `My Model (v2).ckpt` → `My_Model_v2`."""
    stem = PurePosixPath(file_name).stem
    return _STEM.sub("_", stem).strip("._-") or "weights"


def _is_final(pin: Pin) -> bool:
    return pin.size_bytes is not None and not is_local(pin.source)


def _refuse_same_names(manifest: Manifest, pins: list[Pin]) -> None:
    seen: dict[tuple[str, str], Pin] = {}
    for pin in pins:
        name = pin.name if ROLES[pin.role].is_path else pin.name.lower()
        other = seen.setdefault((pin.role, name), pin)
        if other is not pin:
            raise ManifestError(
                f"{other.key} and {pin.key} would both be named {pin.name} in the image",
                where=str(manifest.path),
                hint=f"give one of them another name under {ROLES[pin.role].key}",
            )


def refuse_same_places(manifest: Manifest, pins: list[Pin]) -> None:
    """Two files of one folder at one place, or one where another needs a folder."""
    places: dict[tuple[str, PurePosixPath], Pin] = {}
    for pin in pins:
        other = places.setdefault((ROLES[pin.role].folder, pin.place), pin)
        if other is not pin:
            raise ManifestError(
                f"{other.key} and {pin.key} would both lie at {pin.place} in the image",
                where=str(manifest.path),
                hint="give one of them another name",
            )
    for (folder, place), pin in places.items():
        for parent in place.parents:
            if file := places.get((folder, parent)):
                raise ManifestError(
                    f"{pin.key} would lie in the folder {parent}, and {file.key} is a file there",
                    where=str(manifest.path),
                    hint="give one of them another name",
                )
