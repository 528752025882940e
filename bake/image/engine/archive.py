"""Images as an engine hands them out: `docker save`, read as a stream.

Since Engine 25 that is an OCI layout (blobs as stored with the containerd store, uncompressed with the
classic store), before it the legacy archive.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from docker.errors import DockerException, ImageNotFound

from bake.errors import BuildError
from bake.image.oci.model import (
    RAW_LAYER,
    Descriptor,
    Image,
    blob_name,
    check_digest,
    make_manifest,
    skip_bytes,
)
from bake.image.oci.parse import find_manifest, of_an_image, parse_image
from bake.image.oci.streams import CHUNK_BYTES, open_tar

if TYPE_CHECKING:
    import docker
    from docker.models.images import Image as DockerImage

_JSON_LIMIT_BYTES = 8 << 20


class EngineLike(Protocol):
    """What is asked of `bake.image.engine.docker.Engine`."""

    @property
    def client(self) -> docker.DockerClient: ...


def list_present(engine: EngineLike, **options: Any) -> Iterator[DockerImage]:
    """The images of an engine, with what the engine says of each.

    The SDK's own `images.list` asks for each of them again, and fails where one was removed in between by
    another process, such as a bake beside this one.

    Args:
        engine: Is asked.
        options: As `docker.client.images.list` takes them.
    """
    for each in engine.client.api.images(**options):
        with suppress(ImageNotFound):
            yield engine.client.images.get(each["Id"])


@dataclass(frozen=True, kw_only=True)
class EngineContent:
    """A blob inside an engine: each read streams the whole image out of it, past the other blobs."""

    image: str
    member: str
    """Its name in the archive that `docker save` writes."""
    engine: EngineLike | None = None

    def chunks(self, offset_bytes: int = 0) -> Iterator[bytes]:
        for _, content in saved_blobs(self.image, {self.member}, engine=self.engine):
            yield from skip_bytes(content, offset_bytes)
            return
        raise BuildError(
            f"the engine no longer holds {self.member}",
            where=self.image,
            hint="with the containerd store, it may have unpacked the layer from another image's blob, and a save"
            " lacks it: ask the registry, with --registry",
        )

    def describe(self) -> dict[str, Any]:
        return {"from": "engine", "image": self.image, "member": self.member}


def saved_blobs(
    image: str, members: set[str], *, engine: EngineLike | None = None
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Several blobs of an engine's image in one pass, in the order in which the engine sends them."""
    if engine is None:
        from bake.console import Console  # noqa: PLC0415  # only a saved image comes without its engine
        from bake.image.engine.docker import Engine  # noqa: PLC0415

        with Engine(Console(quiet=True)) as own:
            yield from saved_blobs(image, members, engine=own)
        return
    with open_saved(engine, image) as tar:
        for member in tar:
            if member.isreg() and member.name in members:
                yield member.name, _member_chunks(tar, member)


@dataclass(kw_only=True)
class Archive:
    """What was seen of an archive of `docker save`."""

    image_id: str
    documents: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def see(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Notes a member; keeps it if it is JSON, as small layers are not."""
        if member.issym():
            # the legacy archive has equal layers once, and links of the form `../<id>/layer.tar`
            self.links[member.name] = member.linkname.removeprefix("../")
        if not member.isreg():
            return
        self.sizes[member.name] = member.size
        opened = tar.extractfile(member) if member.size <= _JSON_LIMIT_BYTES else None
        self.add_document(member.name, opened.read() if opened else b"")

    def add_document(self, name: str, content: bytes) -> None:
        """Keeps what is JSON."""
        if content[:1] in (b"{", b"[") and _is_json(content):
            self.documents[name] = content

    def is_enough(self) -> bool:
        """Whether manifest and config are here: their blobs come at any place of the archive."""
        config = self.config_digest()
        return config is not None and blob_name(config) in self.documents

    def config_digest(self) -> str | None:
        """The config's digest, once the manifest is here."""
        manifest = self._manifest_of_id()
        return str(json.loads(manifest)["config"]["digest"]) if manifest else None

    def image(self, name: str, *, engine: EngineLike) -> Image:
        """What was seen, as an image of the engine's.

        Raises:
            BuildError: it is no image for linux/amd64.
        """
        with of_an_image(name):
            text = self._manifest_of_id()
            if text is None and "index.json" in self.documents:
                text = find_manifest(self.documents["index.json"], self._document, where=name)
            members: dict[str, str] = {}
            if text is not None:
                config_digest = json.loads(text)["config"]["digest"]
                config = self._document(config_digest)
                # The classic store makes up a manifest for the archive; the image is known by its config.
                known_as = config_digest if config_digest == self.image_id else ""
            else:
                known_as = self.image_id
                entry = json.loads(self.documents["manifest.json"])[0]
                config = self.documents[entry["Config"]]
                text, members = self._made_up(config, entry["Layers"])

        def content_of(layer: Descriptor) -> EngineContent:
            member = members.get(layer.digest, blob_name(layer.digest))
            return EngineContent(image=self.image_id, member=member, engine=engine)

        return parse_image(text, config, name=name, content_of=content_of, known_as=known_as)

    def _made_up(self, config: bytes, names: list[str]) -> tuple[bytes, dict[str, str]]:
        """A manifest for a legacy archive, which has none, and where each layer is in it."""
        diff_ids = json.loads(config)["rootfs"]["diff_ids"]
        members = {
            check_digest(diff_id): self.links.get(member, member)
            for diff_id, member in zip(diff_ids, names, strict=True)
        }
        layers = [
            Descriptor(media_type=RAW_LAYER, digest=each, size_bytes=self.sizes[members[each]])
            for each in diff_ids
        ]
        return make_manifest(config, layers), members

    def _document(self, digest: str) -> bytes:
        return self.documents[blob_name(digest)]

    def _manifest_of_id(self) -> bytes | None:
        """The id is a manifest's or an index's with the containerd store, a config's with the classic."""
        if blob_name(self.image_id) not in self.documents:
            return None
        found = self._manifest(self.image_id, where=self.image_id)
        if found is not None:
            return found
        for text in self.documents.values():
            data = json.loads(text)
            if isinstance(data, dict) and "layers" in data:
                named = (data.get("config") or {}).get("digest")
                if named == self.image_id:
                    return text
        return None

    def _manifest(self, digest: str, *, where: str) -> bytes | None:
        """The manifest of a digest that is a manifest's or an index's; None where it was not seen."""
        try:
            text = find_manifest(self._document(digest), self._document, where=where)
        except KeyError:
            return None
        return text if "layers" in json.loads(text) else None


def open_saved(engine: EngineLike, image: str) -> tarfile.TarFile:
    try:
        return open_tar(engine.client.api.get_image(image, chunk_size=CHUNK_BYTES))
    except DockerException as error:
        raise BuildError(f"the engine does not give the image: {error}", where=image) from error


def _member_chunks(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    opened = tar.extractfile(member)
    while opened and (chunk := opened.read(CHUNK_BYTES)):
        yield chunk


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True
