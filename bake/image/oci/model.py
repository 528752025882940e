"""Images as values: descriptors, layers with or without their bytes, and how an image is kept on disk.

Field names and media types are those of the OCI image specification (github.com/opencontainers/image-spec).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from bake.errors import BuildError
from runtime.worker import HOME

RAW_LAYER = "application/vnd.oci.image.layer.v1.tar"
GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
CREATED = "2024-01-01T00:00:00Z"
"""`runtime.worker.WEIGHTS_MTIME` as text: when every image and layer of ours was made, so that they repeat."""
CREATED_BY = "bake: "
"""What a history entry of ours begins with."""
KIND = "bakery.layer"
"""The annotation of a layer's descriptor that says what the layer is."""
REWRITTEN_FROM = "bakery.layer.rewritten-from"
"""The annotation of a layer that was packed anew at a push: the digest of the blob that the config speaks of."""
BASE_DIGEST_LABEL = "org.opencontainers.image.base.digest"
BASE_LAYERS_LABEL = "bakery.base.layers"
"""The base's blobs, space-separated: what lies above them is ours to answer for."""
LAYERS_LABEL = "bakery.layers"
"""Our blobs above them: an engine does not say which blobs an image of its own is made of."""
LOCK_LABEL = "bakery.lock"
LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'
"""What `oci-layout` holds, in a layout and in an archive for an engine."""
REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that a layout's index names an image by."""

SBOM_FILE = f"{HOME}/documents/sbom.cdx.json"
PROVENANCE_FILE = f"{HOME}/documents/provenance.json"

LayerKind = Literal["base", "weights", "thin", "documents", "added"]
"""`added`: somebody has built on top of our image."""
_OCI_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar": RAW_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": GZIP_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": ZSTD_LAYER,
}


class Content(Protocol):
    """Bytes that can be read again and from any offset; never more than a chunk of them in memory."""

    def chunks(self, offset_bytes: int = 0) -> Iterator[bytes]:
        """The bytes from `offset_bytes` on."""
        ...

    def describe(self) -> dict[str, Any]:
        """What `bake.image.saved` needs to find the same bytes again: JSON with a `from` entry."""
        ...


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """What a manifest says of a blob."""

    media_type: str
    digest: str
    """`sha256:` and 64 hex digits."""
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The descriptor as manifests hold it."""
        written: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size_bytes,
        }
        if self.annotations:
            written["annotations"] = dict(self.annotations)
        return written

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Descriptor:
        """Reads a descriptor of a manifest; Docker's names of layer types become OCI's."""
        media_type = str(data["mediaType"])
        return cls(
            media_type=_OCI_TYPES.get(media_type, media_type),
            digest=check_digest(str(data["digest"])),
            size_bytes=int(data["size"]),
            annotations=dict(data.get("annotations") or {}),
        )


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer: what it is, and its bytes where they can be had."""

    descriptor: Descriptor
    diff_id: str
    """`sha256:…` of the uncompressed tar."""
    comment: str = ""
    """What the layer is, for the image's history."""
    kind: LayerKind = "thin"
    content: Content | None = None
    """None for a layer that is known by its digest only."""

    @property
    def digest(self) -> str:
        """The blob's digest."""
        return self.descriptor.digest

    @property
    def size_bytes(self) -> int:
        """The blob's size."""
        return self.descriptor.size_bytes


@dataclass(frozen=True, kw_only=True)
class Image:
    """A whole image: the exact bytes of its manifest and config, and its layers in order."""

    manifest_json: bytes
    config_json: bytes
    layers: tuple[Layer, ...]
    name: str = ""
    """What it was asked for by: a reference, a folder, an engine's id; for messages."""
    known_as: str = ""
    """What it is known by where that is not its manifest: an engine with the classic store has none."""

    @property
    def digest(self) -> str:
        """The manifest's digest, by which a registry knows the image."""
        return sha256_digest(self.manifest_json)

    @property
    def identity(self) -> str:
        """What the image is known by where it was read."""
        return self.known_as or self.digest

    @property
    def config_digest(self) -> str:
        """The config's digest, by which an engine with the classic store knows the image."""
        return sha256_digest(self.config_json)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The image's config, parsed; not to be changed."""
        return dict(json.loads(self.config_json))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The image's manifest, parsed; not to be changed."""
        return dict(json.loads(self.manifest_json))

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the config."""
        return dict((self.config.get("config") or {}).get("Labels") or {})

    @property
    def size_bytes(self) -> int:
        """What a registry stores for it, blobs that other images share included."""
        blobs = {layer.digest: layer.size_bytes for layer in self.layers}
        return sum(blobs.values()) + len(self.config_json) + len(self.manifest_json)


@dataclass(frozen=True, kw_only=True)
class BytesContent:
    """Content that is small enough to be held."""

    data: bytes

    def chunks(self, offset_bytes: int = 0) -> Iterator[bytes]:
        yield self.data[offset_bytes:]

    def describe(self) -> dict[str, Any]:
        raise TypeError("bytes in memory are written to a file before an image is saved")


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """A blob that lies in a file, as it is."""

    path: Path
    chunk_bytes: int = 1 << 20

    def chunks(self, offset_bytes: int = 0) -> Iterator[bytes]:
        with self.path.open("rb") as opened:
            opened.seek(offset_bytes)
            while chunk := opened.read(self.chunk_bytes):
                yield chunk

    def describe(self) -> dict[str, Any]:
        return {"from": "file", "path": str(self.path)}


def read_content(content: Content, offset_bytes: int = 0, *, where: str) -> Iterator[bytes]:
    """A content's bytes, with the errors that a user can act on.

    Args:
        content: Read from `offset_bytes` on.
        offset_bytes: Passed over.
        where: What the content is of, for the message.

    Raises:
        BuildError: a file is gone, cannot be read, or has another length than it had.
    """
    try:
        yield from content.chunks(offset_bytes)
    except (OSError, ValueError) as error:
        # OSError in a request's body would be taken for the connection's.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BuildError(
            f"its bytes cannot be read: {reason or type(error).__name__}",
            where=where,
            hint="bake the image again: what it was assembled from is gone or has changed",
        ) from error


def make_manifest(
    config_json: bytes,
    layers: Sequence[Descriptor],
    *,
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """The manifest of an OCI image."""
    config = Descriptor(
        media_type=CONFIG, digest=sha256_digest(config_json), size_bytes=len(config_json)
    )
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.as_json(),
            "layers": [each.as_json() for each in layers],
            **({"annotations": dict(annotations)} if annotations else {}),
        }
    )


def index_of(image: Image, *, tag: str, name: str = "") -> dict[str, Any]:
    """The index that a layout or an archive begins with.

    Args:
        image: The one image in it.
        tag: What skopeo and buildx find it by.
        name: What containerd names it: a whole reference.
    """
    annotations = {REF_NAME: tag}
    if name:
        annotations["io.containerd.image.name"] = name
    entry = {
        "mediaType": MANIFEST,
        "digest": image.digest,
        "size": len(image.manifest_json),
        "platform": {"os": "linux", "architecture": "amd64"},
        "annotations": annotations,
    }
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}


def sha256_digest(data: bytes) -> str:
    """`sha256:…` of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_of(chunks: Iterator[bytes]) -> tuple[str, int]:
    """The digest and the number of the bytes of a stream."""
    hashed = hashlib.sha256()
    size_bytes = 0
    for chunk in chunks:
        hashed.update(chunk)
        size_bytes += len(chunk)
    return f"sha256:{hashed.hexdigest()}", size_bytes


def check_digest(digest: str) -> str:
    """Returns a well-formed digest; digests become file names and parts of URLs.

    Raises:
        BuildError: it is not `sha256:` and 64 lower-case hex digits.
    """
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise BuildError(f"{digest[:80]!r} is not a sha256 digest")
    return digest


def blob_name(digest: str) -> str:
    """A blob's place in an OCI layout."""
    return f"blobs/sha256/{check_digest(digest)[7:]}"


def canonical_json(data: Any) -> bytes:
    """Sorted keys, no spaces: the same value gives the same bytes."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def skip_bytes(chunks: Iterator[bytes], offset_bytes: int) -> Iterator[bytes]:
    """A stream without its first bytes, for content that cannot seek."""
    left = offset_bytes
    for chunk in chunks:
        if left >= len(chunk):
            left -= len(chunk)
            continue
        yield chunk[left:] if left else chunk
        left = 0
