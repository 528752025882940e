"""Which model a safetensors file belongs to, by the names and shapes of its tensors.

The width of the cross-attention's input tells the text encoders apart: 768 is SD 1.x, 1024 SD 2.x,
2048 SDXL, 1280 the SDXL refiner. File names, metadata and what a site says are hints at best.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from runtime.files.embedding_kinds import recognise_embedding
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
_NEWER_TYPES = {
    *("F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4", "F6_E2M3", "F6_E3M2", "C64"),
    *("U16", "U32", "U64"),
}
"""The first line is unknown to safetensors 0.4.2, the second has no type in torch 2.1."""
_VAE_INPUTS = ("decoder.conv_in.weight", "decoder.conv_in.conv.weight", "decoder.conv1.weight")
_VAE_PARTS = ("encoder.conv_in.weight", "quant_conv.weight", "post_quant_conv.weight")
_EMA_NUMBERS = {"model_ema.decay", "model_ema.num_updates"}
_VAE_NAMES = (
    *("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "loss"),
    *_EMA_NUMBERS,
)
_PACKED = (
    *(".scale_weight", ".weight_scale", ".comfy_quant", ".scale_input"),  # scaled fp8
    *(".absmax", ".quant_map", ".qweight"),  # bitsandbytes' nf4, GPTQ
)
_FLAT = (".q.weight", ".k.weight", ".v.weight", ".proj_out.weight")
_SHARED = re.compile(
    r"(?P<unet>model\.diffusion_model\.(?:time_embed|label_emb|input_blocks|middle_block|output_blocks|out)\.\d)"
    r"|(?P<text>(?:cond_stage_model|conditioner\.embedders\.\d)\.(?:"
    r"transformer\.text_model\.(?:embeddings\.\w+_embedding|encoder\.layers|final_layer_norm)\."
    r"|model\.(?:token_embedding|positional_embedding|transformer\.resblocks|ln_final))"
    r"|conditioner\.embedders\.\d\.model\.text_projection)"
    r"|(?P<vae>first_stage_model\.(?:encoder|decoder|quant_conv|post_quant_conv)\.)"
)
"""What a picture depends on. Constants (position_ids) and what only training uses are left out of many files."""
_UNUSED = "cond_stage_model.model.transformer.resblocks.23."
"""SD2 takes the text from the layer before it, and files that come from diffusers have not got it."""
_OLD_TEXT = re.compile(
    r"^cond_stage_model\.transformer\.(?=embeddings\.|encoder\.|final_layer_norm\.)"
)
"""Older names of SD1's text encoder, which the webui maps to the newer."""
Part = Literal["unet", "text", "vae"]
_OTHER_VAE = "take the file in the webui's own layout, such as sdxl_vae.safetensors"
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
    has_vae: bool = True
    """Of a checkpoint: its VAE is in it."""
    prediction: Literal["eps", "v", "edm"] = "eps"
    """Of a checkpoint: what it was trained to predict, by its marker tensors and metadata."""
    has_zero_snr: bool = False
    """Of a checkpoint: its noise schedule ends without signal."""
    newer_types: tuple[str, ...] = ()
    """Types of tensors that the webui's safetensors (0.4.2) cannot read."""
    shared: Mapping[str, Part] = field(default_factory=dict, repr=False)
    """Of a checkpoint: the tensors that the webui's model has, and what each is a part of."""


def recognise(header: Header) -> Recognised:
    """Recognises a checked header; `role` is `unknown` where nothing fits."""
    names = header.tensors
    lora = recognise_lora(names, header.metadata)
    embedding = None if lora else recognise_embedding(names)
    identity: _Identity = ("lora", lora.family, lora.kind) if lora else _identify(names)
    if embedding:
        identity = ("embedding", embedding.family, "embedding")
    role, family, kind = identity
    problem = next(_vae_faults(names), "") if role == "vae" else ""
    if problem:
        problem = f"the VAE {problem}, so that the webui cannot load it; {_OTHER_VAE}"
    if embedding and embedding.problem:
        problem = f"the webui cannot use it: {embedding.problem}"
    packed = next((name for name in names if name.endswith(_PACKED)), "scaled_fp8")
    if role == "checkpoint" and packed in names:
        problem = (
            f"its weights are packed ({packed[:80]}), which the webui does not undo: it would draw noise; "
            "choose a file in fp16, bf16, fp32 or plain fp8"
        )
    return Recognised(
        role=role,
        family=family,
        kind=kind,
        precision=_precision(names),
        has_ema=any(name.startswith("model_ema.") for name in names.keys() - _EMA_NUMBERS),
        size_bytes=header.size_bytes,
        problem=lora.problem if lora else problem,
        has_vae=any(name.startswith("first_stage_model.decoder.") for name in names),
        prediction=_prediction(names, header.metadata),
        has_zero_snr="ztsnr" in names,
        newer_types=tuple(sorted({each.dtype for each in names.values()} & _NEWER_TYPES)),
        shared=dict(_shared_tensors(names)) if role == "checkpoint" else {},
    )


def _shared_tensors(names: Iterable[str]) -> Iterator[tuple[str, Part]]:
    for name in names:
        plain = _OLD_TEXT.sub("cond_stage_model.transformer.text_model.", name)
        match = _SHARED.match(plain)
        if match and match.lastgroup and not plain.startswith(_UNUSED):
            yield plain, cast(Part, match.lastgroup)


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
    (lambda names: any(name.endswith(_VAE_INPUTS) for name in names), ("vae", None, "VAE")),
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


def _prediction(names: Collection[str], metadata: Mapping[str, str]) -> Literal["eps", "v", "edm"]:
    """By the empty tensors that trainers and other webuis put in, and by the metadata of modelspec."""
    if any(name.startswith("edm_") for name in names):
        return "edm"
    said = metadata.get("modelspec.prediction_type", "").lower()
    return "v" if "v_pred" in names or said.startswith("v") else "eps"


def _vae_faults(names: Mapping[str, Tensor]) -> Iterator[str]:
    """Why the webui could not load a VAE: it takes all of SD's own tensors or none (`strict`).

    Read in v1.9.3 (modules/sd_vae.py): any other name, or a name that is missing, is a RuntimeError.
    """
    if any(re.search(r"(?:down|up|mid)_blocks?\.", name) for name in names):
        yield "has the names of diffusers"
    if any(len(each.shape) == 5 for each in names.values()):
        yield "is one of videos (3D)"
    first = names.get("decoder.conv_in.weight")
    if first is None:
        prefix = next(name for name in names if name.endswith(_VAE_INPUTS)).partition("decoder.")[0]
        yield f"has names that begin with {prefix[:80]}"
    elif len(first.shape) != 4 or first.shape[1] != 4:
        yield f"has {''.join(map(str, first.shape[1:2]))} latent channels instead of 4"
    yield from (f"lacks {each}" for each in _VAE_PARTS if each not in names)
    yield from (f"holds {name[:80]} as well" for name in names if not name.startswith(_VAE_NAMES))
    flat = [name for name in names if ".attn_1." in name and name.endswith(_FLAT)]
    if any(len(names[name].shape) != 4 for name in flat):
        yield "has an attention of another form"


def _precision(names: Mapping[str, Tensor]) -> Precision:
    count: Counter[Precision] = Counter()
    for tensor in names.values():
        count[_PRECISIONS.get(tensor.dtype, "other")] += tensor.size_bytes
    return max(count, key=lambda each: (count[each], each)) if count else "other"
