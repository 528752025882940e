"""What an image says of itself, from a registry by a few kilobytes, from an engine, or from a build folder."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from bake.image.oci.model import LOCK_LABEL, PROVENANCE_FILE, SBOM_FILE, Image
from bake.image.oci.streams import UnsoundLayer, open_tar, unpacked
from bake.lock import Lock

_MOST_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """An image, as its labels and documents describe it."""

    name: str
    digest: str
    labels: Mapping[str, str]
    lock: Lock | None
    layers: tuple[Mapping[str, Any], ...]
    """Each with `kind`, `comment`, `digest` and `size_bytes`."""
    sbom: Mapping[str, Any] | None
    provenance: Mapping[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        """Everything, for `--json`."""
        return {
            "image": self.name,
            "digest": self.digest,
            "labels": {k: v for k, v in sorted(self.labels.items()) if k != LOCK_LABEL},
            "lock": json.loads(self.lock.to_json()) if self.lock else None,
            "layers": list(self.layers),
            "sbom": self.sbom,
            "provenance": self.provenance,
        }


def inspect_image(image: Image, *, name: str) -> Inspection:
    """Reads an image's config, and its documents layer if it has one; no other layer.

    Raises:
        PushError: a registry does not give it.
    """
    labels = image.labels
    documents = _read_documents(image)
    return Inspection(
        name=name,
        digest=image.identity,
        labels=labels,
        lock=_lock(labels.get(LOCK_LABEL)),
        layers=tuple(
            {
                "kind": layer.kind,
                "comment": layer.comment,
                "digest": layer.digest,
                "size_bytes": layer.size_bytes,
            }
            for layer in image.layers
        ),
        sbom=documents.get(SBOM_FILE),
        provenance=documents.get(PROVENANCE_FILE),
    )


def count_components(sbom: Mapping[str, Any]) -> dict[str, int]:
    """How many components of each sort a bill of materials has: `pypi`, `deb`, `models`, `extensions`."""
    counts: Counter[str] = Counter()
    for component in sbom.get("components") or []:
        purl = str(component.get("purl") or "")
        other = "extensions" if component.get("type") == "application" else "models"
        counts[purl.removeprefix("pkg:").partition("/")[0] or other] += 1
    return dict(sorted(counts.items()))


def _lock(text: str | None) -> Lock | None:
    try:
        return Lock.from_json(text) if text else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _read_documents(image: Image) -> dict[str, Any]:
    """The documents layer is the last one; an image built on top of ours has it elsewhere, or not at all."""
    for layer in reversed(image.layers):
        small = layer.size_bytes <= _MOST_BYTES
        if layer.kind == "documents" and layer.content is not None and small:
            # What cannot be read is not printed; `bake verify` says why.
            with suppress(UnsoundLayer, tarfile.TarError, ValueError):
                return dict(_documents_in(layer.content.chunks()))
    return {}


def _documents_in(chunks: Iterator[bytes]) -> Iterator[tuple[str, Any]]:
    with open_tar(unpacked(chunks)) as tar:
        for member in tar:
            path = str(PurePosixPath("/") / member.name)
            opened = tar.extractfile(member)
            if opened and path in (SBOM_FILE, PROVENANCE_FILE):
                data = json.loads(opened.read())
                if isinstance(data, dict):
                    yield path, data
