"""Small artifacts that say something of an image, beside it in its repository: signatures, attestations.

Distribution-spec 1.1 lists what refers to a manifest by `GET /v2/<name>/referrers/<digest>`. For registries without
it (distribution 2, GHCR) the list is an index of the tag `sha256-<hex>`, which whoever adds to it writes again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bake.errors import PushError
from bake.image.oci.model import (
    INDEX,
    MANIFEST,
    BytesContent,
    canonical_json,
    check_digest,
    sha256_digest,
)
from bake.image.oci.reference import Reference
from bake.image.registry.answers import meaning_of
from bake.image.registry.auth import pull_scope, push_scope
from bake.image.registry.client import RegistryClient
from bake.image.registry.upload import Blob, Uploader

_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_MOST = 200
_MOST_PAGES = 20


def attach(
    client: RegistryClient,
    subject: Reference,
    content: bytes,
    *,
    media_type: str,
    annotations: Mapping[str, str],
) -> str:
    """Puts an artifact of one blob beside an image.

    Args:
        client: The registry's.
        subject: The image, by digest.
        content: The blob.
        media_type: Its type, and the artifact's.
        annotations: Of the artifact; lists show them.

    Returns:
        The digest of the artifact's manifest.

    Raises:
        PushError: the registry does not take it; then nothing refers to the image that did not before.
    """
    image, _ = client.get_manifest(subject)
    described = {
        "mediaType": json.loads(image).get("mediaType", MANIFEST),
        "digest": subject.digest,
        "size": len(image),
    }
    blob = sha256_digest(content)
    name = f"{blob.replace(':', '-')}.sigstore.json"
    layer = {**_descriptor(content, media_type), "annotations": {"org.opencontainers.image.title": name}}  # fmt: skip
    manifest = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": media_type,
            "annotations": dict(annotations),
            "config": _descriptor(_EMPTY, _EMPTY_TYPE),
            "layers": [layer],
            "subject": described,
        }
    )
    uploader = Uploader(client=client, repository=subject.repository)
    for data in (content, _EMPTY):
        _upload(uploader, data)
    digest = sha256_digest(manifest)
    answer = client.request(
        "put manifest",
        "PUT",
        f"/v2/{subject.repository}/manifests/{digest}",
        scopes=push_scope(subject.repository),
        headers={"Content-Type": MANIFEST},
        body=manifest,
    )
    if answer.headers.get("OCI-Subject", "").strip() != subject.digest:
        entry = {**_descriptor(manifest, MANIFEST), "artifactType": media_type, "annotations": dict(annotations)}  # fmt: skip
        _add_to_tag(client, subject, entry)
    return digest


def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256_digest(data), "size": len(data)}


def _upload(uploader: Uploader, data: bytes) -> None:
    digest = sha256_digest(data)
    if not uploader.client.has_blob(uploader.repository, digest):
        content = BytesContent(data=data)
        uploader.upload(Blob(content=content, size_bytes=len(data), digest=lambda: digest))


def _add_to_tag(client: RegistryClient, subject: Reference, entry: Mapping[str, Any]) -> None:
    """Two that do it at the same moment can lose one entry: the specification has nothing against that."""
    listed = [each for each in _in_tag(client, subject) if each.get("digest") != entry["digest"]]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*listed, entry]}
    client.put_manifest(_tag_of(subject), canonical_json(index), INDEX)


def _tag_of(subject: Reference) -> Reference:
    return subject.at(subject.digest.replace(":", "-"))


def attached(client: RegistryClient, subject: Reference, media_type: str) -> Iterator[bytes]:
    """The blobs of all artifacts of one type that refer to an image, in the registry's order.

    Raises:
        PushError: the registry does not give them, or what it gives is not what it listed.
    """
    listed = [each for each in _listed(client, subject) if each.get("artifactType") == media_type]
    if len(listed) > _MOST:
        raise PushError(f"{len(listed)} artifacts refer to the image", where=str(subject))
    for each in listed:
        digest = check_digest(str(each.get("digest")))
        manifest, _ = client.get_manifest(subject.at(digest))
        try:
            document = json.loads(manifest)
            about, (layer,) = document["subject"]["digest"], document["layers"]
            blob = check_digest(layer["digest"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PushError("is no artifact that refers to an image", where=str(subject.at(digest))) from error  # fmt: skip
        if about == subject.digest:
            yield client.get_small_blob(subject.repository, blob)


def _listed(client: RegistryClient, subject: Reference) -> list[Mapping[str, Any]]:
    path = f"/v2/{subject.repository}/referrers/{subject.digest}"
    found: list[Mapping[str, Any]] = []
    for _ in range(_MOST_PAGES):
        answer = client.request(
            "list referrers",
            "GET",
            path,
            scopes=pull_scope(subject.repository),
            headers={"Accept": INDEX},
        )
        if meaning_of("list referrers", answer.status_code) == "absent":
            return _in_tag(client, subject)
        found += _entries(answer.content, subject)
        following = re.search(r'<([^>]+)>\s*;\s*rel="?next', answer.headers.get("Link", ""))
        if not following:
            return found
        path = "/v2/" + following[1].partition("/v2/")[2]
    raise PushError("the registry's list of referrers does not end", where=str(subject))


def _in_tag(client: RegistryClient, subject: Reference) -> list[Mapping[str, Any]]:
    tag = _tag_of(subject)
    if client.manifest_digest(tag) is None:
        return []
    return _entries(client.get_manifest(tag)[0], subject)


def _entries(text: bytes, subject: Reference) -> list[Mapping[str, Any]]:
    try:
        entries = json.loads(text)["manifests"] or []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PushError("the registry's list of referrers is none", where=str(subject)) from error
    return [each for each in entries if isinstance(each, dict)]
