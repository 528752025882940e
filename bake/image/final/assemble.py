"""Base layers, weights layers and thin layers become one image, by computation only.

The same base, layers and settings give the same manifest, on any machine at any time: nothing here
reads a clock, a file or the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bake.errors import BuildError
from bake.image.oci.model import (
    CONFIG,
    CREATED,
    CREATED_BY,
    KIND,
    MANIFEST,
    Descriptor,
    Image,
    Layer,
    canonical_json,
    sha256_digest,
)

BASE_DIGEST_LABEL = "org.opencontainers.image.base.digest"
BASE_LAYERS_LABEL = "bakery.base.layers"
"""The base's blobs, space-separated: what lies above them is ours to answer for."""
LAYERS_LABEL = "bakery.layers"
"""Our blobs above them: an engine does not say which blobs an image of its own is made of."""
# What the OCI specification knows; engines add fields of their own that differ between their stores.
_CONFIG_KEYS = ("architecture", "author", "os", "os.features", "os.version", "variant")
_CONTAINER_KEYS = (
    "Cmd", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "Labels", "Shell", "StopSignal", "User", "Volumes", "WorkingDir",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BaseImage:
    """The image that lies below ours."""

    name: str
    """What it was asked for by: a reference, or an engine's image id."""
    identity: str
    """The manifest's digest; for an engine with the classic store the config's, as it has no other."""
    config: Mapping[str, Any]
    layers: tuple[Layer, ...]
    manifest_json: bytes = b""
    """As it was read; a legacy archive has none."""

    @property
    def labels(self) -> dict[str, str]:
        """The base's labels."""
        return dict((self.config.get("config") or {}).get("Labels") or {})


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How a container of the image starts."""

    entrypoint: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    """Set over the base's."""
    workdir: str = ""
    """Empty: the base's."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Added to the base's."""


def assemble(
    base: BaseImage,
    *,
    layers: Sequence[Layer],
    config: ImageConfig,
    annotations: Mapping[str, str] | None = None,
) -> Image:
    """Puts `layers` on a base, the first directly above it.

    Args:
        base: Its layers stay what they are, by reference.
        layers: Weights first, then thin layers, so that an edit of the runtime moves no weights.
        config: Entry point, environment and labels of the image.
        annotations: Of the manifest.

    Raises:
        BuildError: the base's config does not fit its layers, or the platform is not linux/amd64.
    """
    check_base(base)
    everything = (*base.layers, *layers)
    config_json = canonical_json(_config(base, layers, config))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": Descriptor(
            media_type=CONFIG, digest=sha256_digest(config_json), size_bytes=len(config_json)
        ).as_json(),
        "layers": [_described(layer).as_json() for layer in everything],
        **({"annotations": dict(annotations)} if annotations else {}),
    }
    return Image(manifest_json=canonical_json(manifest), config_json=config_json, layers=everything)


def check_base(base: BaseImage) -> None:
    """Raises BuildError where a base's config is of no form, or of other layers."""
    if not _is_config(base.config):
        raise BuildError("its config is not that of an image", where=base.name)
    diff_ids = (base.config.get("rootfs") or {}).get("diff_ids") or []
    if diff_ids != [layer.diff_id for layer in base.layers]:
        raise BuildError("the base's config and its layers do not fit each other", where=base.name)
    platform = (base.config.get("os"), base.config.get("architecture"))
    if platform != ("linux", "amd64"):
        raise BuildError(
            f"the base is for {'/'.join(map(str, platform))}, workers run on linux/amd64",
            where=base.name,
            hint="build or pull it with --platform linux/amd64",
        )


def _is_config(config: Any) -> bool:
    """Whether what is read of a config is of the form that the OCI specification gives it."""
    container = config.get("config") or {}
    lists = (config.get("history") or [], container.get("Env") or [])
    return (
        isinstance(container, dict)
        and isinstance(container.get("Labels") or {}, dict)
        and all(isinstance(each, list) for each in lists)
        and all(isinstance(entry, dict) for entry in lists[0])
        and all(isinstance(variable, str) for variable in lists[1])
    )


def _described(layer: Layer) -> Descriptor:
    """The descriptor with the layer's kind in it; a base layer's stays as its registry has it."""
    if layer.kind == "base":
        return layer.descriptor
    descriptor = layer.descriptor
    return Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size_bytes=descriptor.size_bytes,
        annotations={**descriptor.annotations, KIND: layer.kind},
    )


def _config(base: BaseImage, layers: Sequence[Layer], config: ImageConfig) -> dict[str, Any]:
    container = dict(base.config.get("config") or {})
    kept = {key: container[key] for key in _CONTAINER_KEYS if container.get(key)}
    kept.pop("Cmd", None)  # it would become arguments of our entry point
    kept["Entrypoint"] = list(config.entrypoint)
    kept["Env"] = _merged_env(kept.get("Env") or [], config.env)
    kept["Labels"] = {
        **base.labels,
        **config.labels,
        BASE_LAYERS_LABEL: " ".join(layer.digest for layer in base.layers),
        LAYERS_LABEL: " ".join(layer.digest for layer in layers),
    }
    if config.workdir:
        kept["WorkingDir"] = config.workdir
    return {
        **{key: base.config[key] for key in _CONFIG_KEYS if base.config.get(key)},
        "created": CREATED,
        "config": kept,
        "rootfs": {
            "type": "layers",
            "diff_ids": [layer.diff_id for layer in (*base.layers, *layers)],
        },
        "history": [
            *_base_history(base),
            *(
                {
                    "created": CREATED,
                    "created_by": CREATED_BY + layer.comment,
                    "comment": layer.kind,
                }
                for layer in layers
            ),
        ],
    }


def _merged_env(base: Sequence[str], ours: Mapping[str, str]) -> list[str]:
    """The base's order, our values; new names come last, in their order."""
    merged = dict(each.partition("=")[::2] for each in base)
    merged.update(ours)
    return [f"{name}={value}" for name, value in merged.items()]


def _base_history(base: BaseImage) -> list[Mapping[str, Any]]:
    """The base's history; filled up where it has fewer entries than layers, as squashed images do."""
    history = list(base.config.get("history") or [])
    with_layer = sum(not entry.get("empty_layer") for entry in history)
    missing = len(base.layers) - with_layer
    if missing < 0:
        return [{"created": CREATED, "comment": "base"} for _ in base.layers]
    return [*history, *({"created": CREATED, "comment": "base"} for _ in range(missing))]
