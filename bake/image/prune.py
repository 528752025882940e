"""Which images of ours in an engine no bake needs any more: bases, and earlier images of the same manifests.

Ours are known by name alone: a base is `bakery.local/base:KEY`, and a worker image without a tag in its
manifest is named after its own digest, in the repository that a build folder's bake has loaded its own to.
With the classic store an image's id is not that digest; there, only what a build folder's record says that
it was loaded as is ours.
Everything else, and every image of a tag that a person gave, is left alone. An image is removed by its tag
and without force: what a container uses, the engine keeps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from docker.errors import APIError, ImageNotFound

from bake.image.build.base import BASE_REPOSITORY
from bake.image.engine.archive import EngineLike, list_present
from bake.image.engine.docker import reason_of
from bake.image.engine.probe import PROBE_REPOSITORY
from bake.image.oci.model import LAYERS_LABEL
from bake.image.saved import IMAGE_FILE
from bake.plan.state import BuildFolder, key_of

NAMED = "named"
"""In a record of `load`: references that were named after their content, and the engine's ids of them."""
_PROBE = re.compile(rf"127\.0\.0\.1:\d+/{PROBE_REPOSITORY}/")


@dataclass(frozen=True, kw_only=True)
class LocalImage:
    """An image of an engine, under one of its names."""

    id: str
    tag: str
    """`repository:tag`."""
    size_bytes: int
    """As the engine counts it: layers that other images share are in it."""
    is_worker: bool = False
    """It has the label of what `bake` assembles."""


@dataclass(frozen=True, kw_only=True)
class Used:
    """What the build folders of this machine refer to."""

    ids: frozenset[str] = field(default_factory=frozenset)
    tags: frozenset[str] = field(default_factory=frozenset)
    repositories: frozenset[str] = field(default_factory=frozenset)
    """Where their worker images were loaded to."""
    loaded: Mapping[str, str] = field(default_factory=dict)
    """References that a bake has made up and loaded, and the engine's ids of them."""


@dataclass(frozen=True, kw_only=True)
class Stale:
    """An image that nothing here needs."""

    image: LocalImage
    kind: Literal["base", "worker", "probe"]


def plan_prune(
    images: Iterable[LocalImage], used: Used, *, bases: str = BASE_REPOSITORY
) -> list[Stale]:
    """Chooses what is ours and not used, by name; `bases` is the repository of built bases."""
    stale = []
    for image in sorted(images, key=lambda image: image.tag):
        repository, _, tag = image.tag.rpartition(":")
        if _PROBE.match(repository):  # of a bake that was killed in that very moment
            stale.append(Stale(image=image, kind="probe"))
            continue
        if image.id in used.ids or image.tag in used.tags:
            continue
        if repository == bases and re.fullmatch(r"[0-9a-f]{16}", tag):
            stale.append(Stale(image=image, kind="base"))
        elif image.is_worker and _is_named_by_bake(image, used):
            stale.append(Stale(image=image, kind="worker"))
    return stale


def _is_named_by_bake(image: LocalImage, used: Used) -> bool:
    repository, _, tag = image.tag.rpartition(":")
    if used.loaded.get(image.tag) == image.id:
        return True
    return repository in used.repositories and tag == image.id[7:19]


def named_by_content(folder: BuildFolder) -> dict[str, str]:
    """What the record of a folder's loads says of references that were made up for it."""
    record = folder.record("load")
    named = record.result.get(NAMED) if record else None
    if not isinstance(named, dict):
        return {}
    return {str(reference): str(image_id) for reference, image_id in named.items()}


def list_images(engine: EngineLike) -> list[LocalImage]:
    """Every image of an engine, under each of its names."""
    return [
        LocalImage(
            id=str(found.id),
            tag=tag,
            size_bytes=int(found.attrs.get("Size") or 0),
            is_worker=LAYERS_LABEL in found.labels,
        )
        for found in list_present(engine)
        for tag in found.tags
    ]


def find_used(build_dir: Path, *, bases: str = BASE_REPOSITORY) -> Used:
    """What the records and the assembled images of all build folders in `build_dir` refer to."""
    ids, tags, repositories = set(), set(), set()
    loaded: dict[str, str] = {}
    for root in sorted(path for path in build_dir.glob("*") if path.is_dir()):
        folder = BuildFolder(root)
        base, load = folder.record("base"), folder.record("load")
        if base:
            ids.add(str(base.result.get("image")))
            tags.add(f"{bases}:{key_of(base.document)[:16]}")
        if load:
            reference = str(load.result.get("reference"))
            ids.add(str(load.result.get("id")))
            tags.add(reference)
            repositories.add(reference.rpartition(":")[0])
        loaded |= named_by_content(folder)
        ids.update(_bases_of_image(root / IMAGE_FILE))
    return Used(
        ids=frozenset(ids),
        tags=frozenset(tags),
        repositories=frozenset(repositories),
        loaded=loaded,
    )


def remove_stale(engine: EngineLike, stale: Iterable[Stale]) -> Iterator[tuple[Stale, str]]:
    """Removes images, one by one; gives each with the reason why it is still there, or nothing."""
    for each in stale:
        try:
            engine.client.images.remove(each.image.tag)
        except ImageNotFound:
            pass
        except APIError as error:
            yield each, reason_of(error)
            continue
        yield each, ""


def _bases_of_image(path: Path) -> Iterator[str]:
    """The engine's images that a push of an assembled image reads the base's layers from."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        layers: list[dict[str, Any]] = json.loads(path.read_bytes())["layers"]
        for layer in layers:
            content = layer["content"] or {}
            if content.get("from") == "engine":
                yield str(content["image"])
