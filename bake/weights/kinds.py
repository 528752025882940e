"""Which model a safetensors file belongs to, by the names and shapes of its tensors.

The width of the cross-attention's input tells the text encoders apart: 768 is SD 1.x, 1024 SD 2.x,
2048 SDXL, 1280 the SDXL refiner. File names, metadata and what a site says are hints at best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from runtime.files.lora_kinds import recognise_lora
from runtime.files.safetensors import Header, Tensor

Role = Literal["checkpoint", "vae", "lora", "embedding", "unknown"]
Precision = Literal["fp16", "bf16", "fp32", "fp8", "other"]

_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl-refiner"}
_PRECISIONS: dict[str, Precision] = {
    "F16": "fp16",
    "BF16": "bf16",
    "F32": "fp32",
    "F8_E4M3": "fp8",
    "F8_E5M2": "fp8",
}
_BARE = ("down_blocks.", "double_blocks.", "joint_blocks.")
_UNET = "model.diffusion_model."
_Identity = tuple[Role, str | None, str]
"""Role, family and kind."""


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """What a file is."""

    role: Role
    family: str | None
    """`sd1`, `sd2`, `sdxl`, `demo`, a name that no manifest can have (`sdxl-refiner`, `sd3`, `flux`),
    or None where the tensors do not tell (a VAE fits several)."""
    kind: str
    """In words, such as `checkpoint`, `inpainting checkpoint`, `LoRA`, `LoHa`, `VAE`."""
    precision: Precision
    """Of most of its bytes."""
    has_ema: bool = False
    """It carries a second set of weights (EMA) that inference does not need."""
    size_bytes: int = 0
    problem: str = ""
    """Why the webui cannot use it although it is what it should be, and what to do."""


def recognise(header: Header) -> Recognised:
    """Recognises a checked header; `role` is `unknown` where nothing fits."""
    names = header.tensors
    lora = recognise_lora(names, header.metadata)
    identity: _Identity = ("lora", lora.family, lora.kind) if lora else _identify(names)
    role, family, kind = identity
    return Recognised(
        role=role,
        family=family,
        kind=kind,
        precision=_precision(names),
        has_ema=any(name.startswith("model_ema.") for name in names),
        size_bytes=header.size_bytes,
        problem=lora.problem if lora else "",
    )


def _identify(names: Mapping[str, Tensor]) -> _Identity:
    if any(name.startswith(_UNET) for name in names):
        return _identify_checkpoint(names)
    if not names:
        return "unknown", None, "a file without a tensor"
    for matches, identity in _OTHERS:
        if matches(names.keys()):
            return identity
    return "unknown", None, "a file of tensors that are not known here"


_OTHERS: tuple[tuple[Callable[[Collection[str]], bool], _Identity], ...] = (
    (
        lambda names: all(name.startswith("demo.") for name in names),
        ("checkpoint", "demo", "checkpoint"),
    ),
    (
        lambda names: any(name.endswith("decoder.conv_in.weight") for name in names),
        ("vae", None, "VAE"),
    ),
    (lambda names: "clip_g" in names, ("embedding", "sdxl", "embedding")),
    (lambda names: "emb_params" in names, ("embedding", None, "embedding")),
    (
        lambda names: any(name.startswith("control_model.") for name in names),
        ("unknown", None, "a ControlNet"),
    ),
    (
        lambda names: any(name.startswith(_BARE) for name in names),
        ("unknown", None, "a bare UNet or transformer without its text encoder and VAE"),
    ),
)


def _identify_checkpoint(names: Mapping[str, Tensor]) -> tuple[Role, str | None, str]:
    if any(name.startswith(_UNET + "joint_blocks.") for name in names):
        return "checkpoint", "sd3", "checkpoint"
    if any(name.startswith(_UNET + "double_blocks.") for name in names):
        return "checkpoint", "flux", "checkpoint"
    family = None
    for name, tensor in names.items():
        if name.startswith(_UNET) and name.endswith("attn2.to_k.weight") and len(tensor.shape) == 2:
            family = _WIDTHS.get(tensor.shape[1])
            break
    first = names.get(_UNET + "input_blocks.0.0.weight")
    channels = first.shape[1] if first is not None and len(first.shape) > 1 else 4
    kind = {9: "inpainting checkpoint", 8: "image-editing checkpoint"}.get(channels, "checkpoint")
    encoders = ("cond_stage_model.", "conditioner.")
    if not any(name.startswith(encoders) for name in names):
        return "unknown", family, "a UNet without its text encoder"
    return "checkpoint", family, kind


def _precision(names: Mapping[str, Tensor]) -> Precision:
    count: Counter[Precision] = Counter()
    for tensor in names.values():
        count[_PRECISIONS.get(tensor.dtype, "other")] += tensor.size_bytes
    return max(count, key=lambda each: (count[each], each)) if count else "other"
