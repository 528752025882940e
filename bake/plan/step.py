"""One step of a bake: what it depends on, and whether it has to run.

A step says what its result depends on in a key document, which follows from the manifest, the lock, the
sources of this program and the command line; a later step's document holds an earlier one's key, never its
result. So the whole plan is known before the first step runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bake.lock import ExtensionPin, Lock, Pin
from bake.manifest.model import Manifest
from bake.plan.state import BuildFolder, Document, Record, key_of

if TYPE_CHECKING:
    from bake.image.engine.device import DeviceChoice
    from bake.image.engine.docker import Engine
    from bake.image.oci.model import Layer

StepName = Literal[
    "fetch", "base", "extensions", "warmup", "environment", "runtime", "stream", "assemble", "load", "verify", "push",
]  # fmt: skip
Harvest = Literal["own", "reused", "none"]
"""Of a warm-up with the image's weights; of one with others, without what knows them; of no warm-up."""
_SHOWN_CHANGES = 4


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line adds to the manifest."""

    device: DeviceChoice = "auto"
    build_args: Mapping[str, str]
    push: bool = False
    load: bool = True
    """Whether the engine gets the image; without it, no worker is tried and nothing large is written."""
    store: bool = True
    """Whether weights are brought into the store; without it, they go from their source to the registry."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """All that a plan is decided from: what is asked for, and what was found on this machine."""

    manifest: Manifest
    lock: Lock
    options: Options
    base: Document
    """What the base image depends on (`bake.image.build.base.plan_base`)."""
    record: Callable[[str], Record | None]
    """What is known of a step that was done before, by its name."""
    exists: Callable[[StepName, Mapping[str, Any]], bool]
    """Whether a recorded result is still in its place."""
    missing_pins: Sequence[Pin]
    """Pins whose file the store lacks."""
    missing_extensions: Sequence[ExtensionPin] = ()
    """Those whose files the store lacks."""
    layers: Sequence[Layer] = ()
    """Of the image that was assembled last."""

    @property
    def streamed(self) -> tuple[str, ...]:
        """Keys of the pins that go from their source to the registry."""
        if self.options.store:
            return ()
        return tuple(pin.key for pin in self.missing_pins if not pin.is_stored_always)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a bake, and whether it has to run."""

    name: StepName
    document: Document
    runs: bool
    why: str
    size_bytes: int | None = None
    """Bytes that it moves over the network, where that is known before."""

    @property
    def key(self) -> str:
        """Identifies what the step makes."""
        return key_of(self.document)

    def to_json(self) -> dict[str, Any]:
        """For `bake plan --json`."""
        return {
            "step": self.name,
            "runs": self.runs,
            "why": self.why,
            "bytes": self.size_bytes,
            "key": self.key,
        }


Earlier = Mapping[StepName, Step]
"""The steps that were planned before this one."""


def decide_by_record(
    name: StepName, document: Document, situation: Situation, _earlier: Earlier
) -> Step:
    """Runs unless an equal document is recorded and its result is still there."""
    record = situation.record(name)
    if record is None:
        return Step(name=name, document=document, runs=True, why="it has not been done yet")
    changed = describe_changes(record.document, document)
    if changed:
        return Step(name=name, document=document, runs=True, why=changed)
    if not situation.exists(name, record.result):
        return Step(name=name, document=document, runs=True, why="its result is gone")
    return Step(
        name=name, document=document, runs=False, why="nothing that it depends on has changed"
    )


def _always_exists(_folder: BuildFolder, _engine: Engine, _result: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class StepKind:
    """What a module of `bake/steps` says of its step; the module's function of a verb's name runs it."""

    name: StepName
    document: Callable[[Situation, Earlier], Document | None]
    """What the result depends on; None where this bake has no such step."""
    decide: Callable[[StepName, Document, Situation, Earlier], Step] = decide_by_record
    exists: Callable[[BuildFolder, Engine, Mapping[str, Any]], bool] = _always_exists
    """Whether what a finished step made is still in its place."""


def pinned_weights(lock: Lock) -> Document:
    """The part of a key document that says which weights."""
    return {f"weights {pin.key}": pin.sha256 for pin in lock.pins}


def placed_weights(lock: Lock) -> Document:
    """With their places in the image, which the webui's caches and requests know them by."""
    return {f"weights {pin.key}": f"{pin.place} {pin.sha256}" for pin in lock.pins}


def pinned_extensions(lock: Lock) -> Document:
    """The part of a key document that says which extensions, with the locks of what they need."""
    return {f"extension {pin.name}": " ".join([pin.commit, *pin.stored]) for pin in lock.extensions}


def packing_of(manifest: Manifest) -> Document:
    """The part of a key document that says what a push packs layers with; empty where it leaves them as they are."""
    return {"compression": manifest.compression} if manifest.compression != "gzip" else {}


def scripts_of(manifest: Manifest) -> Document:
    """The part of a key document that says to which scripts a request may give arguments."""
    named = {each.folder: each.scripts for each in manifest.extensions}
    return {f"scripts of {name}": ", ".join(named[name]) for name in sorted(named)}


def total_bytes(pins: Sequence[Pin]) -> int | None:
    """Their bytes together; None where one is unknown."""
    sizes = [pin.size_bytes for pin in pins]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def new_pins(document: Document, situation: Situation) -> list[Pin]:
    """Pins that neither the last stream nor the last push brought into the repository."""
    records = [situation.record("stream"), situation.record("push")]
    before = [
        record.document
        for record in records
        if record and record.document.get("repository") == document["repository"]
    ]
    return [
        pin
        for pin in situation.lock.pins
        if all(each.get(f"weights {pin.key}") != pin.sha256 for each in before)
    ]


def describe_changes(before: Document, after: Document) -> str:
    """Which entries of a key document differ, with old and new value, for people; empty where none does."""
    changed = [
        f"{name} is new"
        if name not in before
        else f"{name} changed ({_short(before[name])} → {_short(value)})"
        for name, value in after.items()
        if before.get(name) != value
    ]
    changed += [f"{name} is gone" for name in before if name not in after]
    further = len(changed) - _SHOWN_CHANGES
    shown = changed[:_SHOWN_CHANGES] + ([f"and {further} more"] if further > 0 else [])
    return ", ".join(shown)


def _short(value: str) -> str:
    """A value as a line has room for it: of a SHA-256, 8 digits."""
    words = [
        word[:8] if len(word) == 64 and not set(word) - set("0123456789abcdef") else word
        for word in value.split(" ")
    ]
    text = " ".join(words)
    return (text if len(text) <= 40 else f"{text[:39]}…") or "nothing"
