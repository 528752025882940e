"""An image as an OCI layout: a folder of blobs that skopeo, buildx and engines read.

It is named as skopeo names it, `oci:FOLDER[:TAG]`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bake.errors import BuildError, MachineError, ManifestError
from bake.files import atomic_file, write_atomically
from bake.image.engine.archive import EngineContent, saved_blobs
from bake.image.oci.model import (
    LAYOUT_FILE,
    REF_NAME,
    FileContent,
    Image,
    Layer,
    blob_name,
    canonical_json,
    index_of,
    read_content,
)
from bake.image.oci.parse import find_manifest, parse_image

LAYOUT_SCHEME = "oci:"
_SPARE_BYTES = 256 << 20
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def parse_layout(text: str) -> tuple[Path, str]:
    """Folder and tag of `oci:FOLDER[:TAG]`; without a tag it is `latest`.

    Raises:
        ManifestError: it is not of that form.
    """
    folder, colon, tag = text.removeprefix(LAYOUT_SCHEME).partition(":")
    if not text.startswith(LAYOUT_SCHEME) or not folder or (colon and not _TAG.fullmatch(tag)):
        raise ManifestError(
            f"{text!r} does not name an OCI layout", hint="write it as oci:FOLDER or oci:FOLDER:TAG"
        )
    return Path(folder), tag or "latest"


def read_from_layout(folder: Path, *, tag: str = "") -> Image:
    """Reads an OCI layout, such as `docker buildx build --output type=oci` and `skopeo` write it.

    Args:
        folder: The layout.
        tag: Which of several images; `latest` is also the only one, whatever its name.

    Raises:
        BuildError: the folder is no layout, holds no such image for linux/amd64, or lacks a blob.
    """
    name = str(folder)

    def blob(digest: str) -> bytes:
        return (folder / blob_name(digest)).read_bytes()

    try:
        index = _tagged(json.loads((folder / "index.json").read_bytes()), tag, folder)
        text = find_manifest(json.dumps(index).encode(), blob, where=name)
        config = blob(json.loads(text)["config"]["digest"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BuildError(f"is not an OCI layout: {type(error).__name__}", where=name) from error
    return parse_image(
        text,
        config,
        name=name,
        content_of=lambda layer: FileContent(path=folder / blob_name(layer.digest)),
    )


def write_layout(image: Image, folder: Path, *, tag: str = "latest") -> None:
    """Writes an OCI layout; blobs and other tags that are there already stay.

    The index, which names the image, comes last: what fails before leaves the tag as it was.

    Raises:
        BuildError: a layer's bytes cannot be had, or are not those of its digest.
        MachineError: the disk has no room for it, or the folder cannot be written.
    """
    try:
        (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        _write_blobs(image, folder)
        write_atomically(folder / blob_name(image.config_digest), image.config_json)
        write_atomically(folder / blob_name(image.digest), image.manifest_json)
        write_atomically(folder / "oci-layout", LAYOUT_FILE)
        index = index_of(image, tag=tag)
        index["manifests"] = [*_other_tags(folder, tag), *index["manifests"]]
        write_atomically(folder / "index.json", canonical_json(index))
    except OSError as error:
        raise MachineError(
            f"cannot be written: {error.strerror or error}", where=str(folder)
        ) from error


def _write_blobs(image: Image, folder: Path) -> None:
    missing = [layer for layer in image.layers if not (folder / blob_name(layer.digest)).is_file()]
    needed = sum(layer.size_bytes for layer in missing) + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if missing and free < needed:
        raise MachineError(
            f"the layout needs {needed} bytes, {free} are free", where=str(folder),
            hint="name a folder on another disk, or push to a registry, which needs none",
        )  # fmt: skip
    in_engine = {
        layer.content.member: layer for layer in missing if isinstance(layer.content, EngineContent)
    }
    for layer in missing:
        if layer.content is None:
            raise BuildError("its bytes are not at hand", where=layer.comment or layer.digest)
        if not isinstance(layer.content, EngineContent):
            chunks = read_content(layer.content, where=layer.comment or layer.digest)
            _write_layer(layer, chunks, folder / blob_name(layer.digest))
    _write_from_engine(in_engine, folder)


def _write_from_engine(layers: dict[str, Layer], folder: Path) -> None:
    """All of an engine's blobs in one pass, as each pass streams the whole image out of it."""
    contents = [each.content for each in layers.values() if isinstance(each.content, EngineContent)]
    if not contents:
        return
    first, seen = contents[0], 0
    for member, chunks in saved_blobs(first.image, set(layers), engine=first.engine):
        layer = layers[member]
        _write_layer(layer, chunks, folder / blob_name(layer.digest))
        seen += 1
    if seen != len(layers):
        raise BuildError("the engine no longer holds all of the base", where=first.image)


def _other_tags(folder: Path, tag: str) -> list[dict[str, Any]]:
    """What the folder's index has under other names."""
    path = folder / "index.json"
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_bytes())["manifests"]
        names = [(each.get("annotations") or {}).get(REF_NAME) for each in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(
            "is no OCI index", where=str(path), hint="name an empty folder, or another one"
        ) from error
    return [entry for entry, name in zip(entries, names, strict=True) if name != tag]


def _write_layer(layer: Layer, chunks: Iterable[bytes], path: Path) -> None:
    hashed = hashlib.sha256()
    with atomic_file(path) as written:
        for chunk in chunks:
            hashed.update(chunk)
            written.write(chunk)
        if f"sha256:{hashed.hexdigest()}" != layer.digest:
            raise BuildError(
                "its bytes are not those of its digest", where=layer.comment or layer.digest
            )


def _tagged(index: Mapping[str, Any], tag: str, folder: Path) -> Mapping[str, Any]:
    """The index with the images of one tag only."""
    entries = index["manifests"]
    names = [(entry.get("annotations") or {}).get(REF_NAME) for entry in entries]
    found = [entry for entry, name in zip(entries, names, strict=True) if name == tag]
    if not tag or (tag == "latest" and not found and len(entries) == 1):
        return index
    if not found:
        raise BuildError(
            f"the layout has no image of the tag {tag}",
            where=str(folder),
            hint=f"it has {', '.join(filter(None, names)) or 'none with a name'}",
        )
    return {"manifests": found}
