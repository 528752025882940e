"""An image out of the documents that somebody wrote: an engine, a registry, a builder, or we ourselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast, get_args

from bake.errors import BuildError
from bake.image.oci.model import (
    BASE_LAYERS_LABEL,
    CREATED_BY,
    KIND,
    LAYERS_LABEL,
    Content,
    Descriptor,
    Image,
    Layer,
    LayerKind,
    check_digest,
)

_MOST_INDEXES = 3
"""An index may name an index; buildx writes one in another, and nobody more."""


def parse_image(
    manifest_json: bytes,
    config_json: bytes,
    *,
    name: str,
    content_of: Callable[[Descriptor], Content | None],
    known_as: str = "",
) -> Image:
    """The image of a manifest and a config.

    Args:
        manifest_json: As it was read.
        config_json: As it was read.
        name: What the image was asked for by.
        content_of: Where a layer's bytes are.
        known_as: What the image is known by, where that is not its manifest's digest.

    Raises:
        BuildError: they are not of the form of an image, do not fit, or are not for linux/amd64.
    """
    with of_an_image(name):
        for text in (manifest_json, config_json):
            text.decode()
        manifest, config = json.loads(manifest_json), json.loads(config_json)
        image = Image(
            manifest_json=manifest_json,
            config_json=config_json,
            layers=tuple(_layers(manifest, config, content_of, where=name)),
            name=name,
            known_as=known_as,
        )
        check_image(image)
        return image


@contextmanager
def of_an_image(where: str) -> Iterator[None]:
    """Whatever is not of the form of a manifest or a config is a BuildError."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise BuildError(
            f"is no image: its manifest or config is not of their form ({type(error).__name__})",
            where=where,
        ) from error


def find_manifest(text: bytes, fetch: Callable[[str], bytes], *, where: str) -> bytes:
    """The manifest for linux/amd64: the document itself, or what it names as an index.

    Args:
        text: A manifest or an index.
        fetch: The document of a digest.
        where: For the message.

    Raises:
        BuildError: there is none for linux/amd64.
    """
    for _ in range(_MOST_INDEXES):
        data = json.loads(text)
        if "manifests" not in data:
            return text
        text = fetch(pick_platform(data, where=where))
    raise BuildError("its indexes name each other", where=where)


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


def check_image(image: Image) -> None:
    """Raises BuildError where a config is of no form, of other layers, or not for linux/amd64."""
    if not _is_config(image.config):
        raise BuildError("its config is not that of an image", where=image.name)
    diff_ids = (image.config.get("rootfs") or {}).get("diff_ids") or []
    if diff_ids != [layer.diff_id for layer in image.layers]:
        raise BuildError("the config and the layers do not fit each other", where=image.name)
    platform = (image.config.get("os"), image.config.get("architecture"))
    if platform != ("linux", "amd64"):
        raise BuildError(
            f"the image is for {'/'.join(map(str, platform))}, workers run on linux/amd64",
            where=image.name,
            hint="build or pull it with --platform linux/amd64",
        )


def _is_config(config: Any) -> bool:
    """Whether what is read of a config is of the form that the OCI specification gives it."""
    if not isinstance(config, dict):
        return False
    container = config.get("config") or {}
    if not isinstance(container, dict):
        return False
    lists = (config.get("history") or [], container.get("Env") or [])
    return (
        isinstance(container.get("Labels") or {}, dict)
        and all(isinstance(each, list) for each in lists)
        and all(isinstance(entry, dict) for entry in lists[0])
        and all(isinstance(variable, str) for variable in lists[1])
    )


def _layers(
    manifest: Mapping[str, Any],
    config: Mapping[str, Any],
    content_of: Callable[[Descriptor], Content | None],
    *,
    where: str,
) -> Iterator[Layer]:
    diff_ids = (config.get("rootfs") or {}).get("diff_ids") or []
    described = [Descriptor.from_json(entry) for entry in manifest.get("layers") or []]
    if len(diff_ids) != len(described):
        raise BuildError("the config and the manifest name different layers", where=where)
    steps = _steps(config, len(described))
    kinds = _kinds(config, described, steps)
    for descriptor, diff_id, step, kind in zip(described, diff_ids, steps, kinds, strict=True):
        yield Layer(
            descriptor=descriptor,
            diff_id=check_digest(diff_id),
            comment=_comment(step),
            kind=kind,
            content=content_of(descriptor),
        )


def _steps(config: Mapping[str, Any], count: int) -> list[Mapping[str, Any]]:
    """The entry of the history that each layer comes from; empty ones where they do not fit."""
    entries = [each for each in config.get("history") or [] if not each.get("empty_layer")]
    return [*entries, *({} for _ in range(count))][:count]


def _comment(step: Mapping[str, Any]) -> str:
    return str(step.get("created_by") or step.get("comment") or "").removeprefix(CREATED_BY)


def _kinds(
    config: Mapping[str, Any],
    described: list[Descriptor],
    steps: list[Mapping[str, Any]],
) -> Iterator[LayerKind]:
    """By the config, which every copy of an image has; podman's push drops the layers' annotations."""
    labels = (config.get("config") or {}).get("Labels") or {}
    base, ours = (len(str(labels.get(n) or "").split()) for n in (BASE_LAYERS_LABEL, LAYERS_LABEL))
    if base + ours > len(described):
        ours = 0  # squashed: the labels speak of layers that are no more
    for number, (descriptor, step) in enumerate(zip(described, steps, strict=True)):
        said = descriptor.annotations.get(KIND)
        if str(step.get("created_by") or "").startswith(CREATED_BY):
            said = said or str(step.get("comment"))
        if not ours or number < base:
            yield "base"
        elif number >= base + ours:
            yield "added"
        else:
            yield cast("LayerKind", said) if said in get_args(LayerKind) else "thin"
