"""The step `warmup`: a picture is drawn in a container of the base, and the caches that it left are kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bake import assets
from bake.files import write_atomically
from bake.image.build.warmup import warm_up
from bake.image.oci.layers import TreeLayer
from bake.plan.code import sources_of
from bake.plan.state import BuildFolder, Document, key_of
from bake.plan.step import (
    Earlier,
    Situation,
    Step,
    StepKind,
    StepName,
    decide_by_record,
    placed_weights,
    scripts_of,
)
from bake.steps.run import Run
from runtime.worker import Worker

if TYPE_CHECKING:
    from bake.image.engine.docker import Engine

_INSIDE = ("bake.image.build.warmup_inside", "runtime.boot.*")
"""What runs in the container: the script, and boot, whose modules the webui's command and a table name."""
_OF_THE_PICTURE = ("weights ", "warmup.")
"""Entries that a harvest of other weights may differ in: what was drawn, and with what."""
_NOT_DRAWN = {
    "reused": "the weights are not in the store; the last warm-up's harvest is used, without what "
    "is about its weights",
    "harvest": "the weights are not in the store, and no earlier harvest fits: the worker starts slower",
}
"""Why there is no warm-up, by the entry that its document consists of."""


def _document(situation: Situation, earlier: Earlier) -> Document:
    """The key document of what the image gets of a warm-up, its own or another."""
    own = _own_document(situation, earlier)
    if not situation.streamed:
        return own
    record = situation.record("warmup")
    if record is not None and situation.exists("warmup", record.result):
        if record.document == own:
            return own
        if _start_of(record.document) == _start_of(own):
            return {"reused": key_of(record.document)}
    return {"harvest": "none"}


def _own_document(situation: Situation, earlier: Earlier) -> Document:
    manifest = situation.manifest
    request = manifest.warmup.payload()
    return {
        "base": earlier["base"].key,
        "family": manifest.family,
        **placed_weights(situation.lock),
        "device": situation.options.device,
        "webui.args": json.dumps(manifest.webui.args),
        **({"extensions": earlier["extensions"].key} if "extensions" in earlier else {}),
        **scripts_of(manifest),
        **{f"warmup.{name}": json.dumps(value) for name, value in sorted(request.items())},
        **sources_of(__name__, *_INSIDE),
    }


def _start_of(document: Document) -> Document:
    """What decides what boot records of a start, whatever is drawn."""
    return {name: value for name, value in document.items() if not name.startswith(_OF_THE_PICTURE)}


def _decide(name: StepName, document: Document, situation: Situation, earlier: Earlier) -> Step:
    for entry, why in _NOT_DRAWN.items():
        if entry in document:
            return Step(name=name, document=document, runs=False, why=why)
    return decide_by_record(name, document, situation, earlier)


def _exists(folder: BuildFolder, _engine: Engine, _result: Mapping[str, Any]) -> bool:
    return (folder.root / "harvest").is_dir() and (folder.root / "picture.png").is_file()


WARMUP = StepKind(name="warmup", document=_document, decide=_decide, exists=_exists)


def warm_up_base(
    run: Run, worker: Worker, base: str, *, extensions: TreeLayer | None = None
) -> Mapping[str, Any]:
    """Draws the warm-up picture and keeps what it left in `harvest/`, unless the weights are not here."""
    context, folder = run.context, run.context.folder

    def draw() -> Mapping[str, Any]:
        with folder.temporary_folder("warmup") as scratch:
            harvest = scratch / "harvest"
            harvest.mkdir()
            result = warm_up(
                worker,
                context.manifest.warmup,
                engine=run.engine,
                image=base,
                weights=[(context.store.path_of(w.sha256), w.path) for w in worker.weights],
                device=context.options.device,
                run=folder.identity,
                runtime=assets.package_folder("runtime"),
                harvest=harvest,
                scratch=scratch,
                log=folder.log("warmup"),
                start_timeout_s=context.settings.warmup_start_timeout_s,
                draw_timeout_s=context.settings.warmup_draw_timeout_s,
                console=context.console,
                extensions=extensions.blob if extensions else None,
            )
            shutil.rmtree(folder.root / "harvest", ignore_errors=True)
            harvest.rename(folder.root / "harvest")
            write_atomically(folder.root / "picture.png", result.picture)
        return {
            "device": result.device,
            "loaded_s": result.loaded_s,
            "drawn_s": result.drawn_s,
            "timeline": result.timeline,
            "tricks": result.tricks,
        }

    result = run.step("warmup", draw, draws=True)
    if run.plan.harvest == "own":
        return {"harvest": "own", **result}
    context.console.warn(f"no picture was drawn with these weights: {run.plan.step('warmup').why}")
    return {"harvest": run.plan.harvest}
