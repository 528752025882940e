"""What a bake would do, decided from key documents alone: nothing here runs or writes anything.

Every document of a bake follows from the manifest, the lock, the sources of this repository and the
command line; a later step's document holds an earlier one's key, never its result. So the whole plan
is known before the first step runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bake.assets import REPOSITORY
from bake.lock import Lock, Pin
from bake.manifest.model import Manifest
from bake.plan.state import Document, Record, hash_tree, key_of

if TYPE_CHECKING:
    from bake.image.oci.model import Layer

StepName = Literal[
    "fetch", "base", "warmup", "environment", "runtime", "stream", "assemble", "load", "verify", "push",
]  # fmt: skip
Harvest = Literal["own", "reused", "none"]
"""Of a warm-up with the image's weights; of one with others, without what knows them; of no warm-up."""
DeviceChoice = Literal["auto", "cuda", "cpu"]
ASSEMBLY_VERSION = "3"
"""Goes up when the same inputs are put together in another way."""
VERIFY_VERSION = "2"
_HARVESTED_FROM = (
    "base", "family", "device", "webui.args", "runtime/boot", "warm-up script",
)  # fmt: skip
"""What a harvest depends on, its entries about single files aside."""
_NO_WARMUP: Mapping[Harvest, str] = {
    "reused": "the weights are not in the store; the last warm-up's harvest is used, without what "
    "is about its weights",
    "none": "the weights are not in the store, and no earlier harvest fits: the worker starts slower",
}


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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All steps of a bake, in the order in which they run."""

    steps: tuple[Step, ...]
    harvest: Harvest = "own"
    """What the image gets of a warm-up."""
    streamed: tuple[str, ...] = ()
    """Keys of the pins that go from their source to the registry."""

    def step(self, name: StepName) -> Step:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What was found on this machine before planning."""

    record: Callable[[str], Record | None]
    exists: Callable[[StepName, Mapping[str, Any]], bool]
    """Whether a recorded result is still in its place."""
    missing_pins: Sequence[Pin]
    """Pins whose file the store lacks."""
    layers: Sequence[Layer] = ()
    """Of the image that was assembled last."""


def plan_bake(
    manifest: Manifest, lock: Lock, *, base: Document, options: Options, known: Known
) -> Plan:
    """Decides for every step whether it runs, and why."""
    streamed = () if options.store else tuple(pin.key for pin in known.missing_pins)
    warmup = _warmup_document(manifest, lock, base=base, options=options)
    harvest, warmup = _choose_harvest(warmup, known, can_draw=not streamed)
    documents = _documents(
        manifest, lock, base=base, options=options, warmup=warmup, streamed=streamed
    )
    steps = []
    for name, document in documents.items():
        if name == "fetch":
            steps.append(_plan_fetch(document, known, streamed))
        elif name == "warmup" and harvest != "own":
            steps.append(Step(name=name, document=document, runs=False, why=_NO_WARMUP[harvest]))
        elif name == "stream":
            steps.append(_plan_stream(document, lock, known, streamed))
        elif name == "push":
            is_assembled = not any(step.runs for step in steps if step.name == "assemble")
            steps.append(_plan_push(document, lock, known, streamed, is_assembled=is_assembled))
        else:
            steps.append(_plan_step(name, document, known))
    return Plan(steps=tuple(steps), harvest=harvest, streamed=streamed)


def _choose_harvest(own: Document, known: Known, *, can_draw: bool) -> tuple[Harvest, Document]:
    """What the image gets of a warm-up, and the key document of that."""
    if can_draw:
        return "own", own
    record = known.record("warmup")
    if record is not None and known.exists("warmup", record.result):
        if record.document == own:
            return "own", own
        if all(record.document.get(name) == own[name] for name in _HARVESTED_FROM):
            return "reused", {"reused": key_of(record.document)}
    return "none", {"harvest": "none"}


def _warmup_document(
    manifest: Manifest, lock: Lock, *, base: Document, options: Options
) -> Document:
    return {
        "base": key_of(base),
        "family": manifest.family,
        **_placed_weights(lock),
        "device": options.device,
        "webui.args": json.dumps(manifest.webui.args),
        "warmup": manifest.warmup.model_dump_json(),
        "runtime/boot": hash_tree(REPOSITORY / "runtime" / "boot"),
        "warm-up script": hash_tree(REPOSITORY / "bake/image/build/warmup_inside.py"),
    }


def _documents(
    manifest: Manifest,
    lock: Lock,
    *,
    base: Document,
    options: Options,
    warmup: Document,
    streamed: Sequence[str],
) -> dict[StepName, Document]:
    """Each step's key document, in the order in which the steps run."""
    weights = pinned_weights(lock)
    final = hash_tree(REPOSITORY / "Dockerfile.final")
    python_image = options.build_args.get(
        "PYTHON_IMAGE", manifest.base.args.get("PYTHON_IMAGE", "")
    )
    documents: dict[StepName, Document] = {"fetch": weights, "base": base, "warmup": warmup}
    documents["environment"] = {
        "Dockerfile.final": final,
        "python image": python_image,
        "requirements/runtime.txt": hash_tree(REPOSITORY / "requirements" / "runtime.txt"),
    }
    documents["runtime"] = {
        "Dockerfile.final": final,
        "python image": python_image,
        "runtime": hash_tree(REPOSITORY / "runtime"),
    }
    if streamed:
        own = {f"weights {pin.key}": pin.sha256 for pin in lock.pins if pin.key in streamed}
        documents["stream"] = {**own, "repository": manifest.image}
    documents["assemble"] = {
        **{name: key_of(documents[name]) for name in ("base", "warmup", "environment", "runtime")},
        **_placed_weights(lock),
        "lock": hashlib.sha256(lock.to_json().encode()).hexdigest(),
        "webui.args": json.dumps(manifest.webui.args),
        "limits": json.dumps(manifest.limits, sort_keys=True),
        "name": manifest.name,
        "image": manifest.image,
        "assembly": ASSEMBLY_VERSION,
        # The image is the same, but not where its bytes are to be found.
        **({"streamed": ", ".join(streamed)} if streamed else {}),
    }
    image = {"image": key_of(documents["assemble"])}
    if options.load:
        documents["load"] = image
    documents["verify"] = {**image, "checks": VERIFY_VERSION, "worker": str(options.load)}
    if options.push:
        documents["push"] = {**image, **weights, "repository": manifest.image}
    return documents


def pinned_weights(lock: Lock) -> Document:
    """The part of a key document that says which weights."""
    return {f"weights {pin.key}": pin.sha256 for pin in lock.pins}


def _placed_weights(lock: Lock) -> Document:
    """With their names in the image, which the webui's caches and requests know them by."""
    return {f"weights {pin.key}": f"{pin.name}{pin.suffix} {pin.sha256}" for pin in lock.pins}


def _plan_fetch(document: Document, known: Known, streamed: Sequence[str]) -> Step:
    missing = known.missing_pins
    if not missing:
        return Step(name="fetch", document=document, runs=False, why="the store holds every file")
    names = ", ".join(pin.key for pin in missing)
    if streamed:
        why = f"the store is not wanted; it lacks {names}"
        return Step(name="fetch", document=document, runs=False, why=why)
    return Step(
        name="fetch",
        document=document,
        runs=True,
        why=f"the store lacks {names}",
        size_bytes=_total(missing),
    )


def _plan_stream(document: Document, lock: Lock, known: Known, streamed: Sequence[str]) -> Step:
    """Always runs, as a push does: only the registry knows what it has."""
    new = [pin for pin in _new_pins(document, lock, known) if pin.key in streamed]
    named = f"straight from their sources to the registry: {', '.join(pin.key for pin in new)}"
    return Step(
        name="stream",
        document=document,
        runs=True,
        why=named if new else "the registry is asked what it lacks of the weights",
        size_bytes=_total(new),
    )


def _plan_push(
    document: Document, lock: Lock, known: Known, streamed: Sequence[str], *, is_assembled: bool
) -> Step:
    """Always runs: it is cheap where nothing is missing, and only the registry knows whether anything is."""
    new = [pin for pin in _new_pins(document, lock, known) if pin.key not in streamed]
    named = f"; weights that it had not at the last push: {', '.join(pin.key for pin in new)}"
    record = known.record("push")
    is_first = record is None or record.document.get("repository") != document["repository"]
    pushed = [] if record is None or is_first else record.result.get("layers", [])
    there = {layer["digest"] for layer in pushed}
    others = [
        layer.size_bytes
        for layer in known.layers
        if layer.kind != "weights" and layer.digest not in there
    ]
    why = "the registry is asked what it lacks" + (named if new else "")
    if not is_assembled:
        why += f"; not counted: {'the base and ' if is_first else ''}what is made anew"
    weights = _total(new)
    return Step(
        name="push",
        document=document,
        runs=True,
        why=why,
        size_bytes=None if weights is None else weights + (sum(others) if is_assembled else 0),
    )


def _new_pins(document: Document, lock: Lock, known: Known) -> list[Pin]:
    """Pins that neither the last stream nor the last push brought into the repository."""
    records = [known.record("stream"), known.record("push")]
    before = [
        record.document
        for record in records
        if record and record.document.get("repository") == document["repository"]
    ]
    return [
        pin
        for pin in lock.pins
        if all(each.get(f"weights {pin.key}") != pin.sha256 for each in before)
    ]


def _total(pins: Sequence[Pin]) -> int | None:
    """Their bytes; None where one is unknown."""
    sizes = [pin.size_bytes for pin in pins]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _plan_step(name: StepName, document: Document, known: Known) -> Step:
    record = known.record(name)
    if record is None:
        return Step(name=name, document=document, runs=True, why="it has not been done yet")
    changed = describe_changes(record.document, document)
    if changed:
        return Step(name=name, document=document, runs=True, why=changed)
    if not known.exists(name, record.result):
        return Step(name=name, document=document, runs=True, why="its result is gone")
    return Step(
        name=name, document=document, runs=False, why="nothing that it depends on has changed"
    )


def describe_changes(before: Document, after: Document) -> str:
    """Which entries of a key document differ, for people; empty where none does."""
    changed = [
        f"{name} is new" if name not in before else f"{name} changed"
        for name, value in after.items()
        if before.get(name) != value
    ]
    changed += [f"{name} is gone" for name in before if name not in after]
    return ", ".join(changed)
