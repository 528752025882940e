"""`python library_loras.py FOLDER`: LoRAs of the small checkpoint by lycoris-lora, peft and diffusers themselves.

Run in an environment that has them. What they train is not looked at: every weight is made random, and saved
by the library's own code under the library's own names.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya
from lycoris.kohya import create_network
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

ALGORITHMS: dict[str, dict[str, Any]] = {
    "locon": {"algo": "locon"},
    "locon-cp": {"algo": "locon", "use_cp": True, "conv_dim": 4},
    "dora": {"algo": "locon", "dora_wd": True},
    "loha": {"algo": "loha"},
    "lokr": {"algo": "lokr", "factor": 4},
    "lokr-full": {"algo": "lokr", "factor": 4, "full_matrix": True},
    "full": {"algo": "full"},
    "ia3": {"algo": "ia3", "preset": "ia3"},
    "glora": {"algo": "glora"},
    "diag-oft": {"algo": "diag-oft"},
    "boft": {"algo": "boft"},
    "norms": {"algo": "locon", "train_norm": True},
}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def make_models() -> tuple[Any, Any]:
    """The small checkpoint's shapes, in diffusers' layout."""
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=2,
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=32,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32, intermediate_size=128, num_attention_heads=4, num_hidden_layers=12
        )
    )
    return unet, text


def randomise(tensors: dict[str, Any]) -> dict[str, Any]:
    """Small random numbers in place of the zeros that training begins with."""
    torch.manual_seed(1)
    kept = ("alpha", "on_input", "scale")
    return {
        name: value
        if name.endswith(kept) or not value.is_floating_point()
        else value + 0.1 * torch.randn_like(value.float()).to(value.dtype)
        for name, value in tensors.items()
    }


def save(folder: Path, name: str, tensors: dict[str, Any]) -> None:
    for suffix, dtype in DTYPES.items():
        cast = {
            key: (value.to(dtype) if value.is_floating_point() else value).contiguous()
            for key, value in tensors.items()
        }
        save_file(cast, folder / f"lib-{name}-{suffix}.safetensors")


def lycoris(folder: Path) -> None:
    for name, options in ALGORITHMS.items():
        unet, text = make_models()
        network = create_network(1.0, 4, 2, None, text, unet, **{"preset": "attn-mlp", **options})
        network.apply_to(text, unet, apply_text_encoder=True, apply_unet=True)
        path = folder / "lycoris.tmp.safetensors"
        network.save_weights(str(path), torch.float32, {})
        save(folder, f"lycoris-{name}", randomise(load_file(path)))
        path.unlink()


def peft_and_diffusers(folder: Path) -> None:
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["to_k", "to_q", "to_v", "to_out.0"])
    unet, _ = make_models()
    wrapped = get_peft_model(unet, config)
    ours = randomise(get_peft_model_state_dict(wrapped))
    save(folder, "peft", ours)
    plain = {name.removeprefix("base_model.model."): value for name, value in ours.items()}
    target = folder / "diffusers.tmp"
    StableDiffusionPipeline.save_lora_weights(target, unet_lora_layers=plain)
    (path,) = target.glob("*.safetensors")
    saved = load_file(path)
    path.unlink()
    target.rmdir()
    save(folder, "diffusers", saved)
    save(folder, "converted", convert_state_dict_to_kohya(saved))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    out = Path(sys.argv[1])
    lycoris(out)
    peft_and_diffusers(out)
    print(*sorted(path.stem for path in out.glob("lib-*")), sep="\n")
