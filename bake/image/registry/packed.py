"""Layers under zstd that a registry has of earlier pushes, so that a base is packed once and then mounted.

Packing the same layer again may give other bytes (another version of zstd), and takes minutes. So a packed layer
is found by the diff id of the layer, which no packing changes: in the registry by a tag that is made of it, and on
the machine that packed it by what it remembers. The tag is put in the base's own repository if that is in the
same registry and may be written to, since all images of a base know it; else in the image's. It points at an
image of that one layer, which every registry takes, and which keeps the blob from being cleared away.

Whoever may write to the repository could put another layer there: engines unpack none that is not of the
config's diff id, and `bake verify` says so. Such a tag does no harm any more once it is deleted: a machine remembers
only what it has packed itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from bake.console import Console
from bake.errors import BakeError
from bake.image.kept import Kept
from bake.image.oci.model import (
    CREATED,
    CREATED_BY,
    MANIFEST,
    ZSTD_LAYER,
    BytesContent,
    Descriptor,
    Layer,
    canonical_json,
    check_digest,
    make_manifest,
    sha256_digest,
)
from bake.image.oci.reference import Reference
from bake.image.registry.client import RegistryClient, RegistryContent
from bake.image.registry.transport import Transient
from bake.image.registry.upload import Blob, Uploader

_TAG = "zstd-"
_KIND = "zstd"
_DIFF_ID = "bakery.layer.diff-id"
_MOST_PLACES = 20


def tag_of(layer: Layer) -> str:
    """The tag under which a registry keeps a layer under zstd."""
    return _TAG + check_digest(layer.diff_id)[7:]


def known_descriptor(kept: Kept, layer: Layer) -> Descriptor | None:
    """What this machine has packed a layer to."""
    known = _remembered(kept, layer)
    return known[0] if known else None


def keep_digest(kept: Kept, layer: Layer, *, place: str) -> None:
    """Remembers what a layer was packed to, and where it is: `host/repository`, or empty for nowhere in particular."""
    known = _remembered(kept, layer)
    places = (
        [p for p in known[1] if p != place] if known and known[0].digest == layer.digest else []
    )
    value = {
        "digest": layer.digest,
        "size_bytes": layer.size_bytes,
        "places": [*([place] if place else []), *places][:_MOST_PLACES],
    }
    kept.write(_KIND, layer.diff_id, ZSTD_LAYER, value)


def _remembered(kept: Kept, layer: Layer) -> tuple[Descriptor, list[str]] | None:
    def parse(data: Any) -> tuple[Descriptor, list[str]]:
        digest, size_bytes = check_digest(data["digest"]), int(data["size_bytes"])
        descriptor = Descriptor(media_type=ZSTD_LAYER, digest=digest, size_bytes=size_bytes)
        return descriptor, [str(place) for place in data["places"]]

    return kept.read(_KIND, layer.diff_id, ZSTD_LAYER, parse)


@dataclass(frozen=True, kw_only=True)
class PackedLayers:
    """What one push finds under zstd, and leaves for the next."""

    client: RegistryClient
    target: Reference
    """Where the image goes to."""
    kept: Kept
    console: Console
    _homes: dict[str, list[str]] = field(default_factory=dict)
    """By diff id of a base's layer: repositories in which its tag may be, the best first. Empty: it was found."""

    def find(self, layer: Layer) -> Layer | None:
        """A layer under zstd, where the registry has it; one that it does not give is as good as not there."""
        for repository, descriptor in self._candidates(layer):
            with suppress(BakeError):
                if self.client.has_blob(repository, descriptor.digest):
                    content = self.client.blob_content(repository, descriptor.digest)
                    return replace(layer, descriptor=descriptor, content=content)
        return None

    def remember(self, layer: Layer) -> None:
        """Notes what a layer was packed to, before it is sent: a push that breaks later has not packed in vain.

        What is remembered is looked for in the registry before it is used.
        """
        keep_digest(self.kept, layer, place=self._place)

    def keep(self, layers: Sequence[Layer]) -> None:
        """Makes layers that were pushed be found again; what fails here costs the next push time, and nothing else.

        Args:
            layers: Under zstd, in the target's repository by now.
        """
        for layer in {layer.digest: layer for layer in layers}.values():
            known = known_descriptor(self.kept, layer)
            if known and known.digest == layer.digest:  # what a tag says is not taken home
                self.remember(layer)
            homes = self._homes.get(layer.diff_id)
            if homes and not any(self._put_tag(layer, repository) for repository in homes):
                self.console.say(
                    f"{layer.digest} is not kept as {tag_of(layer)}: the registry refuses"
                )

    @property
    def _place(self) -> str:
        return f"{self.target.host}/{self.target.repository}"

    def _candidates(self, layer: Layer) -> Iterator[tuple[str, Descriptor]]:
        if layer.kind == "base":
            homes = self._homes[layer.diff_id] = self._homes_of(layer)
            for repository in tuple(homes):
                if found := self._find_tag(layer, repository):
                    homes.clear()
                    yield repository, found
            homes[:] = self._homes_of(layer)  # its blob is gone
        known = _remembered(self.kept, layer)
        if known:
            descriptor, places = known
            yield self.target.repository, descriptor
            for place in places:
                host, _, repository = place.partition("/")
                if host == self.target.host and repository != self.target.repository:
                    yield repository, descriptor

    def _homes_of(self, layer: Layer) -> list[str]:
        content = layer.content
        own = [self.target.repository]
        if isinstance(content, RegistryContent) and content.host == self.target.host:
            return list(dict.fromkeys([content.repository, *own]))
        return own

    def _find_tag(self, layer: Layer, repository: str) -> Descriptor | None:
        reference = Reference(host=self.target.host, repository=repository, tag=tag_of(layer))
        try:
            (entry,) = json.loads(self.client.get_manifest(reference)[0])["layers"]
            found = Descriptor.from_json(entry)
        except (ValueError, KeyError, TypeError, AttributeError, BakeError):
            return None
        is_it = found.annotations.get(_DIFF_ID) == layer.diff_id
        return replace(found, annotations={}) if is_it and found.media_type == ZSTD_LAYER else None

    def _put_tag(self, layer: Layer, repository: str) -> bool:
        config = {
            "architecture": "amd64",
            "os": "linux",
            "created": CREATED,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            "history": [{"created": CREATED, "created_by": CREATED_BY + "a layer under zstd"}],
        }
        config_json = canonical_json(config)
        descriptor = replace(layer.descriptor, annotations={_DIFF_ID: layer.diff_id})
        uploader = Uploader(client=self.client, repository=repository)
        reference = Reference(host=self.target.host, repository=repository, tag=tag_of(layer))
        try:
            if not (
                self.client.has_blob(repository, layer.digest)
                or uploader.mount(layer.digest, self.target.repository)
            ):
                return False
            uploader.upload(
                Blob(
                    content=BytesContent(data=config_json),
                    size_bytes=len(config_json),
                    digest=lambda: sha256_digest(config_json),
                )
            )
            manifest_json = make_manifest(config_json, [descriptor])
            self.client.put_manifest(reference, manifest_json, MANIFEST)
        except (BakeError, Transient):
            return False
        return True
