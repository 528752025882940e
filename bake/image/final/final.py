"""What a worker image is: base, weights, thin layers, how it starts, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bake import __version__
from bake.image.final.assemble import ImageConfig, assemble
from bake.image.final.packages import Package
from bake.image.oci.layers import PlacedFile, TreeLayer
from bake.image.oci.model import BASE_DIGEST_LABEL, CREATED, LOCK_LABEL, Image, Layer
from bake.lock import Lock
from bake.plan.step import Harvest
from runtime.worker import HOME, Weights, Worker

ENTRYPOINT = (f"{HOME}/venv/bin/python", "-m", "runtime")
EXTENSIONS_COMMENT = "the webui's extensions"
_ENVIRONMENT = {
    "PYTHONPATH": HOME,
    "PYTHONUNBUFFERED": "1",
    # A worker's disk is thrown away; what it could compile is compiled already.
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True, kw_only=True)
class ThinLayers:
    """What lies above the weights, in the order in which it rarely changes."""

    environment: TreeLayer
    runtime: TreeLayer
    files: TreeLayer
    """`worker.json` and the harvest."""
    extensions: TreeLayer | None = None


def assemble_final(
    base: Image,
    *,
    worker: Worker,
    weights: Sequence[Layer],
    thin: ThinLayers,
    lock: Lock,
    packages: Sequence[Package],
    documents: Path,
    sdk: str,
    harvest: Harvest,
) -> Image:
    """Puts a worker image together.

    Args:
        base: The base image.
        worker: What the image knows of itself.
        weights: The layers of `place_weights`.
        thin: The layers above.
        lock: Its licences and sources become labels.
        packages: What is installed, for the bill of materials.
        documents: Where the layer of the bill of materials is written.
        sdk: Name and version of the SDK in the runtime's environment.
        harvest: What the image has of a warm-up.
    """
    # cyclonedx costs start time, and most bakes assemble nothing.
    from bake.image.final.sbom import DOCUMENTS_COMMENT, make_documents_layer  # noqa: PLC0415

    layers = [
        *weights,
        *([thin.extensions.as_layer(EXTENSIONS_COMMENT)] if thin.extensions else []),
        thin.environment.as_layer("the runtime's environment"),
        thin.runtime.as_layer("the runtime"),
        thin.files.as_layer("worker.json and what the warm-up left"),
    ]
    written = make_documents_layer(
        worker=worker, lock=lock, base=base, packages=packages, layers=layers, blob=documents
    )
    layers.append(written.as_layer(DOCUMENTS_COMMENT, kind="documents"))
    labels = {**_labels(worker, base, lock), "bakery.sdk": sdk, "bakery.warmup": harvest}
    config = ImageConfig(entrypoint=ENTRYPOINT, env=_ENVIRONMENT, labels=labels)
    return assemble(base, layers=layers, config=config, annotations=labels)


def place_weights(worker: Worker, source_of: Callable[[str], Path]) -> list[PlacedFile]:
    """Every weights file at its path in the image; `source_of` tells where the store has a SHA256."""
    return [
        PlacedFile(
            path=PurePosixPath(each.path),
            source=source_of(each.sha256),
            size_bytes=each.size_bytes,
            sha256=each.sha256,
        )
        for each in worker.weights
    ]


def _labels(worker: Worker, base: Image, lock: Lock) -> dict[str, str]:
    return {
        "org.opencontainers.image.title": worker.name,
        "org.opencontainers.image.created": CREATED,
        "org.opencontainers.image.version": worker.webui.version,
        BASE_DIGEST_LABEL: base.identity,
        "bakery.version": __version__,
        "bakery.family": worker.family,
        LOCK_LABEL: json.dumps(json.loads(lock.to_json()), sort_keys=True, separators=(",", ":")),
        "bakery.checkpoint": describe_weights(worker.checkpoint),
    }


def describe_weights(weights: Weights) -> str:
    """`name sha256:…`."""
    return f"{weights.name} sha256:{weights.sha256}"
