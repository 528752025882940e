"""An image of the local engine, or of a registry, as a value. Nothing is pulled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from docker.errors import APIError

from bake.errors import BuildError
from bake.image.engine.archive import Archive, EngineContent, EngineLike, open_saved
from bake.image.engine.probe import probe_engine
from bake.image.kept import Kept
from bake.image.oci.model import Content, Descriptor, Image, check_digest
from bake.image.oci.parse import find_manifest, of_an_image, parse_image
from bake.plan.code import version_of

if TYPE_CHECKING:
    from bake.image.oci.reference import Reference


class RegistryLike(Protocol):
    """What is asked of `bake.image.registry.client.RegistryClient`."""

    def get_manifest(self, reference: Reference) -> tuple[bytes, str]: ...

    def get_small_blob(self, repository: str, digest: str) -> bytes: ...

    def blob_content(self, repository: str, digest: str) -> Content: ...


def read_from_engine(engine: EngineLike, name: str, *, kept: Kept | None = None) -> Image:
    """Reads an image of the local engine.

    Args:
        engine: Where it is.
        name: Its id or name.
        kept: What was read before, by image id: where `probe_engine` does not work, the whole image is
            streamed until manifest and config have come by.

    Raises:
        BuildError: the engine has no such image, or it is not for linux/amd64.
    """
    try:
        image_id = str(engine.client.images.get(name).id)
    except APIError as error:
        if error.status_code not in (400, 404):  # 400: the text is no reference
            raise
        raise BuildError(
            "the engine has no such image", where=name, hint=f"docker pull {name}"
        ) from error

    def parse(data: Any) -> Image:
        return _from_json(data, name=name, engine=engine)

    version = version_of(__name__)
    known = kept.read("base", check_digest(image_id), version, parse) if kept else None
    if known is not None:
        return known
    archive = Archive(image_id=image_id)
    if not probe_engine(engine, archive):
        with open_saved(engine, name) as tar:
            for member in tar:
                archive.see(tar, member)
                if archive.is_enough():  # the rest may be gigabytes
                    break
    image = archive.image(name, engine=engine)
    if kept:
        kept.write("base", image_id, version, _as_json(image))
    return image


def read_from_registry(client: RegistryLike, reference: Reference) -> Image:
    """Reads manifest and config from a registry; the layers stay there.

    Raises:
        BuildError: the image is not for linux/amd64, or not an image.
        PushError: the registry refuses or has no such image.
    """
    name, repository = str(reference), reference.repository

    def document(digest: str) -> bytes:
        return client.get_manifest(reference.at(digest))[0]

    with of_an_image(name):
        text = find_manifest(client.get_manifest(reference)[0], document, where=name)
        config_digest = check_digest(json.loads(text)["config"]["digest"])
    config = client.get_small_blob(repository, config_digest)
    return parse_image(
        text,
        config,
        name=name,
        content_of=lambda layer: client.blob_content(repository, layer.digest),
    )


def _as_json(image: Image) -> dict[str, Any]:
    contents = {layer.digest: layer.content for layer in image.layers}
    return {
        "known_as": image.known_as,
        "manifest": image.manifest_json.decode(),
        "config": image.config_json.decode(),
        "contents": {digest: each.describe() for digest, each in contents.items() if each},
    }


def _from_json(data: Any, *, name: str, engine: EngineLike) -> Image:
    def content_of(layer: Descriptor) -> EngineContent:
        known = data["contents"][layer.digest]
        return EngineContent(image=known["image"], member=known["member"], engine=engine)

    return parse_image(
        data["manifest"].encode(),
        data["config"].encode(),
        name=name,
        content_of=content_of,
        known_as=data["known_as"],
    )
