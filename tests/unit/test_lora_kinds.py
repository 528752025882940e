"""What a LoRA file is, by its tensors' names: what webui v1.9.3 maps, and what it would pass over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from bake.weights.kinds import Recognised, recognise
from runtime.files.safetensors import read_header
from tests.standins.models import safetensors

Shapes = Mapping[str, tuple[int, ...]]
SD1_CROSS = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
SDXL_CROSS = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k"
TE = "text_model_encoder_layers_0_mlp_fc1"
DIFFUSERS = "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k"


def of(layer: str, **parts: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{layer}.{part.replace('__', '.')}": shape for part, shape in parts.items()}


def lora(layer: str, width: int = 768, rank: int = 4) -> dict[str, tuple[int, ...]]:
    return of(layer, lora_down__weight=(rank, width), lora_up__weight=(8, rank))


def look(tmp_path: Path, tensors: Shapes) -> Recognised:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors(tensors))
    return recognise(read_header(path))


HADA = {"hada_w1_a": (8, 4), "hada_w1_b": (4, 768), "hada_w2_a": (8, 4), "hada_w2_b": (4, 768)}
GLORA = {"a1__weight": (4, 8), "a2__weight": (8, 4), "b1__weight": (4, 2048), "b2__weight": (8, 4)}


@pytest.mark.parametrize(
    ("tensors", "kind", "family"),
    [
        (lora(SD1_CROSS), "LoRA", "sd1"),
        (lora(SDXL_CROSS, 2048), "LoRA", "sdxl"),
        (lora("lora_unet_output_blocks_0_1_transformer_blocks_9_attn1_to_q"), "LoRA", "sdxl"),
        (lora(f"lora_te_{TE}"), "LoRA", None),
        (lora(f"lora_te1_{TE}"), "LoRA", None),
        ({**lora(f"lora_te1_{TE}"), **lora(SD1_CROSS)}, "LoRA", "sd1"),
        ({**lora(f"lora_te1_{TE}"), **lora(f"lora_te2_{TE}", 1280)}, "LoRA", "sdxl"),
        (of(SD1_CROSS, **HADA), "LoHa", "sd1"),
        (of(SD1_CROSS, lokr_w1=(4, 4), lokr_w2=(2, 192)), "LoKr", None),
        (of(SD1_CROSS, lokr_w1=(4, 4), lokr_w2_a=(2, 2), lokr_w2_b=(2, 192)), "LoKr", None),
        (of(SD1_CROSS, lokr_w1_a=(4, 2), lokr_w1_b=(2, 4), lokr_w2=(2, 192)), "LoKr", None),
        (of(SD1_CROSS, weight=(8,), on_input=()), "IA3", None),
        (of(SD1_CROSS, diff=(8, 768)), "LoRA of whole weights", "sd1"),
        (of("lora_unet_conv_in", diff=(8, 4, 3, 3), diff_b=(8,)), "LoRA of whole weights", None),
        (of("lora_unet_input_blocks_4_1_norm", w_norm=(8,), b_norm=(8,)), "LoRA of norms", None),
        (of(SDXL_CROSS, alpha=(), **GLORA), "GLoRA", "sdxl"),
        (of(SD1_CROSS, oft_blocks=(2, 4, 4)), "OFT", None),
        (of("oft_unet_input_blocks_4_1_proj_in", oft_blocks=(2, 4, 4)), "OFT", None),
        (of(SD1_CROSS, oft_blocks=(2, 2, 4, 4)), "BOFT", None),
        (of(SD1_CROSS, oft_diag=(2, 4, 4)), "OFT", None),
        ({**lora(SD1_CROSS), f"{SD1_CROSS}.dora_scale": (8, 1)}, "DoRA", "sd1"),
        ({**lora(SD1_CROSS), f"{SD1_CROSS}.lora_mid.weight": (4, 4, 3, 3)}, "LoCon", "sd1"),
        ({"bundle_emb.word.string_to_param.*": (1, 768), **lora(SD1_CROSS)}, "LoRA", "sd1"),
        (lora("lora_demo_conv", 4), "LoRA", "demo"),
        # OneTrainer trains the text projection too, which the webui passes over: the rest is applied.
        ({**lora(SDXL_CROSS, 2048), **lora("lora_te2_text_projection", 1280)}, "LoRA", "sdxl"),
    ],
)
def test_kinds_that_the_webui_applies(
    tmp_path: Path, tensors: Shapes, kind: str, family: str | None
) -> None:
    found = look(tmp_path, tensors)
    assert (found.role, found.kind, found.family, found.problem) == ("lora", kind, family, "")


@pytest.mark.parametrize(
    ("tensors", "who"),
    [
        ({f"{DIFFUSERS}.lora.down.weight": (4, 2048)}, "diffusers"),
        ({f"{DIFFUSERS}.lora_A.weight": (4, 2048)}, "diffusers"),
        ({f"{DIFFUSERS}.lora_down.weight": (4, 2048)}, "diffusers"),
        ({f"{DIFFUSERS}.processor.to_k_lora.down.weight": (4, 2048)}, "diffusers"),
        ({f"{DIFFUSERS}.hada_w1_a": (4, 2048)}, "diffusers"),
        ({"text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": (4, 768)}, "diffusers"),
        ({f"base_model.model.{DIFFUSERS[5:]}.lora_A.weight": (4, 2048)}, "PEFT"),
        ({f"base_model.model.{DIFFUSERS[5:]}.lora_A.default.weight": (4, 2048)}, "PEFT"),
    ],
)
def test_names_of_diffusers_and_peft_are_refused_with_the_converter(
    tmp_path: Path, tensors: Shapes, who: str
) -> None:
    found = look(tmp_path, tensors)
    assert found.role == "lora"
    assert f"its names are those of {who} (" in found.problem
    assert "draw without it; convert it to kohya's names" in found.problem


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], "flux"),
        (["lora_unet_single_blocks_0_linear1.lora_down.weight"], "flux"),
        (["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "flux"),
        (["diffusion_model.double_blocks.0.img_attn.qkv.lora_down.weight"], "flux"),
        (["lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight"], "sd3"),
        (["diffusion_model.blocks.0.cross_attn.k.lora_A.weight"], "wan"),
        (["lora_unet_blocks_0_self_attn_q.lora_down.weight"], "wan"),
        (["diffusion_model.layers.0.attention.to_q.lora_A.weight"], "z-image"),
        (["lora_unet_noise_refiner_0_attention_qkv.lora_down.weight"], "z-image"),
        (["transformer_blocks.0.img_mlp.net.0.proj.lora_A.default.weight"], "qwen-image"),
        (["transformer.transformer_blocks.0.attn.add_q_proj.lora_A.weight"], "qwen-image"),
    ],
)
def test_other_architectures_are_named(tmp_path: Path, names: list[str], family: str) -> None:
    found = look(tmp_path, dict.fromkeys(names, (4, 3072)))
    assert (found.role, found.family) == ("lora", family)


@pytest.mark.parametrize("start", ["unet", "diffusion_model", "model.diffusion_model"])
def test_the_model_s_own_names_with_dots_are_refused_with_the_remedy(
    tmp_path: Path, start: str
) -> None:
    """Which no converter from diffusers' names takes."""
    layer = f"{start}.output_blocks.5.1.transformer_blocks.1.ff.net.2"
    tensors = {"clip_l.x.lora_down.weight": (4, 768), f"{layer}.lora_down.weight": (4, 2048)}
    found = look(tmp_path, tensors)
    assert found.role == "lora"
    assert found.problem.startswith(f"its names are the model's own with dots ({layer}.lora_down")
    assert "save it again in kohya's format" in found.problem


def test_names_of_no_layer_are_refused(tmp_path: Path) -> None:
    found = look(tmp_path, lora("lora_unet_transformer_blocks_0_ff_net_0_proj"))
    assert found.problem.startswith("the webui maps none of its names to a layer (lora_unet_trans")


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        (of(SD1_CROSS, lora_down__weight=(4, 768)), "lora_down.weight"),
        (of(SD1_CROSS, hada_w1_a=(8, 4), hada_w1_b=(4, 768)), "hada_w1_a, hada_w1_b"),
        (of("lora_unet_input_blocks_4_1_norm", w_norm=(8,)), "w_norm"),
        ({**lora(f"lora_te_{TE}"), **of(SD1_CROSS, a1__weight=(4, 8))}, "a1.weight"),
    ],
)
def test_a_layer_that_fails_the_whole_file_is_named(
    tmp_path: Path, tensors: Shapes, parts: str
) -> None:
    problem = look(tmp_path, tensors).problem
    assert f"has only {parts}, which is no kind of LoRA that the webui knows" in problem


def test_some_names_that_the_webui_passes_over_are_no_reason_to_refuse(tmp_path: Path) -> None:
    assert look(tmp_path, {**lora(SD1_CROSS), **lora("lora_unet_other_0")}).problem == ""
