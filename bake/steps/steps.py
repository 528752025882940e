"""The steps of a bake, each of which runs or is skipped as the plan says."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bake.assets import REPOSITORY
from bake.errors import ManifestError
from bake.image.build.base import build_base
from bake.image.build.thin import ThinTarget, build_thin_layer, pack_files, sdk_of
from bake.image.build.warmup import warm_up
from bake.image.engine.load import load_image
from bake.image.final.assemble import BaseImage
from bake.image.final.final import ThinLayers, assemble_final, place_weights
from bake.image.final.packages import packages_of_base, packages_of_layer
from bake.image.oci.layers import TreeLayer, group_files, make_weights_layer
from bake.image.oci.model import Image, Layer
from bake.image.oci.reference import parse_reference
from bake.image.oci.saved import load_saved_image, save_image
from bake.image.registry.client import RegistryClient
from bake.image.registry.push import push_image
from bake.image.source import read_base_from_engine, read_base_from_registry
from bake.image.verify.image import refuse_bad, verify_final, verify_image
from bake.manifest.model import Manifest
from bake.plan.plan import Harvest
from bake.plan.state import BuildFolder, write_atomically
from bake.steps.run import Run
from bake.steps.stream import StreamedWeights, check_source
from bake.weights.check import check_stored
from bake.weights.fetch import fetch_pin
from bake.weights.licences import licence_warnings
from bake.weights.store import Store
from runtime.worker import HOME, WORKER_FILE, Webui, Weights, Worker

_OF_THE_BASE = ("modules.pack", "read-ahead.json")
"""What boot records of the base alone: which modules are imported, and what is read of its libraries. All
else of a harvest may know the weights that it was drawn with: their hashes, or their name in config.json."""


def fetch_weights(run: Run) -> None:
    """Brings what the store lacks, verified."""
    context = run.context

    def fetch() -> Mapping[str, Any]:
        for pin in run.lock.pins:
            fetch_pin(
                pin,
                store=context.store,
                settings=context.settings,
                console=context.console,
                folder=context.manifest.path.parent,
            )
        return {}

    run.step("fetch", fetch)
    # Header reads only, so also of what was there: another manifest may have brought it for another family.
    for pin in run.lock.pins:
        if pin.key in run.plan.streamed:
            warnings = check_source(context, pin)
        else:
            path = context.store.path_of(pin.sha256)
            warnings = check_stored(path, context.manifest, pin)
        for warning in warnings:
            context.console.warn(warning)


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


def describe_worker(run: Run, webui: Webui) -> Worker:
    """What the image will know of itself."""
    manifest, store = run.context.manifest, run.context.store
    streamed = run.plan.streamed
    folders = {"checkpoint": webui.checkpoint_dir, "vae": webui.vae_dir, "lora": webui.lora_dir}
    weights = tuple(
        Weights(
            role=pin.role,
            name=pin.name,
            path=str(PurePosixPath(folders[pin.role]) / f"{pin.name}{pin.suffix}"),
            sha256=pin.sha256,
            # A pin without a size is not streamed.
            size_bytes=pin.size_bytes or 0 if pin.key in streamed else store.size_of(pin.sha256),
        )
        for pin in run.lock.pins
    )
    paths = [each.path for each in weights]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise ManifestError(
            f"two files would have the same place in the image: {', '.join(twice)}",
            where=str(manifest.path),
            hint="give one of them another name",
        )
    return Worker(
        name=manifest.name,
        family=manifest.family,
        webui=webui,
        weights=weights,
        args=manifest.webui.args,
        limits=manifest.limits,
        lock_sha256=hashlib.sha256(run.lock.to_json().encode()).hexdigest(),
    )


def warm_up_base(run: Run, worker: Worker, base: str) -> Mapping[str, Any]:
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
                runtime=REPOSITORY / "runtime",
                harvest=harvest,
                scratch=scratch,
                log=folder.log("warmup"),
                console=context.console,
            )
            shutil.rmtree(folder.root / "harvest", ignore_errors=True)
            harvest.rename(folder.root / "harvest")
            write_atomically(folder.root / "picture.png", result.picture)
        return {
            "device": result.device,
            "loaded_s": result.loaded_s,
            "drawn_s": result.drawn_s,
            "timeline": result.timeline,
        }

    result = run.step("warmup", draw)
    if run.plan.harvest == "own":
        return {"harvest": "own", **result}
    context.console.warn(f"no picture was drawn with these weights: {run.plan.step('warmup').why}")
    return {"harvest": run.plan.harvest}


def make_thin_layer(run: Run, target: ThinTarget) -> TreeLayer:
    """Builds one stage of Dockerfile.final into a layer."""
    folder = run.context.folder

    def build() -> Mapping[str, Any]:
        with folder.temporary_folder(target) as scratch:
            layer = build_thin_layer(
                target,
                engine=run.engine,
                repository=REPOSITORY,
                build_args=run.base.build_args,
                blob=folder.root / "layers" / f"{target}.tar.gz",
                scratch=scratch,
                log=folder.log(target),
            )
        return {**dataclasses.asdict(layer), "blob": str(layer.blob)}

    result = run.step(target, build)
    return TreeLayer(**{**result, "blob": Path(result["blob"])})


def assemble_image(
    run: Run,
    worker: Worker,
    base: str,
    *,
    environment: TreeLayer,
    runtime: TreeLayer,
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
            ],
            documents=folder.root / "layers" / "documents.tar.gz",
            sdk=sdk_of(REPOSITORY),
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


def read_base(run: Run, base: str) -> BaseImage:
    """The base's layers: from the registry where the manifest pins one there, so that a push mounts them."""
    pinned = run.context.manifest.base.image
    if pinned and "@" in pinned:
        reference = parse_reference(pinned)
        with RegistryClient(reference.host) as client:
            return read_base_from_registry(client, reference)
    return read_base_from_engine(run.engine, base, kept=run.context.kept)


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


def reference_of(manifest: Manifest, image: Image) -> str:
    """`repository:tag`; without a tag in the manifest, one that names the content."""
    repository = manifest.image
    if ":" in repository.rsplit("/", 1)[-1]:
        return repository
    return f"{repository}:{image.digest[7:19]}"


def load(run: Run, image: Image) -> str:
    """Gives the engine the layers that it lacks, unless it is not to have them. Returns the reference."""
    reference = reference_of(run.context.manifest, image)
    if not run.context.options.load:
        return reference

    def give() -> Mapping[str, Any]:
        return {"id": load_image(image, run.engine, reference), "reference": reference}

    return str(run.step("load", give)["reference"])


def verify(
    run: Run,
    worker: Worker,
    image: Image,
    reference: str,
    *,
    streamed: StreamedWeights | None = None,
) -> Mapping[str, Any]:
    """Looks at every file and for secrets; where the engine has the image, its worker serves a picture."""
    context = run.context

    def check() -> Mapping[str, Any]:
        if not context.options.load:
            verdict = verify_image(
                image,
                name=reference,
                console=context.console,
                lock=run.lock,
                proven=streamed.proven if streamed else None,
                kept=context.kept,
                downloads_base=False,
            )
            refuse_bad(verdict)
            return verdict.as_json()
        return verify_final(
            reference,
            engine=run.engine,
            worker=worker,
            warmup=context.manifest.warmup,
            folder=context.folder,
            console=context.console,
            kept=context.kept,
        )

    return run.step("verify", check)


def push(run: Run, image: Image) -> Mapping[str, Any]:
    """Sends the registry what it lacks; the tag moves last."""
    reference = reference_of(run.context.manifest, image)
    for warning in licence_warnings(run.lock):
        run.context.console.warn(warning)

    def send() -> Mapping[str, Any]:
        report = push_image(image, reference, console=run.context.console)
        return report.as_json()

    return run.step("push", send)
