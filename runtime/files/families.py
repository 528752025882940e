"""Which model a safetensors file belongs to, by the names and shapes of its tensors.

The width of the cross-attention's input tells the text encoders apart: 768 is SD 1.x, 1024 SD 2.x,
2048 SDXL, 1280 the SDXL refiner. File names, metadata and what a site says are hints at best.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

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
_LORA_DOWN = (".lora_down.weight", ".lora_A.weight", ".lora.down.weight")
_LORA_MARKS = (*_LORA_DOWN, ".hada_w1_a", ".lokr_w1", ".lokr_w1_a", ".oft_blocks", ".on_input")
_TRANSFORMER = ("lora_transformer_", "transformer.")
_BASE_WORDS = (
    ("sdxl", "sdxl"),
    ("xl-v1", "sdxl"),
    ("sd_v2", "sd2"),
    ("diffusion-v2", "sd2"),
    ("sd_v1", "sd1"),
    ("diffusion-v1", "sd1"),
)
"""Words of kohya's and modelspec's metadata; asked only where no tensor tells."""
_SDXL_LORA = re.compile(
    r"^lora_te[12]_|^lora_unet_(?:input|output)_blocks_\d+_1_transformer_blocks_[1-9]"
    r"|text_encoder_2\.|down_blocks_\d_attentions_\d_transformer_blocks_[2-9]_"
)


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


def recognise(header: Header) -> Recognised:
    """Recognises a checked header; `role` is `unknown` where nothing fits."""
    names = header.tensors
    role, family, kind = _identify(names, header.metadata)
    return Recognised(
        role=role,
        family=family,
        kind=kind,
        precision=_precision(names),
        has_ema=any(name.startswith("model_ema.") for name in names),
        size_bytes=header.size_bytes,
    )


_Identity = tuple[Role, str | None, str]


def _identify(names: Mapping[str, Tensor], metadata: Mapping[str, str]) -> _Identity:
    if any(name.endswith(_LORA_MARKS) for name in names):
        return "lora", _lora_family(names, metadata), _lora_kind(names)
    if any(name.startswith(_UNET) for name in names):
        return _identify_checkpoint(names)
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


def _lora_family(names: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str | None:
    if any(name.startswith("lora_demo_") for name in names):
        return "demo"
    if any("double_blocks" in name or name.startswith(_TRANSFORMER) for name in names):
        return "flux"
    for name, tensor in names.items():
        is_context = "attn2" in name and ("to_k" in name or "to_v" in name)
        if is_context and name.endswith(_LORA_DOWN) and len(tensor.shape) > 1:
            family = _WIDTHS.get(tensor.shape[1])
            if family:
                return family
    if any(_SDXL_LORA.search(name) for name in names):
        return "sdxl"
    keys = ("ss_base_model_version", "modelspec.architecture")
    base = " ".join(metadata.get(key, "") for key in keys).lower()
    return next((family for word, family in _BASE_WORDS if word in base), None)


def _lora_kind(names: Mapping[str, Tensor]) -> str:
    marks = (
        (".dora_scale", "DoRA"),
        (".hada_w1_a", "LoHa"),
        (".lokr_w1", "LoKr"),
        (".lokr_w1_a", "LoKr"),
        (".oft_blocks", "OFT"),
        (".on_input", "IA3"),
        (".lora_mid.weight", "LoCon"),
    )
    for mark, kind in marks:
        if any(name.endswith(mark) for name in names):
            return kind
    return "LoRA"


def _precision(names: Mapping[str, Tensor]) -> Precision:
    count: Counter[Precision] = Counter()
    for tensor in names.values():
        count[_PRECISIONS.get(tensor.dtype, "other")] += tensor.size_bytes
    return max(count, key=lambda each: (count[each], each)) if count else "other"
