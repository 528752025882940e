"""The step `extensions`: the webui's extensions at their places, compiled, with the packages that they need: one layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bake import assets
from bake.extensions.requirements import Requirement, lacking, parse_requirements
from bake.extensions.resolve import read_text
from bake.extensions.tree import unpack_archive
from bake.files import hash_tree
from bake.image.build.thin import build_thin_layer
from bake.image.final.packages import packages_of_base, site_packages_of
from bake.image.oci.layers import TreeLayer
from bake.plan.code import sources_of
from bake.plan.state import BuildFolder, Document
from bake.plan.step import Earlier, Situation, StepKind, pinned_extensions
from bake.steps.run import Run
from runtime.worker import HOME, Worker

if TYPE_CHECKING:
    from bake.image.engine.docker import Engine

PACKAGES = f"{HOME}/packages"
"""What extensions need and the base lacks. Python looks there last: the base's own packages stay what they are."""


def _document(situation: Situation, earlier: Earlier) -> Document | None:
    if not situation.lock.extensions:
        return None
    args = {**situation.manifest.base.args, **situation.options.build_args}
    return {
        "Dockerfile.final": hash_tree(assets.DOCKERFILE_FINAL),
        "python image": args.get("PYTHON_IMAGE", ""),
        "base": earlier["base"].key,
        **pinned_extensions(situation.lock),
        **sources_of(__name__, "bake.image.engine.buildx"),
    }


def _exists(_folder: BuildFolder, _engine: Engine, result: Mapping[str, Any]) -> bool:
    blob = Path(result["blob"])
    return blob.is_file() and blob.stat().st_size == result["size_bytes"]


EXTENSIONS = StepKind(name="extensions", document=_document, exists=_exists)


def make_extensions(run: Run, worker: Worker, base: str) -> TreeLayer | None:
    """Builds the layer; None where the manifest has no extensions.

    Raises:
        SourceError: what they need does not go together with what the base has.
        BuildError: the build failed.
    """
    if not run.lock.extensions:
        return None
    folder = run.context.folder

    def build() -> Mapping[str, Any]:
        with folder.temporary_folder("extensions") as scratch:
            files = scratch / "extension-files"
            _lay_out(run, worker, base, files)
            layer = build_thin_layer(
                "extensions",
                engine=run.engine,
                build_args=run.base.build_args,
                blob=folder.root / "layers" / "extensions.tar.gz",
                scratch=scratch,
                log=folder.log("extensions"),
                contexts={"extension-files": files},
            )
        return {**dataclasses.asdict(layer), "blob": str(layer.blob)}

    result = run.step("extensions", build)
    return TreeLayer(**{**result, "blob": Path(result["blob"])})


def _lay_out(run: Run, worker: Worker, base: str, files: Path) -> None:
    """The files as the stage of Dockerfile.final expects them."""
    store, tree = run.context.store, files / "tree"
    places = {each.name: each.path for each in worker.extensions}
    for pin in run.lock.extensions:
        unpack_archive(store.path_of(pin.sha256), tree / places[pin.name].lstrip("/"))
    needed = [
        (pin.key, _requirements(store.path_of(pin.requirements_sha256), pin.key))
        for pin in run.lock.extensions
        if pin.requirements_sha256
    ]
    if not needed:
        return
    about = {"python": worker.webui.python, "run": run.context.folder.identity}
    packages = packages_of_base(run.engine, base, kept=run.context.kept, **about)
    installed = {each.name: each.version for each in packages if each.kind == "pypi"}
    missing = lacking(needed, installed)
    if missing:
        text = "".join(f"{each.text}\n" for each in missing)
        (files / "requirements.txt").write_text(text, encoding="utf-8")
        site = site_packages_of(run.engine, base, **about)
        path = tree / str(PurePosixPath(site) / "bakery-extensions.pth").lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{PACKAGES}\n", encoding="utf-8")


def _requirements(path: Path, key: str) -> list[Requirement]:
    where = f"{key}.requirements"
    return parse_requirements(read_text(path, where), where=where)
