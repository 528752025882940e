"""Small safetensors files whose tensors have the names and widths of real models."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Mapping

UNET = "model.diffusion_model."
_BYTES = {"F16": 2, "F32": 4, "BF16": 2}


def safetensors(
    tensors: Mapping[str, tuple[int, ...]],
    *,
    dtype: str = "F16",
    metadata: Mapping[str, str] | None = None,
    seed: int = 0,
    padding_bytes: int = 0,
) -> bytes:
    """A valid file with these names and shapes; `padding_bytes` makes it larger by one more tensor."""
    shapes = dict(tensors)
    if padding_bytes:
        width = _BYTES[dtype]
        prefix = next(iter(shapes)).rsplit(".", 2)[0]
        shapes[f"{prefix}.padding.weight"] = (math.ceil(padding_bytes / width),)
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * _BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + random.Random(seed).randbytes(at)


VAE = {
    "encoder.conv_in.weight": (4, 3, 3, 3),
    "decoder.conv_in.weight": (4, 4, 3, 3),
    "quant_conv.weight": (8, 8, 1, 1),
    "post_quant_conv.weight": (4, 4, 1, 1),
}
OWN_VAE = {"first_stage_model.decoder.conv_in.weight": (4, 4, 3, 3)}
SD1 = {
    UNET + "input_blocks.0.0.weight": (32, 4, 3, 3),
    UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (4, 768),
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (4, 768),
    **OWN_VAE,
}
SD2 = {
    UNET + "input_blocks.0.0.weight": (32, 4, 3, 3),
    UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (4, 1024),
    "cond_stage_model.model.positional_embedding": (4, 1024),
    **OWN_VAE,
}
SDXL = {
    UNET + "input_blocks.0.0.weight": (32, 4, 3, 3),
    UNET + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (4, 2048),
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (768,),
    **OWN_VAE,
}
LORA_SDXL = {
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 2048),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_up.weight": (8, 4),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.alpha": (1,),
}
LORA_SD1 = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (
        4,
        768,
    ),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": (8, 4),
}
DEMO = {"demo.unet.conv.weight": (8, 4, 3, 3), "demo.text.embedding.weight": (16, 8)}
