"""Whole images for `benchmarks.pull --whole`: real bases, a model of random weights, and the worker's small layers.

    raw      ours: the base in several gzipped layers, the model raw
    zstd     ours with `compression: zstd`
    before   as at commit e6bab55: that commit's base, whose environment is one gzipped layer, and the model raw
    official the official worker's layout: that base, and the model in a gzipped layer of its own

The official worker's own image cannot be had without Docker Hub; its layers are few and large as the older
base's are. All models are the same file.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bake.console import Console
from bake.image.final.assemble import ImageConfig, assemble
from bake.image.kept import Kept
from bake.image.oci.layers import PlacedFile, make_tree_layer, make_weights_layer
from bake.image.oci.model import Image, Layer
from bake.image.oci.reference import parse_reference
from bake.image.registry.client import RegistryClient
from bake.image.registry.credentials import Credentials
from bake.image.registry.push import push_image
from bake.image.rewrite import push_rewritten
from bake.image.source import read_from_registry
from benchmarks.images import MODEL

CONSOLE = Console(quiet=True)


def push_whole_images(
    name: str, *, base: str, old_base: str, model: Path, sha256: str, folder: Path
) -> dict[str, str]:
    """Pushes the four images to the bases' registry.

    Args:
        name: What their repositories begin with.
        base: Today's base, a reference of the registry.
        old_base: The base of commit e6bab55.
        model: The weights.
        sha256: Their digest.
        folder: For files; some 2 GB more than the model's size are needed.

    Returns:
        References, by kind.
    """
    placed = PlacedFile(path=MODEL, source=model, size_bytes=model.stat().st_size, sha256=sha256)
    raw, packed = make_weights_layer([placed]).as_layer(), _gzipped(model, folder)
    thin = _thin(folder)
    references = {kind: f"{name}-{kind}:1" for kind in ("raw", "zstd", "before", "official")}
    with _base(base) as new, _base(old_base) as old:
        ours = _assembled(new, raw, thin)
        push_image(ours, references["raw"], console=CONSOLE)
        scratch = folder / "packed"
        scratch.mkdir()
        push_rewritten(
            ours,
            references["zstd"],
            console=CONSOLE,
            folder=scratch,
            kept=Kept(folder / "kept", reads=False),
        )
        push_image(_assembled(old, raw, thin), references["before"], console=CONSOLE)
        push_image(_assembled(old, packed, thin), references["official"], console=CONSOLE)
    packed.content.path.unlink()  # type: ignore[union-attr]
    return references


def _assembled(base: Image, weights: Layer, thin: Layer) -> Image:
    config = ImageConfig(entrypoint=["/bin/sh", "/src/start.sh"])
    return assemble(base, layers=[weights, thin], config=config)


@contextmanager
def _base(reference: str) -> Iterator[Image]:
    target = parse_reference(reference)
    with RegistryClient(target.host, credentials=Credentials()) as client:
        yield read_from_registry(client, target)


def _gzipped(model: Path, folder: Path) -> Layer:
    """The model as `docker build` and `docker push` leave it: a tar, gzipped at the usual level."""
    tree, blob = folder / "model.tar", folder / "model.tar.gz"
    with tarfile.open(tree, "w") as tar:
        tar.add(model, arcname=str(MODEL).lstrip("/"))
    try:
        return make_tree_layer(tree, blob).as_layer("the model")
    finally:
        tree.unlink()


def _thin(folder: Path) -> Layer:
    with tarfile.open(folder / "thin.tar", "w") as tar:
        data = b"#!/bin/sh\necho it runs\n"
        entry = tarfile.TarInfo("src/start.sh")
        entry.size, entry.mode = len(data), 0o755
        tar.addfile(entry, io.BytesIO(data))
    return make_tree_layer(folder / "thin.tar", folder / "thin.tar.gz").as_layer("the code")
