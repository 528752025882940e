"""What a request asks for, once it is checked: values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.job.rules.models import FileRequest, LoraRequest
from runtime.job.rules.scripts import Place
from runtime.job.rules.sizes import Size
from runtime.job.rules.tasks import Endpoint


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """How the pictures are handed over."""

    image_format: str = "png"
    image_quality: int = 90
    delivery: str = "base64"
    if_too_large: str = "error"
    previews: bool = False


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What the pictures that go in add to a request."""

    payload: Mapping[str, Any] = field(default_factory=dict)
    """The webui's fields, in base64."""
    result: Size | None = None
    """What must come of an upscaling."""
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that the webui will honour in full, as far as can be known before it draws."""

    endpoint: Endpoint = "txt2img"
    payload: Mapping[str, Any]
    """What goes to `/sdapi/v1/<endpoint>`; the tags of `loras` and the pictures are not in it yet."""
    pictures: Mapping[str, str]
    """Base64, data URL or address, by the field, such as `init_images[0]`."""
    places: Mapping[str, Place] = field(default_factory=dict)
    """Where in the payload, which has null there, those pictures belong that scripts are given."""
    loras: Sequence[LoraRequest] = ()
    prompt_loras: Sequence[str] = ()
    """Names that the prompts themselves mention, all of them baked."""
    prompt_hypernetworks: Sequence[str] = ()
    embeddings: Sequence[FileRequest] = ()
    """Those of the field `embeddings`, each of which a prompt says."""
    checkpoint: str = ""
    """The name of the baked checkpoint that draws; empty for an upscaling."""
    images: int
    """How many pictures must come back."""
    output: OutputOptions
    notes: Sequence[str] = ()
    """What was accepted although a worker makes nothing of it, or does it another way; for the answer."""
