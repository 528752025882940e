"""An assembled image on disk, `image.json`: its documents, and where each layer's bytes are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bake.errors import BuildError
from bake.files import write_atomically
from bake.image.engine.archive import EngineContent, EngineLike
from bake.image.oci.layers import PlacedFile, WeightsContent
from bake.image.oci.model import Content, Descriptor, FileContent, Image, Layer
from bake.image.registry.client import RegistryContent

IMAGE_FILE = "image.json"


def save_image(image: Image, folder: Path) -> Path:
    """Writes `image.json` into a folder. Blobs in the folder are named relative to it.

    Raises:
        TypeError: a layer's content lies in memory only.
    """
    data = {
        "digest": image.digest,
        "manifest": image.manifest_json.decode(),
        "config": image.config_json.decode(),
        "layers": [
            {
                "descriptor": layer.descriptor.as_json(),
                "diff_id": layer.diff_id,
                "comment": layer.comment,
                "kind": layer.kind,
                "content": _relative(layer.content.describe(), folder) if layer.content else None,
            }
            for layer in image.layers
        ],
    }
    path = folder / IMAGE_FILE
    write_atomically(path, json.dumps(data, sort_keys=True, indent=1) + "\n")
    return path


def load_saved_image(folder: Path, *, engine: EngineLike | None = None) -> Image:
    """Reads what `save_image` wrote. Files of layers are looked for when they are read.

    Args:
        folder: The build folder.
        engine: Where a base that was read from an engine is; connected to when needed if not given.

    Raises:
        BuildError: there is no such file, or it is damaged.
    """
    path = folder / IMAGE_FILE
    try:
        data = json.loads(path.read_bytes())
        image = Image(
            manifest_json=data["manifest"].encode(),
            config_json=data["config"].encode(),
            layers=tuple(_layer(each, folder, engine) for each in data["layers"]),
        )
        named = (image.digest, image.manifest["config"]["digest"])
        is_whole = named == (data["digest"], image.config_digest)
    except FileNotFoundError as error:
        raise BuildError(
            "there is no baked image here", where=str(folder), hint="bake image MANIFEST"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        is_whole = False
    if not is_whole:
        raise BuildError("is damaged", where=str(path), hint="bake the image again")
    return image


def _layer(data: Mapping[str, Any], folder: Path, engine: EngineLike | None) -> Layer:
    return Layer(
        descriptor=Descriptor.from_json(data["descriptor"]),
        diff_id=data["diff_id"],
        comment=data["comment"],
        kind=data["kind"],
        content=_content(data["content"], folder, engine) if data["content"] else None,
    )


def _content(data: Mapping[str, Any], folder: Path, engine: EngineLike | None) -> Content:
    kind = data["from"]
    if kind == "file":
        return FileContent(path=folder / data["path"])
    if kind == "engine":
        return EngineContent(image=data["image"], member=data["member"], engine=engine)
    if kind == "registry":
        return RegistryContent(
            host=data["host"], repository=data["repository"], digest=data["digest"]
        )
    if kind == "store":
        return WeightsContent(
            files=tuple(
                PlacedFile(
                    path=PurePosixPath(file["path"]),
                    source=Path(file["source"]),
                    size_bytes=file["size_bytes"],
                    sha256=file["sha256"],
                )
                for file in data["files"]
            )
        )
    raise ValueError(f"content from {kind!r}")


def _relative(described: dict[str, Any], folder: Path) -> dict[str, Any]:
    if described["from"] != "file":
        return described
    path = Path(described["path"]).absolute()
    inside = path.is_relative_to(folder.absolute())
    return {**described, "path": str(path.relative_to(folder.absolute()) if inside else path)}
