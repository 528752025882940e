"""The steps `environment` and `runtime`: the stages of Dockerfile.final, each a layer on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bake import assets
from bake.files import hash_tree
from bake.image.build.thin import ThinTarget, build_thin_layer
from bake.image.oci.layers import TreeLayer
from bake.plan.code import sources_of
from bake.plan.state import BuildFolder, Document
from bake.plan.step import Earlier, Situation, StepKind
from bake.steps.run import Run

if TYPE_CHECKING:
    from bake.image.engine.docker import Engine


def _environment(situation: Situation, _earlier: Earlier) -> Document:
    files = (assets.RUNTIME_LOCK, assets.RUNTIME_TRIM)
    hashes = {f"requirements/{file.name}": hash_tree(file) for file in files}
    return {**_of_both(situation), **hashes}


def _runtime(situation: Situation, _earlier: Earlier) -> Document:
    return {**_of_both(situation), "runtime": hash_tree(assets.package_folder("runtime"))}


def _of_both(situation: Situation) -> Document:
    args = {**situation.manifest.base.args, **situation.options.build_args}
    return {
        "Dockerfile.final": hash_tree(assets.DOCKERFILE_FINAL),
        "python image": args.get("PYTHON_IMAGE", ""),
        **sources_of(__name__, "bake.image.engine.buildx"),
    }


def _exists(_folder: BuildFolder, _engine: Engine, result: Mapping[str, Any]) -> bool:
    blob = Path(result["blob"])
    return blob.is_file() and blob.stat().st_size == result["size_bytes"]


ENVIRONMENT = StepKind(name="environment", document=_environment, exists=_exists)
RUNTIME = StepKind(name="runtime", document=_runtime, exists=_exists)


def make_thin_layer(run: Run, target: ThinTarget) -> TreeLayer:
    """Builds one stage of Dockerfile.final into a layer."""
    folder = run.context.folder

    def build() -> Mapping[str, Any]:
        with folder.temporary_folder(target) as scratch:
            layer = build_thin_layer(
                target,
                engine=run.engine,
                build_args=run.base.build_args,
                blob=folder.root / "layers" / f"{target}.tar.gz",
                scratch=scratch,
                log=folder.log(target),
            )
        return {**dataclasses.asdict(layer), "blob": str(layer.blob)}

    result = run.step(target, build)
    return TreeLayer(**{**result, "blob": Path(result["blob"])})
