"""Base layers, weights layers and thin layers become one image, by computation only.

The same base, layers and settings give the same manifest, on any machine at any time: nothing here
reads a clock, a file or the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bake.image.oci.model import (
    BASE_LAYERS_LABEL,
    CREATED,
    CREATED_BY,
    KIND,
    LAYERS_LABEL,
    Descriptor,
    Image,
    Layer,
    canonical_json,
    make_manifest,
)
from bake.image.oci.parse import check_image

# What the OCI specification knows; engines add fields of their own that differ between their stores.
_CONFIG_KEYS = ("architecture", "author", "os", "os.features", "os.version", "variant")
_CONTAINER_KEYS = (
    "Cmd", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "Labels", "Shell", "StopSignal", "User", "Volumes", "WorkingDir",
)  # fmt: skip


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
    base: Image,
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
    check_image(base)
    # A base may be an image of ours: here it is a base.
    below = (replace(layer, kind="base", comment="") for layer in base.layers)
    everything = (*below, *layers)
    config_json = canonical_json(_config(base, layers, config))
    manifest_json = make_manifest(
        config_json, [_described(layer) for layer in everything], annotations=annotations
    )
    return Image(manifest_json=manifest_json, config_json=config_json, layers=everything)


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


def _config(base: Image, layers: Sequence[Layer], config: ImageConfig) -> dict[str, Any]:
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


def _base_history(base: Image) -> list[Mapping[str, Any]]:
    """The base's history; filled up where it has fewer entries than layers, as squashed images do."""
    history = list(base.config.get("history") or [])
    with_layer = sum(not entry.get("empty_layer") for entry in history)
    missing = len(base.layers) - with_layer
    if missing < 0:
        return [{"created": CREATED, "comment": "base"} for _ in base.layers]
    return [*history, *({"created": CREATED, "comment": "base"} for _ in range(missing))]
