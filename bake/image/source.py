"""Where a base image is read from: the local engine, a registry, or an OCI layout. Nothing is pulled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from docker.errors import APIError

from bake.errors import BuildError
from bake.image.engine.archive import (
    Archive,
    EngineContent,
    EngineLike,
    describe_layers,
    open_saved,
    pick_platform,
    with_content,
)
from bake.image.engine.probe import probe_engine
from bake.image.final.assemble import BaseImage, check_base
from bake.image.kept import Kept
from bake.image.oci.layout import REF_NAME
from bake.image.oci.model import (
    CREATED_BY,
    DOCKER_INDEX,
    INDEX,
    Descriptor,
    FileContent,
    Image,
    Layer,
    canonical_json,
    check_digest,
)

if TYPE_CHECKING:
    from bake.image.oci.reference import Reference

_KEPT_VERSION = "1"
"""Goes up when what is kept of a base changes its form."""


class RegistryLike(Protocol):
    """What is asked of `bake.image.registry.client.RegistryClient`."""

    def get_manifest(self, reference: Reference) -> tuple[bytes, str]: ...

    def get_small_blob(self, repository: str, digest: str) -> bytes: ...

    def blob_content(self, repository: str, digest: str) -> Any: ...


def read_base_from_engine(engine: EngineLike, image: str, *, kept: Kept | None = None) -> BaseImage:
    """Reads an image of the local engine.

    Args:
        engine: Where it is.
        image: Its id or name.
        kept: What was read before, by image id: where `probe_engine` does not work, the whole image is
            streamed until manifest and config have come by.

    Raises:
        BuildError: the engine has no such image, or it is not for linux/amd64.
    """
    try:
        image_id = str(engine.client.images.get(image).id)
    except APIError as error:
        if error.status_code not in (400, 404):  # 400: the text is no reference
            raise
        raise BuildError(
            "the engine has no such image", where=image, hint=f"docker pull {image}"
        ) from None

    def parse(data: Any) -> BaseImage:
        return _from_json(data, image=image, engine=engine)

    known = kept.read("base", check_digest(image_id), _KEPT_VERSION, parse) if kept else None
    if known is not None:
        return known
    archive = Archive(image_id=image_id)
    if not probe_engine(engine, archive):
        with open_saved(engine, image) as tar:
            for member in tar:
                archive.see(tar, member)
                if archive.is_enough():  # the rest may be gigabytes
                    break
    base = archive.base(image, engine=engine)
    check_base(base)
    if kept:
        kept.write("base", image_id, _KEPT_VERSION, _as_json(base))
    return base


def read_base_from_registry(client: RegistryLike, reference: Reference) -> BaseImage:
    """Reads manifest and config from a registry; the layers stay there.

    Raises:
        BuildError: the image is not for linux/amd64, or not an image.
        PushError: the registry refuses or has no such image.
    """
    with _of_an_image(str(reference)):
        text, digest = client.get_manifest(reference)
        manifest = json.loads(text)
        if manifest.get("mediaType") in (INDEX, DOCKER_INDEX) or "manifests" in manifest:
            digest = pick_platform(manifest, where=str(reference))
            text, digest = client.get_manifest(reference.at(digest))
            manifest = json.loads(text)
        config_digest = check_digest(manifest["config"]["digest"])
        config = json.loads(client.get_small_blob(reference.repository, config_digest))
        layers = describe_layers(manifest, config, where=str(reference))
        base = BaseImage(
            name=str(reference),
            identity=digest,
            manifest_json=text,
            config=config,
            layers=tuple(
                with_content(layer, client.blob_content(reference.repository, layer.digest))
                for layer in layers
            ),
        )
        check_base(base)
        return base


@contextmanager
def _of_an_image(where: str) -> Iterator[None]:
    """Whatever is not of the form of a manifest or a config is a BuildError."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(
            f"is no image: its manifest or config is not of their form ({type(error).__name__})",
            where=where,
        ) from None


def read_base_from_layout(folder: Path, *, tag: str = "") -> BaseImage:
    """Reads an OCI layout, such as `docker buildx build --output type=oci` and `skopeo` write it.

    Args:
        folder: The layout.
        tag: Which of several images; `latest` is also the only one, whatever its name.

    Raises:
        BuildError: the folder is no layout, holds no such image for linux/amd64, or lacks a blob.
    """
    with _of_an_image(str(folder)):
        return _read_layout(folder, tag)


def _read_layout(folder: Path, tag: str) -> BaseImage:
    def blob(digest: str) -> Path:
        return folder / "blobs" / "sha256" / check_digest(digest)[7:]

    try:
        index = _tagged(json.loads((folder / "index.json").read_bytes()), tag, folder)
        digest = pick_platform(index, where=str(folder))
        manifest = json.loads(blob(digest).read_bytes())
        if "manifests" in manifest:
            digest = pick_platform(manifest, where=str(folder))
            manifest = json.loads(blob(digest).read_bytes())
        text = blob(digest).read_bytes()
        config = json.loads(blob(manifest["config"]["digest"]).read_bytes())
    except (OSError, ValueError, KeyError) as error:
        raise BuildError(
            f"is not an OCI layout: {type(error).__name__}", where=str(folder)
        ) from None
    layers = describe_layers(manifest, config, where=str(folder))
    base = BaseImage(
        name=str(folder),
        identity=digest,
        manifest_json=text,
        config=config,
        layers=tuple(with_content(layer, FileContent(path=blob(layer.digest))) for layer in layers),
    )
    check_base(base)
    return base


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


def image_of(base: BaseImage) -> Image:
    """An image that was read, as a whole: for verification, not for a push of the same bytes.

    Its config is written anew, and an engine's legacy archive has no manifest of its own.
    """
    config_json = canonical_json(base.config)
    manifest_json = base.manifest_json or canonical_json(
        {"layers": [layer.descriptor.as_json() for layer in base.layers]}
    )
    layers = tuple(
        Layer(
            descriptor=layer.descriptor,
            diff_id=layer.diff_id,
            comment=comment,
            kind=layer.kind,
            content=layer.content,
        )
        for layer, comment in zip(base.layers, _comments(base), strict=True)
    )
    return Image(manifest_json=manifest_json, config_json=config_json, layers=layers)


def _comments(base: BaseImage) -> list[str]:
    """What the history says of each layer."""
    entries = [each for each in base.config.get("history") or [] if not each.get("empty_layer")]
    texts = [
        str(each.get("created_by") or each.get("comment") or "").removeprefix(CREATED_BY)
        for each in entries
    ]
    return [*texts, *[""] * len(base.layers)][: len(base.layers)]


def _as_json(base: BaseImage) -> dict[str, Any]:
    return {
        "identity": base.identity,
        "manifest": base.manifest_json.decode(),
        "config": dict(base.config),
        "layers": [
            {
                "descriptor": layer.descriptor.as_json(),
                "diff_id": layer.diff_id,
                "content": layer.content.describe() if layer.content else None,
            }
            for layer in base.layers
        ],
    }


def _from_json(data: Any, *, image: str, engine: EngineLike) -> BaseImage:
    return BaseImage(
        name=image,
        identity=data["identity"],
        manifest_json=data["manifest"].encode(),
        config=data["config"],
        layers=tuple(
            Layer(
                descriptor=Descriptor.from_json(each["descriptor"]),
                diff_id=each["diff_id"],
                kind="base",
                content=EngineContent(
                    image=each["content"]["image"],
                    member=each["content"]["member"],
                    engine=engine,
                ),
            )
            for each in data["layers"]
        ),
    )
