"""Gives an image to the local engine by the SDK's `load_image`: only the layers that it lacks travel.

Seen on Engine 26.1.5: with the classic store and with the containerd store an archive need not hold the
layers that the engine has. With the containerd store these must be the very blobs of an image that is
there, not only the same content under another compression: it does not check, and a later push or save
would fail. So a layer is left out only below an image whose manifest is known to name the same blobs.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

import requests
from docker.errors import APIError, DockerException, ImageNotFound, StreamParseError

from bake.errors import BuildError, MachineError
from bake.image.engine.archive import Archive, EngineContent, EngineLike, list_present
from bake.image.engine.docker import reason_of
from bake.image.engine.probe import has_containerd_store, probe_engine
from bake.image.oci.model import (
    BASE_DIGEST_LABEL,
    BASE_LAYERS_LABEL,
    LAYERS_LABEL,
    LAYOUT_FILE,
    Image,
    Layer,
    blob_name,
    canonical_json,
    index_of,
    read_content,
)
from bake.image.oci.reference import parse_reference
from bake.secrets import mask_secrets

_TIMEOUT_S = 3600
"""An engine unpacks a layer before it answers."""


def load_image(image: Image, engine: EngineLike, tag: str) -> str:
    """Loads an image into an engine and tags it.

    Args:
        image: Layers that the engine lacks must have content.
        engine: Where to.
        tag: A reference.

    Returns:
        The engine's id of the image: the config's digest with the classic store, the manifest's with
        the containerd store.

    Raises:
        BuildError: the engine refuses it, or a layer's bytes cannot be had.
        MachineError: the engine's disk is full, or it does not answer.
    """
    found = _image_id(engine, tag)
    if found in (image.digest, image.config_digest):
        return str(found)
    reference = parse_reference(tag)
    present = _present_layers(image, engine)
    archive = _archive(image, name=str(reference), tag=reference.tag, without=present)
    api: Any = engine.client.api
    usual_s, api.timeout = api.timeout, _TIMEOUT_S  # the SDK has no time limit for one call
    try:
        for event in api.load_image(archive):
            _check(event)
    except (DockerException, StreamParseError, requests.RequestException) as error:
        reason = reason_of(error) if isinstance(error, APIError) else type(error).__name__
        raise BuildError(f"the engine did not take the image: {reason}", where=tag) from error
    finally:
        api.timeout = usual_s
    loaded = _image_id(engine, tag)
    if loaded not in (image.digest, image.config_digest):
        raise BuildError(
            f"the engine made another image of it ({loaded}; {image.digest} was sent)", where=tag
        )
    return str(loaded)


def _present_layers(image: Image, engine: EngineLike) -> int:
    """How many of the lowest layers the engine surely has as these very blobs."""
    ours = [(layer.diff_id, layer.digest) for layer in image.layers]
    read_from_it = 0
    for layer in image.layers:
        if not isinstance(layer.content, EngineContent):
            break
        read_from_it += 1
    if read_from_it:
        base = image.layers[0].content
        assert isinstance(base, EngineContent)  # noqa: S101
        if _image_id(engine, base.image) is None:
            read_from_it = 0
    known = max(read_from_it, _pulled_base(image, engine))
    claims = {each: _common(ours, theirs) for each, theirs in _local_layers(engine).items()}
    for image_id, count in sorted(claims.items(), key=lambda claim: -claim[1]):
        if count <= known:
            break
        # A copy keeps the labels, and may have other blobs: skopeo's gzip, a push with compression: zstd.
        known = max(known, min(count, _common(ours, _blobs_of(engine, image_id, ours))))
    return known


def _blobs_of(
    engine: EngineLike, image_id: str, ours: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Diff ids and blobs of an image in a containerd store, as its manifest has them; none where that is not told.

    The classic store keeps no blobs: there, the same diff ids are the same layers.
    """
    if not has_containerd_store(engine):
        return list(ours)
    archive = Archive(image_id=image_id)
    try:
        found = archive.image(image_id, engine=engine) if probe_engine(engine, archive) else None
    except BuildError:
        found = None
    return [(layer.diff_id, layer.digest) for layer in found.layers] if found else []


def _pulled_base(image: Image, engine: EngineLike) -> int:
    """How many layers the base has, where the engine has pulled that very manifest."""
    labels = image.labels
    count = len(str(labels.get(BASE_LAYERS_LABEL, "")).split())
    wanted = f"@{labels.get(BASE_DIGEST_LABEL)}"
    for found in list_present(engine):
        if any(name.endswith(wanted) for name in found.attrs.get("RepoDigests") or []):
            return count
    return 0


def _local_layers(engine: EngineLike) -> dict[str, list[tuple[str, str]]]:
    """By id, diff ids and blobs of the images of ours that the engine has, as their labels say."""
    layers = {}
    for found in list_present(engine, filters={"label": LAYERS_LABEL}):
        labels = found.labels
        blobs = f"{labels.get(BASE_LAYERS_LABEL, '')} {labels.get(LAYERS_LABEL, '')}".split()
        diff_ids = (found.attrs.get("RootFS") or {}).get("Layers") or []
        # Not so in an image that was built on top of one of ours: it inherits the labels.
        if len(blobs) == len(diff_ids):
            layers[str(found.id)] = list(zip(diff_ids, blobs, strict=True))
    return layers


def _common(ours: Sequence[tuple[str, str]], theirs: Sequence[tuple[str, str]]) -> int:
    count = 0
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            break
        count += 1
    return count


def _archive(image: Image, *, name: str, tag: str, without: int) -> Iterator[bytes]:
    """An archive for both stores: the classic one reads `manifest.json`, the other `index.json`."""
    legacy = [
        {
            "Config": blob_name(image.config_digest),
            "RepoTags": [_familiar(name)],
            "Layers": [blob_name(layer.digest) for layer in image.layers],
        }
    ]
    yield from _member("oci-layout", LAYOUT_FILE)
    yield from _member("index.json", canonical_json(index_of(image, tag=tag, name=name)))
    yield from _member("manifest.json", canonical_json(legacy))
    yield from _member(blob_name(image.config_digest), image.config_json)
    yield from _member(blob_name(image.digest), image.manifest_json)
    sent = {layer.digest for layer in image.layers[:without]}
    for layer in image.layers[without:]:
        if layer.digest not in sent:
            sent.add(layer.digest)
            yield from _layer_member(layer)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _layer_member(layer: Layer) -> Iterator[bytes]:
    if layer.content is None:
        raise BuildError("its bytes are not at hand", where=layer.comment or layer.digest)
    yield _header(blob_name(layer.digest), layer.size_bytes)
    hashed = hashlib.sha256()
    for chunk in read_content(layer.content, where=layer.comment or layer.digest):
        hashed.update(chunk)
        yield chunk
    if f"sha256:{hashed.hexdigest()}" != layer.digest:
        raise BuildError(
            "its bytes are not those of its digest", where=layer.comment or layer.digest
        )
    yield b"\0" * (-layer.size_bytes % tarfile.BLOCKSIZE)


def _member(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name, len(data)) + data + b"\0" * (-len(data) % tarfile.BLOCKSIZE)


def _header(name: str, size_bytes: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size_bytes
    # Not PAX: Go's reader takes GNU's sizes above 8 GiB as well, and engines read both.
    return entry.tobuf(tarfile.GNU_FORMAT)


def _familiar(name: str) -> str:
    """As `docker images` shows a reference of Docker Hub."""
    return name.removeprefix("docker.io/").removeprefix("library/")


def _image_id(engine: EngineLike, name: str) -> str | None:
    try:
        return str(engine.client.images.get(name).id)
    except ImageNotFound:
        return None


def _check(event: Any) -> None:
    """Raises for an event of the engine's progress that is an error, as for a full disk, or is no event of it."""
    # `message`: an error that came in chunks, which the SDK hands out as if it were progress. `error` is what
    # engines said beside `errorDetail` and will leave out (API 1.48's changelog).
    if not isinstance(event, dict):
        return
    detail = event.get("errorDetail")
    text = detail.get("message") if isinstance(detail, dict) else None
    text = text or event.get("error") or event.get("message")
    if not text:
        return
    text = mask_secrets(str(text))
    if "no space left" in text:
        raise MachineError(
            "the engine's disk is full",
            where=text[-200:],
            hint="docker system prune, or push with no local engine: `bake image MANIFEST --push --no-load`",
        )
    raise BuildError(f"the engine did not take the image: {text[:300]}")
