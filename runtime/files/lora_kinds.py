"""What a LoRA file is: its kind, its family, and whether the webui can use it at all.

The webui (v1.9.3, extensions-builtin/Lora) takes a tensor's name apart at its first dot: what is before it
must name a layer, what is after it is a part. The parts of a layer must make up one of `KINDS`; a layer
that the model has and whose parts do not fails the whole file, a name that is no layer's is passed over.
Both happen without a word to whoever asked, and the file is listed among the applied ones all the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from runtime.files.safetensors import Tensor

KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("LoRA", ("lora_up.weight", "lora_down.weight")),
    ("LoHa", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")),
    ("IA3", ("weight", "on_input")),
    ("LoKr", ("lokr_w1", "lokr_w2")),
    ("LoKr", ("lokr_w1", "lokr_w2_a", "lokr_w2_b")),
    ("LoKr", ("lokr_w1_a", "lokr_w1_b", "lokr_w2")),
    ("LoKr", ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b")),
    ("LoRA of whole weights", ("diff",)),
    ("LoRA of norms", ("w_norm", "b_norm")),
    ("GLoRA", ("a1.weight", "a2.weight", "b1.weight", "b2.weight", "alpha")),
    ("OFT", ("oft_blocks",)),
    ("OFT", ("oft_diag",)),
)
"""Name, and the parts that a layer must have; the first that fits, in the webui's own order."""
_VARIANTS = (("dora_scale", "DoRA"), ("lora_mid.weight", "LoCon"))
_MARKS = (
    ".lora_down.weight", ".hada_w1_a", ".lokr_w1", ".lokr_w1_a", ".oft_blocks", ".oft_diag", ".on_input",
    ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight", "_lora.down.weight", ".w_norm",
)  # fmt: skip
"""How a name ends in a LoRA, whatever its layers are called; the second line has diffusers' and PEFT's."""
_BUNDLED = "bundle_emb."

_BLOCKS = r"(?:input_blocks_\d|middle_block_|output_blocks_\d|time_embed_|label_emb_|out_\d)"
_LAYER = re.compile(
    rf"(?:lora_unet|oft_unet|diffusion_model)_{_BLOCKS}|lora_unet_(?:conv_in|conv_out|time_embedding_linear_\d"
    r"|(?:down|up)_blocks_\d+_|mid_block_)|lora_te[12]?_text_model_|lora_demo_"
    r"|(?:0_)?transformer_text_model_|(?:1_)?model_transformer_resblocks_"
)
"""How the name of a layer begins that the webui may know: kohya's, or the checkpoint's own with underscores."""
_OTHERS: tuple[tuple[str, str], ...] = (
    ("flux", r"double_blocks|single_blocks|single_transformer_blocks"),
    ("sd3", r"joint_blocks|joint_transformer_blocks"),
    ("qwen-image", r"transformer_blocks[._]\d+[._](?:img|txt)_(?:mlp|mod)"),
    (
        "z-image",
        r"(?:noise|context)_refiner|(?:^|[._])layers[._]\d+[._](?:attention|feed_forward|adaLN)",
    ),
    ("wan", r"(?:^|[._])blocks[._]\d+[._](?:cross_attn|self_attn|ffn)[._]"),
    ("qwen-image", r"transformer_blocks[._]\d+[._]attn[._]add_[qkv]_proj"),
)
"""Architectures that the webui has not, by what is in a layer's name; the first that is found."""
_CONVERTER = (
    "the webui maps none of them and would draw without it; convert it to kohya's names "
    "(diffusers.utils.convert_state_dict_to_kohya), or choose a file for the webui"
)
_DOTTED = re.compile(
    r"(?:unet|(?:model\.)?diffusion_model)\.(?:(?:in|out)put_blocks|middle_block)\."
)
"""How names begin that OneTrainer has written for some versions (Nerogar/OneTrainer#885)."""
_RESAVE = (
    "the webui maps none of them and would draw without it; save it again in kohya's format "
    "(names such as lora_unet_…), or choose a file for the webui"
)
_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_CONTEXT = re.compile(r"attn2[._](?:processor[._])?to_[kv]")
_OF_INPUT_WIDTH = (
    ".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", "lora.down.weight",
    ".hada_w1_b", ".b1.weight", ".diff",
)  # fmt: skip
"""Parts whose second dimension is the layer's input."""
_SDXL = re.compile(
    r"^lora_te2_|^\w+_unet_(?:input|output)_blocks_\d+_1_transformer_blocks_[1-9]"
    r"|text_encoder_2\.|down_blocks_\d_attentions_\d_transformer_blocks_[2-9]_"
)
_BASE_WORDS = (
    ("sdxl", "sdxl"),
    ("xl-v1", "sdxl"),
    ("sd_v2", "sd2"),
    ("diffusion-v2", "sd2"),
    ("sd_v1", "sd1"),
    ("diffusion-v1", "sd1"),
)
"""Words of kohya's and modelspec's metadata; asked only where no tensor tells."""


@dataclass(frozen=True, kw_only=True)
class LoraFacts:
    """What a LoRA file is."""

    kind: str
    """In words: a name of `KINDS`, or `DoRA`, `LoCon`, `BOFT`."""
    family: str | None
    """As `Recognised.family`."""
    problem: str
    """Why the webui would draw without it and what to do; empty if it can use it."""


def recognise_lora(names: Mapping[str, Tensor], metadata: Mapping[str, str]) -> LoraFacts | None:
    """None where nothing looks like a LoRA."""
    layers = _layers(names)
    if not (layers or any(name.endswith(_MARKS) for name in names)):
        return None
    kinds = [kind for kind in map(_kind_of, layers.values()) if kind]
    kind = next((kind for kind in kinds if kind != "LoRA"), "LoRA")
    if kind == "OFT" and any(len(each.shape) == 4 for each in names.values()):
        kind = "BOFT"
    family = _family(names, metadata)
    problem = "" if family in _FOREIGN else _problem(names, layers)
    return LoraFacts(kind=kind, family=family, problem=problem)


_FOREIGN = {family for family, _ in _OTHERS}


def _layers(names: Collection[str]) -> dict[str, set[str]]:
    """Layer → its parts, of layers with at least one part of a LoRA."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        layer, _, part = name.partition(".")
        if part and (layer != "bundle_emb"):
            found[layer].add(part)
    known = {part for _, parts in KINDS for part in parts} - {"weight", "alpha"}
    layers = {layer: parts for layer, parts in found.items() if parts & known}
    if any(name.startswith(_BUNDLED) for name in names):
        layers["bundle_emb"] = set()
    return layers


def _kind_of(parts: Collection[str]) -> str | None:
    for kind, needed in KINDS:
        if all(part in parts for part in needed):
            return next((variant for part, variant in _VARIANTS if part in parts), kind)
    return None


def _problem(names: Collection[str], layers: Mapping[str, set[str]]) -> str:
    if "bundle_emb" in layers:
        return ""
    mapped = {layer: parts for layer, parts in layers.items() if _LAYER.match(layer)}
    if not mapped:
        example = min(names)[:100]
        if dotted := min(filter(_DOTTED.match, names), default=""):
            return f"its names are the model's own with dots ({dotted[:100]}): {_RESAVE}"
        maker = "PEFT" if example.startswith("base_model.") else "diffusers"
        if not example.startswith(("lora_", "oft_")):
            return f"its names are those of {maker} ({example}): {_CONVERTER}"
        return f"the webui maps none of its names to a layer ({example}) and would draw without it"
    if broken := sorted(layer for layer, parts in mapped.items() if _kind_of(parts) is None):
        parts = ", ".join(sorted(mapped[broken[0]]))
        return (
            f"the layer {broken[0][:100]} has only {parts}, which is no kind of LoRA that the webui knows: "
            "it would draw without the whole file; choose another file"
        )
    return ""


def _family(names: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str | None:
    if any(name.startswith("lora_demo_") for name in names):
        return "demo"
    for family, pattern in _OTHERS:
        if any(map(re.compile(pattern).search, names)):
            return family
    if by_width := next(_context_families(names), None):
        return by_width
    if any(map(_SDXL.search, names)):
        return "sdxl"
    keys = ("ss_base_model_version", "modelspec.architecture")
    base = " ".join(metadata.get(key, "") for key in keys).lower()
    return next((family for word, family in _BASE_WORDS if word in base), None)


def _context_families(names: Mapping[str, Tensor]) -> Iterator[str]:
    """By the width of the text that the cross-attention takes in."""
    for name, tensor in names.items():
        is_context = name.endswith(_OF_INPUT_WIDTH) and _CONTEXT.search(name)
        if is_context and len(tensor.shape) > 1 and tensor.shape[1] in _WIDTHS:
            yield _WIDTHS[tensor.shape[1]]
