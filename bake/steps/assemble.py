"""The step `assemble`: base, weights and thin layers become one image, as data."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bake import assets
from bake.errors import BuildError
from bake.image.build.thin import pack_files, sdk_of
from bake.image.final.final import ThinLayers, assemble_final, place_weights
from bake.image.final.packages import packages_of_base, packages_of_layer
from bake.image.oci.layers import TreeLayer, group_files, make_weights_layer
from bake.image.oci.model import Image, Layer
from bake.image.oci.reference import parse_reference
from bake.image.registry.client import RegistryClient
from bake.image.saved import load_saved_image, save_image
from bake.image.source import read_from_engine, read_from_registry
from bake.plan.code import sources_of
from bake.plan.state import BuildFolder, Document
from bake.plan.step import Earlier, Harvest, Situation, StepKind, placed_weights, scripts_of
from bake.steps.run import Run
from bake.weights.store import Store
from runtime.worker import HOME, WORKER_FILE, Worker

if TYPE_CHECKING:
    from bake.image.engine.docker import Engine
    from bake.steps.stream import StreamedWeights

_OF_THE_BASE = ("modules.pack", "proven.json")
"""What is known of the base alone: which modules are imported, what is read of its libraries, and which tricks
of the start draw upstream's picture with it. All else of a harvest may know the weights that it was drawn
with: their hashes, or their name in config.json."""
_SBOM_LIBRARY = "cyclonedx-python-lib"


def _document(situation: Situation, earlier: Earlier) -> Document:
    manifest = situation.manifest
    return {
        "base": earlier["base"].key,
        "warmup": earlier["warmup"].key,
        "environment": earlier["environment"].key,
        "runtime": earlier["runtime"].key,
        **({"extensions": earlier["extensions"].key} if "extensions" in earlier else {}),
        **scripts_of(manifest),
        **placed_weights(situation.lock),
        "lock": hashlib.sha256(situation.lock.to_json().encode()).hexdigest(),
        "webui.args": json.dumps(manifest.webui.args),
        **{f"limits.{name}": str(value) for name, value in sorted(manifest.limits.items())},
        "name": manifest.name,
        "image": manifest.image,
        **sources_of(__name__, "bake.steps.worker"),
        _SBOM_LIBRARY: version(_SBOM_LIBRARY),  # it writes the bill of materials
        # The image is the same, but not where its bytes are to be found.
        **({"streamed": ", ".join(situation.streamed)} if situation.streamed else {}),
    }


def _exists(folder: BuildFolder, _engine: Engine, result: Mapping[str, Any]) -> bool:
    saved = saved_image(folder)
    return saved is not None and saved.digest == result["digest"]


ASSEMBLE = StepKind(name="assemble", document=_document, exists=_exists)


def saved_image(folder: BuildFolder) -> Image | None:
    """The image that was assembled last."""
    try:
        return load_saved_image(folder.root)
    except BuildError:
        return None


def assemble_image(
    run: Run,
    worker: Worker,
    base: str,
    *,
    environment: TreeLayer,
    runtime: TreeLayer,
    extensions: TreeLayer | None = None,
    streamed: StreamedWeights | None = None,
) -> Image:
    """Puts base, weights and thin layers together, as data."""
    folder = run.context.folder
    harvest = run.plan.harvest

    def put_together() -> Mapping[str, Any]:
        image = assemble_final(
            read_base(run, base),
            worker=worker,
            weights=streamed.layers if streamed else stored_layers(run.context.store, worker),
            thin=ThinLayers(
                environment=environment,
                runtime=runtime,
                files=pack_own_files(folder, worker, harvest),
                extensions=extensions,
            ),
            lock=run.lock,
            packages=[
                *packages_of_base(
                    run.engine,
                    base,
                    python=worker.webui.python,
                    run=folder.identity,
                    kept=run.context.kept,
                ),
                *packages_of_layer(environment, kept=run.context.kept),
                *(packages_of_layer(extensions, kept=run.context.kept) if extensions else ()),
            ],
            documents=folder.root / "layers" / "documents.tar.gz",
            sdk=sdk_of(assets.RUNTIME_LOCK),
            harvest=harvest,
        )
        save_image(image, folder.root)
        return {"digest": image.digest, "size_bytes": image.size_bytes}

    run.step("assemble", put_together)
    return load_saved_image(folder.root, engine=run.engine)


def stored_layers(store: Store, worker: Worker) -> list[Layer]:
    """The weights layers, of files of the store; `layers/` in it keeps their digests."""
    groups = group_files(place_weights(worker, store.path_of))
    return [make_weights_layer(group, cache=store.root / "layers").as_layer() for group in groups]


def read_base(run: Run, base: str) -> Image:
    """The base's layers: from the registry where the manifest pins one there, so that a push mounts them."""
    pinned = run.context.manifest.base.image
    if pinned and "@" in pinned:
        reference = parse_reference(pinned)
        with RegistryClient(reference.host) as client:
            return read_from_registry(client, reference)
    return read_from_engine(run.engine, base, kept=run.context.kept)


def pack_own_files(folder: BuildFolder, worker: Worker, harvest: Harvest) -> TreeLayer:
    """The layer of `worker.json` and as much of the harvest as is good for these weights."""
    with folder.temporary_folder("assemble") as scratch:
        files = scratch / "image-files"
        if harvest == "own":
            shutil.copytree(folder.root / "harvest", files, symlinks=True)
        elif harvest == "reused":
            inside = Path(HOME.lstrip("/")) / "harvest"
            (files / inside).mkdir(parents=True)
            for path in (folder.root / "harvest" / inside).glob("*"):
                if path.name in _OF_THE_BASE:
                    shutil.copy(path, files / inside / path.name)
        worker_file = files / WORKER_FILE.lstrip("/")
        worker_file.parent.mkdir(parents=True, exist_ok=True)
        worker_file.write_text(worker.to_json(), encoding="utf-8")
        blob = folder.root / "layers" / "image-files.tar.gz"
        return pack_files(files, blob=blob, scratch=scratch)
