"""The step `base`: the image that the webui is in, built or pulled, is in the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bake.image.build.base import build_base
from bake.plan.state import BuildFolder, Document
from bake.plan.step import Earlier, Situation, StepKind
from bake.steps.run import Run

if TYPE_CHECKING:
    from bake.image.engine.docker import Engine


def _document(situation: Situation, _earlier: Earlier) -> Document:
    return situation.base


def _exists(_folder: BuildFolder, engine: Engine, result: Mapping[str, Any]) -> bool:
    return engine.image_id(result["image"]) is not None


BASE = StepKind(name="base", document=_document, exists=_exists)


def make_base(run: Run) -> str:
    """Builds or pulls the base image. Returns its id."""

    def build() -> Mapping[str, Any]:
        return {
            "image": build_base(
                run.base,
                engine=run.engine,
                console=run.context.console,
                log=run.context.folder.log("base"),
            )
        }

    return str(run.step("base", build)["image"])
