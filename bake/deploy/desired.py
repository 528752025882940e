"""What an endpoint shall be, as flat fields that can be compared with what it is.

A field's name is its path in the API (`gpu.pools`, `env.NAME`). Only what is named here is compared and
changed: data centres that a manifest leaves to RunPod, or a variable that somebody added in the console, stay.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bake.deploy.client import Endpoint
from bake.errors import ManifestError
from bake.image.oci.model import RAW_LAYER, Image
from bake.manifest.gpus import find_gpu, unfit_types
from bake.manifest.model import Manifest

MARKER = "BAKE_DEPLOYED"
"""A variable of the endpoint that says what bake set it to, by which later edits by hand are found."""
TYPES = {"queue": "QUEUE", "load_balancer": "LOAD_BALANCER"}
ROOM_GB = 10
"""For fetched LoRAs (4 GB at most), logs, and what unpacking rounds up."""
_GZIPPED = 2.5
"""What a compressed layer grows by; seen on layers of Dockerfile.base."""


@dataclass(frozen=True, kw_only=True)
class Desired:
    """An endpoint to be."""

    name: str
    type: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Marker:
    """What bake last set."""

    hashes: Mapping[str, str]
    previous_image: str

    @classmethod
    def read(cls, endpoint: Endpoint) -> Marker | None:
        """None where bake did not make the endpoint, or the variable was edited."""
        try:
            data = json.loads((endpoint.fields.get("env") or {})[MARKER])
            return cls(hashes=dict(data["fields"]), previous_image=str(data["previous"]))
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, kw_only=True)
class Change:
    """One field that differs."""

    field: str
    old: Any
    new: Any
    is_by_hand: bool
    """Whether somebody else set the old value."""


def desired_endpoint(
    manifest: Manifest, *, image: str, disk_gb: int, registry: str | None = None
) -> Desired:
    """The endpoint of a manifest.

    Args:
        manifest: With its section `deploy`.
        image: By digest.
        disk_gb: Of the container, where the manifest does not say it.
        registry: RunPod's id of the registry credential.

    Raises:
        ManifestError: no pool is named, and none is known for the card.
    """
    deploy = manifest.deploy
    pools, excluded = _cards(manifest)
    is_queue = deploy.type == "queue"
    own = {} if is_queue else {"BAKERY_SERVER": "http", "BAKERY_MAX_RESPONSE_MB": "30"}
    fields: dict[str, Any] = {
        "image": image,
        "disk": deploy.disk or disk_gb,
        "gpu.pools": pools,
        "gpu.excludedTypes": excluded,
        "gpu.minCudaVersion": deploy.cuda,
        "gpu.allowedCudaVersions": [],
        "workers.min": deploy.workers.min,
        "workers.max": deploy.workers.max,
        "workers.idleTimeout": deploy.workers.idle_timeout,
        "scaling": _scaling(manifest),
        "timeout": deploy.timeout * 1000,
        "flashboot": "FLASHBOOT" if deploy.flashboot else "OFF",
        **{f"env.{name}": text for name, text in {**own, **deploy.env}.items()},
        **{f"env.{name}": secret_reference(each) for name, each in deploy.secrets.items()},
    }
    if is_queue and fields["scaling"]["type"] == "REQUEST_COUNT":
        # RunPod refuses it for this pair.
        del fields["workers.idleTimeout"]
    if registry:
        fields["registry"] = registry
    if deploy.volumes:
        fields["networkVolumes"] = list(deploy.volumes)
    if deploy.data_centers:
        fields["dataCenterIds"] = list(deploy.data_centers)
    return Desired(name=deploy.name or manifest.name, type=TYPES[deploy.type], fields=fields)


def secret_reference(name: str) -> str:
    """How a variable refers to a RunPod secret; the worker gets its value, the API never shows it."""
    return f"{{{{ RUNPOD_SECRET_{name} }}}}"


def disk_for(image: Image) -> int:
    """GB of disk for a container of an image: all of it unpacked, and some room."""
    size = sum(
        layer.size_bytes * (1 if layer.descriptor.media_type == RAW_LAYER else _GZIPPED)
        for layer in image.layers
    )
    return math.ceil(size / 1e9) + ROOM_GB


def _cards(manifest: Manifest) -> tuple[list[str], list[str]]:
    deploy = manifest.deploy
    gpu = find_gpu(manifest.gpu) if manifest.gpu else None
    if deploy.pools:
        return list(deploy.pools), list(deploy.excluded)
    if gpu is None or not gpu.pool:
        what = f"no pool of RunPod's is known for {manifest.gpu}" if gpu else "there is no `gpu`"
        raise ManifestError(
            f"{what}, so the endpoint's cards have to be named",
            where=f"{manifest.path}: deploy.pools",
            hint="write for example pools: [ADA_48_PRO]; docs/deploy.md#pools lists them",
        )
    return [gpu.pool], sorted({*deploy.excluded, *unfit_types(gpu)})


def _scaling(manifest: Manifest) -> dict[str, Any]:
    scaling = manifest.deploy.scaling
    if scaling and scaling.requests is not None:
        return {"type": "REQUEST_COUNT", "requestCount": scaling.requests}
    if scaling and scaling.queue_delay is not None:
        return {"type": "QUEUE_DELAY", "queueDelay": scaling.queue_delay}
    if manifest.deploy.type == "load_balancer":
        return {"type": "REQUEST_COUNT", "requestCount": 1}
    return {"type": "QUEUE_DELAY", "queueDelay": 4}


def flat_fields(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint's own values, by the same names."""
    data = endpoint.fields
    gpu, workers = data.get("gpu") or {}, data.get("workers") or {}
    fields = {
        key: data.get(key)
        for key in ("image", "disk", "registry", "scaling", "timeout", "flashboot")
    }
    return {
        **fields,
        "networkVolumes": data.get("networkVolumes") or [],
        "dataCenterIds": data.get("dataCenterIds") or [],
        "gpu.pools": gpu.get("pools") or [],
        "gpu.excludedTypes": sorted(gpu.get("excludedTypes") or []),
        "gpu.minCudaVersion": gpu.get("minCudaVersion"),
        "gpu.allowedCudaVersions": gpu.get("allowedCudaVersions") or [],
        **{f"workers.{key}": value for key, value in workers.items()},
        **{f"env.{key}": value for key, value in (data.get("env") or {}).items() if key != MARKER},
    }


def find_changes(endpoint: Endpoint, desired: Desired) -> list[Change]:
    """What differs, in the order of the fields' names."""
    marker, present = Marker.read(endpoint), flat_fields(endpoint)
    wanted: dict[str, Any] = dict(desired.fields)
    for field in marker.hashes if marker else ():
        if field.startswith("env.") and field in present:
            # Ours, and no longer in the manifest.
            wanted.setdefault(field, None)
    return [
        Change(
            field=field,
            old=present.get(field),
            new=new,
            is_by_hand=_is_by_hand(marker, field, present.get(field)),
        )
        for field, new in sorted(wanted.items())
        if not _same(present.get(field), new)
    ]


def _is_by_hand(marker: Marker | None, field: str, value: Any) -> bool:
    if marker and field in marker.hashes:
        return marker.hashes[field] != hash_of(value)
    # Never set by bake; nobody else's either where there is nothing.
    return value not in (None, "", [])


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        return sorted(map(str, old)) == sorted(map(str, new))
    return bool(old == new)


def hash_of(value: Any) -> str:
    """Short, and says nothing of the value."""
    if isinstance(value, list):
        value = sorted(map(str, value))
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def create_body(desired: Desired) -> dict[str, Any]:
    """The body of `POST /v2/serverless`."""
    body = _nested(desired.fields)
    body["env"] = {**body.get("env", {}), MARKER: _marker(desired.fields, previous="")}
    return {"name": desired.name, "type": desired.type, **body}


def update_body(
    endpoint: Endpoint, changes: list[Change], fields: Mapping[str, Any], *, previous: str
) -> dict[str, Any]:
    """The body of `PATCH /v2/serverless/{id}`: what changes, and with it what RunPod replaces as one.

    Args:
        endpoint: As it is.
        changes: What shall be otherwise.
        fields: All that bake sets, for the marker.
        previous: The image to go back to.
    """
    present = {key: value for key, value in flat_fields(endpoint).items() if value is not None}
    changed = {each.field: each.new for each in changes}
    groups = {field.partition(".")[0] for field in changed} | {"env"}
    after = {**present, **changed}
    whole = dict(_of_groups(after, groups & {"env", "workers"}))
    parts = {
        field: value
        for field, value in changed.items()
        if field not in whole and not field.startswith("env.")
    }
    if "gpu.pools" in changed or "gpu.excludedTypes" in changed:
        # One selection: pools without exclusions would clear those.
        parts |= {field: after[field] for field in ("gpu.pools", "gpu.excludedTypes")}
    body = _nested({**whole, **parts})
    body["env"] = {**body.get("env", {}), MARKER: _marker(fields, previous=previous)}
    return body


def _of_groups(fields: Mapping[str, Any], groups: set[str]) -> Iterator[tuple[str, Any]]:
    for field, value in fields.items():
        if field.partition(".")[0] in groups and value is not None:
            yield field, value


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for field, value in fields.items():
        group, dot, name = field.partition(".")
        if dot:
            body.setdefault(group, {})[name] = value
        else:
            body[group] = value
    return body


def _marker(fields: Mapping[str, Any], *, previous: str) -> str:
    return _marker_of({field: hash_of(value) for field, value in fields.items()}, previous=previous)


def marked_workers(endpoint: Endpoint, workers: Mapping[str, int]) -> dict[str, Any]:
    """The body that changes workers only, as an edit of ours where the endpoint is ours."""
    body: dict[str, Any] = {"workers": dict(workers)}
    if marker := Marker.read(endpoint):
        ours = {f"workers.{key}": hash_of(value) for key, value in workers.items()}
        text = _marker_of({**marker.hashes, **ours}, previous=marker.previous_image)
        body["env"] = {**(endpoint.fields.get("env") or {}), MARKER: text}
    return body


def _marker_of(hashes: Mapping[str, str], *, previous: str) -> str:
    return json.dumps({"fields": dict(hashes), "previous": previous}, sort_keys=True)
