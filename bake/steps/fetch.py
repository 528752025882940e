"""The step `fetch`: every file of the lock is in the store, verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bake.extensions.resolve import check_extensions, fetch_extension
from bake.lock import ExtensionPin, Pin
from bake.plan.state import Document
from bake.plan.step import (
    Earlier,
    Situation,
    Step,
    StepKind,
    StepName,
    pinned_extensions,
    pinned_weights,
    total_bytes,
)
from bake.steps.run import Run
from bake.steps.stream import check_source
from bake.weights.check import Facts, check_stored, check_together
from bake.weights.context import Context as Surroundings
from bake.weights.fetch import fetch_pin


def _document(situation: Situation, _earlier: Earlier) -> Document:
    return {**pinned_weights(situation.lock), **pinned_extensions(situation.lock)}


def _decide(name: StepName, document: Document, situation: Situation, _earlier: Earlier) -> Step:
    """The store is asked, not a record: another manifest may have brought or removed a file."""
    extensions = situation.missing_extensions
    if not situation.missing_pins and not extensions:
        return Step(name=name, document=document, runs=False, why="the store holds every file")
    missing = [pin for pin in situation.missing_pins if pin.key not in situation.streamed]
    why = f"the store lacks {_names([*missing, *extensions])}"
    if not missing and not extensions:
        why = f"the store is not wanted; it lacks {_names(situation.missing_pins)}"
    elif missing and situation.streamed:
        why += ", small pickles that are looked through before they are baked"
    return Step(
        name=name,
        document=document,
        runs=bool(missing or extensions),
        why=why,
        size_bytes=total_bytes(missing) if missing else None,
    )


def _names(pins: Sequence[Pin | ExtensionPin]) -> str:
    return ", ".join(pin.key for pin in pins)


FETCH = StepKind(name="fetch", document=_document, decide=_decide)


def fetch_weights(run: Run) -> None:
    """Brings what the store lacks, verified."""
    context = run.context
    surroundings = Surroundings(
        settings=context.settings,
        store=context.store,
        console=context.console,
        folder=context.manifest.path.parent,
    )

    def fetch() -> Mapping[str, Any]:
        for pin in run.lock.pins:
            if pin.key in run.plan.streamed:
                continue
            fetch_pin(
                pin,
                store=context.store,
                settings=context.settings,
                console=context.console,
                folder=context.manifest.path.parent,
            )
        for extension in run.lock.extensions:
            fetch_extension(extension, surroundings)
        return {}

    run.step("fetch", fetch)
    # Header reads only, so also of what was there: another manifest may have brought it for another family.
    seen: dict[str, Facts] = {}
    for pin in run.lock.pins:
        if pin.key in run.plan.streamed:
            facts = check_source(context, pin)
            if facts is not None:
                seen[pin.key] = facts
        else:
            path = context.store.path_of(pin.sha256)
            for warning in check_stored(path, context.manifest, pin):
                context.console.warn(warning)
    check_together(context.manifest, run.lock.pins, context.store, seen)
    check_extensions(run.lock, surroundings)
