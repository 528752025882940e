"""An image as it is pushed with `compression: zstd`: the same config and trees, its gzipped layers packed anew.

Only the manifest and the layers' blobs are others: the config, its labels and its diff ids stay, so that the
image is the same to whoever unpacks it, and the engine of this machine needs no second copy of the base. Weights
stay raw: nothing shrinks them. Each layer's descriptor says which blob it was packed from.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bake.console import Console, format_bytes
from bake.errors import BuildError, MachineError
from bake.image.engine.archive import EngineContent, saved_blobs
from bake.image.kept import Kept
from bake.image.layout import write_layout
from bake.image.oci.model import (
    GZIP_LAYER,
    KIND,
    REWRITTEN_FROM,
    ZSTD_LAYER,
    Content,
    Descriptor,
    FileContent,
    Image,
    Layer,
    blob_name,
    canonical_json,
    read_content,
    skip_bytes,
)
from bake.image.oci.reference import parse_reference
from bake.image.oci.streams import unpacked, zstd_packed
from bake.image.parallel import Stopped, run_in_parallel
from bake.image.registry.client import RegistryClient
from bake.image.registry.packed import PackedLayers, keep_digest, known_descriptor
from bake.image.registry.push import PushReport, push_image

if TYPE_CHECKING:
    from hashlib import _Hash

LEVEL = 9
"""Of zstd; docs/benchmarks.md has what others cost and gain. What is packed already stays as it is."""

Find = Callable[[Layer], Layer | None]
"""The same layer under zstd, with where its bytes are, or None where it has to be packed."""


def needs_rewriting(layer: Layer) -> bool:
    """Whether `rewrite_layers` packs a layer anew: what is gzipped, and what an engine has unpacked."""
    if layer.kind == "weights":
        return False
    if layer.descriptor.media_type == GZIP_LAYER:
        return True
    # An engine with the classic store has a base's layers unpacked; a registry's raw ones were meant to be raw.
    return layer.descriptor.media_type != ZSTD_LAYER and isinstance(layer.content, EngineContent)


def push_rewritten(
    image: Image,
    reference: str,
    *,
    console: Console,
    folder: Path,
    kept: Kept,
    client: RegistryClient | None = None,
) -> PushReport:
    """Pushes an image with its layers under zstd.

    Those that the registry has of an earlier push are looked for first (`bake.image.registry.packed`), and what
    had to be packed is kept there for the next.

    Args:
        image: As it was assembled.
        reference: Where to, with a tag.
        console: Progress.
        folder: For what is packed, until it is uploaded.
        kept: What this machine knows of layers that it has packed.
        client: Instead of one made from the environment and the docker config.

    Raises:
        PushError: the registry refuses or does not answer; the tag is as it was.
        BuildError: a layer's bytes cannot be had, or are not those of its digest or of its diff id.
        MachineError: the folder's disk is full.
    """
    target = parse_reference(reference)
    with client or RegistryClient(target.host) as registry:
        packed = PackedLayers(client=registry, target=target, kept=kept, console=console)
        rewritten = rewrite_layers(
            image,
            packed.find,
            folder=folder,
            console=console,
            workers=registry.options.parallel,
            on_packed=packed.remember,
        )
        report = push_image(
            rewritten, reference, console=console, client=registry, assembled=image.digest
        )
        packed.keep([each for each in rewritten.layers if _is_rewritten(each)])
    return report


def write_rewritten_layout(
    image: Image, layout: Path, *, tag: str, console: Console, folder: Path, kept: Kept
) -> Image:
    """Writes an OCI layout of an image with its layers under zstd. Returns that image.

    Args and errors as for `push_rewritten`, and as `bake.image.layout.write_layout`.
    """

    def find(layer: Layer) -> Layer | None:
        known = known_descriptor(kept, layer)
        path = layout / blob_name(known.digest) if known else None
        if known is None or path is None or not path.is_file():
            return None
        return replace(layer, descriptor=known, content=FileContent(path=path))

    rewritten = rewrite_layers(
        image, find, folder=folder, console=console, workers=os.cpu_count() or 1
    )
    write_layout(rewritten, layout, tag=tag)
    for layer in filter(_is_rewritten, rewritten.layers):
        keep_digest(kept, layer, place="")
    return rewritten


def rewrite_layers(
    image: Image,
    find: Find,
    *,
    folder: Path,
    console: Console,
    workers: int,
    on_packed: Callable[[Layer], None] | None = None,
) -> Image:
    """The image with its layers under zstd, those that had to be packed in files of a folder.

    Args:
        image: As it was assembled.
        find: Where a layer is under zstd already.
        folder: There, and as long as the result is used.
        console: Progress.
        workers: Layers at once.
        on_packed: Is told of each layer that had to be packed, as it is now.

    Raises:
        BuildError: a layer's bytes cannot be had, or are not those of its digest or of its diff id.
        MachineError: the folder's disk is full.
    """
    wanted = {layer.digest: layer for layer in image.layers if needs_rewriting(layer)}
    stop = threading.Event()
    tasks = [partial(find, layer) for layer in wanted.values()]
    found = dict(zip(wanted, run_in_parallel(tasks, workers=workers, stop=stop), strict=True))
    missing = [layer for digest, layer in wanted.items() if found[digest] is None]
    if missing:
        total = sum(layer.size_bytes for layer in missing)
        console.say(
            f"{len(missing)} of {len(wanted)} layers, {format_bytes(total)}, are packed with zstd"
        )
        with console.progress("zstd", total) as progress:
            packing = _Packing(
                folder=folder, stop=stop, on_read=progress.passing, on_packed=on_packed
            )
            for packed in run_in_parallel(packing.tasks(missing), workers=workers, stop=stop):
                found.update(packed)
    return _with_layers(image, {digest: layer for digest, layer in found.items() if layer})


def _with_layers(image: Image, rewritten: dict[str, Layer]) -> Image:
    layers, entries = [], []
    for layer, entry in zip(image.layers, image.manifest["layers"], strict=True):
        packed = rewritten.get(layer.digest)
        if packed is None:
            layers.append(layer)
            entries.append(entry)
            continue
        said = {k: v for k, v in (entry.get("annotations") or {}).items() if k == KIND}
        annotations = {**said, REWRITTEN_FROM: layer.digest}
        descriptor = replace(packed.descriptor, annotations=annotations)
        layers.append(replace(layer, descriptor=descriptor, content=packed.content))
        entries.append(descriptor.as_json())
    manifest_json = canonical_json({**image.manifest, "layers": entries})
    return replace(image, manifest_json=manifest_json, layers=tuple(layers))


def _is_rewritten(layer: Layer) -> bool:
    return REWRITTEN_FROM in layer.descriptor.annotations


@dataclass(frozen=True, kw_only=True)
class _Packing:
    """Packs layers into files of a folder."""

    folder: Path
    stop: threading.Event
    on_read: Callable[[Iterable[bytes]], Iterator[bytes]]
    on_packed: Callable[[Layer], None] | None

    def tasks(self, layers: Sequence[Layer]) -> list[Callable[[], dict[str, Layer]]]:
        """One for each layer; one for all of an engine's, which come in a single stream."""
        tasks: list[Callable[[], dict[str, Layer]]] = []
        in_engine: dict[str, Layer] = {}
        for layer in layers:
            if isinstance(layer.content, EngineContent):
                in_engine[layer.content.member] = layer
            else:
                tasks.append(partial(self._pack_one, layer))
        return [*tasks, partial(self._pack_from_engine, in_engine)] if in_engine else tasks

    def _pack_one(self, layer: Layer) -> dict[str, Layer]:
        if layer.content is None:
            raise BuildError(
                "its bytes are not at hand, and it is nowhere under zstd",
                where=layer.comment or layer.digest,
                hint="bake again with the base image in the engine or in the registry",
            )
        return {layer.digest: self._pack(layer, layer.content)}

    def _pack_from_engine(self, layers: dict[str, Layer]) -> dict[str, Layer]:
        contents = [x.content for x in layers.values() if isinstance(x.content, EngineContent)]
        packed = {}
        first = contents[0]
        for member, chunks in saved_blobs(first.image, set(layers), engine=first.engine):
            packed[layers[member].digest] = self._pack(layers[member], _Stream(stream=chunks))
        if len(packed) != len(layers):
            raise BuildError("the engine no longer holds all of the base", where=first.image)
        return packed

    def _pack(self, layer: Layer, content: Content) -> Layer:
        """Packs a layer's bytes, which must be those of its digest and unpack to its diff id."""
        source, tree, packed = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        where = layer.comment or layer.digest
        read = self._passing(read_content(content, where=where))
        plain = _hashed(unpacked(_hashed(read, source)), tree)
        path = self.folder / f"{layer.digest[7:]}.zst"
        try:
            with path.open("wb") as file:
                for piece in _hashed(zstd_packed(plain, LEVEL), packed):
                    file.write(piece)
        except OSError as error:
            raise MachineError(
                f"a layer under zstd cannot be written: {error.strerror or error}",
                where=str(self.folder),
                hint="make room on its disk: a base's layers need two fifths of their size unpacked",
            ) from error
        found = (f"sha256:{source.hexdigest()}", f"sha256:{tree.hexdigest()}")
        if found != (layer.digest, layer.diff_id):
            raise BuildError(
                "its bytes are not those of its digest, or its tree is not that of the config",
                where=where,
                hint="pull or build the base again, then bake image MANIFEST again",
            )
        digest, size_bytes = f"sha256:{packed.hexdigest()}", path.stat().st_size
        descriptor = Descriptor(media_type=ZSTD_LAYER, digest=digest, size_bytes=size_bytes)
        made = replace(layer, descriptor=descriptor, content=FileContent(path=path))
        if self.on_packed is not None:
            self.on_packed(made)
        return made

    def _passing(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in self.on_read(chunks):
            if self.stop.is_set():
                raise Stopped
            yield chunk


def _hashed(chunks: Iterable[bytes], digest: _Hash) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """What comes by once, as a content."""

    stream: Iterator[bytes]

    def chunks(self, offset_bytes: int = 0) -> Iterator[bytes]:
        return skip_bytes(self.stream, offset_bytes)

    def describe(self) -> dict[str, Any]:
        raise TypeError("a stream is gone when it was read, and cannot be saved")
