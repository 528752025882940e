"""Images as an engine hands them out: `docker save`, read as a stream.

Since Engine 25 that is an OCI layout (blobs as stored with the containerd store, uncompressed with the
classic store), before it the legacy archive.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from docker.errors import DockerException

from bake.errors import BuildError
from bake.image.final.assemble import BaseImage
from bake.image.oci.model import (
    RAW_LAYER,
    Descriptor,
    Layer,
    blob_name,
    check_digest,
    sha256_digest,
    skip_bytes,
)
from bake.image.oci.streams import CHUNK_BYTES, open_tar

if TYPE_CHECKING:
    import docker

_JSON_LIMIT_BYTES = 8 << 20


class EngineLike(Protocol):
    """What is asked of `bake.image.engine.docker.Engine`."""

    @property
    def client(self) -> docker.DockerClient: ...


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
        raise BuildError(f"the engine no longer holds {self.member}", where=self.image)

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

    def base(self, image: str, *, engine: EngineLike) -> BaseImage:
        text = self._manifest_of_id() or b""
        if not text and "index.json" in self.documents:
            digest = pick_platform(json.loads(self.documents["index.json"]), where=image)
            text = self._manifest(digest, where=image) or b""
        if text:
            manifest = json.loads(text)
            config_digest = manifest["config"]["digest"]
            config = json.loads(self.documents[blob_name(config_digest)])
            # The classic store makes up a manifest for the archive; the image is known by its config.
            identity = config_digest if config_digest == self.image_id else sha256_digest(text)
            layers = describe_layers(manifest, config, where=image)
            names = [blob_name(layer.digest) for layer in layers]
        else:
            identity = self.image_id
            entry = json.loads(self.documents["manifest.json"])[0]
            config = json.loads(self.documents[entry["Config"]])
            names = [self.links.get(name, name) for name in entry["Layers"]]
            layers = [
                _raw_layer(diff_id, self.sizes[name])
                for diff_id, name in zip(config["rootfs"]["diff_ids"], names, strict=True)
            ]
        return BaseImage(
            name=image,
            identity=identity,
            manifest_json=text,
            config=config,
            layers=tuple(
                with_content(layer, EngineContent(image=self.image_id, member=name, engine=engine))
                for layer, name in zip(layers, names, strict=True)
            ),
        )

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
        text = self.documents.get(blob_name(digest))
        data = json.loads(text) if text else {}
        if "manifests" in data:
            text = self.documents.get(blob_name(pick_platform(data, where=where)))
            data = json.loads(text) if text else {}
        return text if "layers" in data else None


def pick_platform(index: Mapping[str, Any], *, where: str) -> str:
    """The digest of an index's linux/amd64 manifest (or of its only one without a platform)."""
    entries = [
        entry
        for entry in index.get("manifests") or []
        if "vnd.docker.reference.type" not in (entry.get("annotations") or {})
    ]
    for entry in entries:
        platform = entry.get("platform") or {}
        if (platform.get("os"), platform.get("architecture")) == ("linux", "amd64"):
            return check_digest(entry["digest"])
    if len(entries) == 1 and not entries[0].get("platform"):
        return check_digest(entries[0]["digest"])
    raise BuildError("there is no image for linux/amd64", where=where)


def describe_layers(
    manifest: Mapping[str, Any], config: Mapping[str, Any], *, where: str
) -> list[Layer]:
    diff_ids = (config.get("rootfs") or {}).get("diff_ids") or []
    described = manifest.get("layers") or []
    if len(diff_ids) != len(described):
        raise BuildError("the config and the manifest name different layers", where=where)
    return [
        Layer(descriptor=Descriptor.from_json(entry), diff_id=check_digest(diff_id), kind="base")
        for entry, diff_id in zip(described, diff_ids, strict=True)
    ]


def _raw_layer(diff_id: str, size_bytes: int) -> Layer:
    descriptor = Descriptor(
        media_type=RAW_LAYER, digest=check_digest(diff_id), size_bytes=size_bytes
    )
    return Layer(descriptor=descriptor, diff_id=diff_id, kind="base")


def with_content(layer: Layer, content: Any) -> Layer:
    return Layer(
        descriptor=layer.descriptor, diff_id=layer.diff_id, kind=layer.kind, content=content
    )


def open_saved(engine: EngineLike, image: str) -> tarfile.TarFile:
    try:
        return open_tar(engine.client.api.get_image(image, chunk_size=CHUNK_BYTES))
    except DockerException as error:
        raise BuildError(f"the engine does not give the image: {error}", where=image) from None


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
