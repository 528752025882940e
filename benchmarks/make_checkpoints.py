"""Writes random-weights checkpoints of real architectures: tiny, small, SD1.5-size and SDXL-size.

A start reads, converts and places weights; what they hold does not matter to it, so random ones
measure the same as trained ones and need no download. Run it with the webui's own interpreter:

    WEBUI_PYTHON benchmarks/make_checkpoints.py --webui WEBUI --out FOLDER [tiny] [small] [smallxl] [sd15] [sdxl] …

`tiny` is SD1.5's architecture at reduced widths, with the `.yaml` beside it that the webui needs for
it and a text model's folder that this names. (`tiny-b`: other weights); `small` (and `small-b`) and `smallxl` have every
block of SD1.5 and of SDXL, so that the names of real LoRAs fit, at a tenth of the width; smallxl's text model is
one that OpenCLIP learns from `OUT/open-clip` (`open_clip.add_model_config`). `tokenizer` writes the CLIP tokenizer into a Hugging
Face cache (`--hf-home`), made from the vocabulary that comes with the `open_clip_torch` package.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

CLIP_REPO = "openai/clip-vit-large-patch14"
CLIP_REVISION = "32bd64288804d66eefd0ccbe215aa642df71cc41"
MTIME = 1704067200
"""`runtime.worker.WEIGHTS_MTIME`: the mtime that baked weights bear."""

CLIP_L = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {
        "model_type": "clip_text_model",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-05,
        "projection_dim": 768,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
    },
}
TINY_WIDTH = 32
SMALL_OPEN_CLIP = "bakery-small-bigG"
KINDS = ("tiny", "tiny-b", "small", "small-b", "smallxl", "sd15", "sdxl")


def bpe_vocabulary() -> tuple[dict[str, int], list[str]]:
    """CLIP's vocabulary and merges, as OpenAI's tokenizer derives them from the merges file."""
    import open_clip  # noqa: PLC0415

    path = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    words = letters + [letter + "</w>" for letter in letters]
    words += ["".join(merge.split()) for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}, merges


def write_tokenizer(folder: Path, config: dict[str, Any]) -> None:
    """The files that transformers reads for a CLIP tokenizer and a text model's shape."""
    vocabulary, merges = bpe_vocabulary()
    folder.mkdir(parents=True, exist_ok=True)

    def special(content: str) -> dict[str, Any]:
        return {
            "content": content,
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
        }

    end = special("<|endoftext|>")
    start = special("<|startoftext|>")
    texts = {
        "config.json": json.dumps(config, indent=1, sort_keys=True),
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges]) + "\n",
        "special_tokens_map.json": json.dumps(
            {
                "bos_token": start,
                "eos_token": end,
                "pad_token": "<|endoftext|>",
                "unk_token": end,
            }
        ),
        "tokenizer_config.json": json.dumps(
            {
                "unk_token": {"__type": "AddedToken", **end},
                "bos_token": {"__type": "AddedToken", **start},
                "eos_token": {"__type": "AddedToken", **end},
                "pad_token": "<|endoftext|>",
                "add_prefix_space": False,
                "errors": "replace",
                "do_lower_case": True,
                "name_or_path": CLIP_REPO,
                "model_max_length": 77,
                "tokenizer_class": "CLIPTokenizer",
            }
        ),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def write_hf_cache(hf_home: Path) -> None:
    """The tokenizer at the place where the hub's client looks, so that it asks nothing."""
    root = hf_home / "hub" / ("models--" + CLIP_REPO.replace("/", "--"))
    write_tokenizer(root / "snapshots" / CLIP_REVISION, CLIP_L)
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(CLIP_REVISION, encoding="utf-8")
    (hf_home / "hub" / "version.txt").write_text("1", encoding="utf-8")


def tiny_config(webui: Path, clip_path: str) -> dict[str, Any]:
    """SD1.5's configuration at reduced widths, its text model read from `clip_path`."""
    from omegaconf import OmegaConf  # noqa: PLC0415

    config = OmegaConf.to_container(OmegaConf.load(webui / "configs" / "v1-inference.yaml"))
    assert isinstance(config, dict)
    params = config["model"]["params"]
    params["unet_config"]["params"].update(
        model_channels=32, channel_mult=[1, 2], attention_resolutions=[2]
    )
    params["unet_config"]["params"].update(num_res_blocks=1, num_heads=2, context_dim=TINY_WIDTH)
    params["first_stage_config"]["params"]["ddconfig"].update(
        ch=32, ch_mult=[1, 1, 1, 1], num_res_blocks=1
    )
    params["cond_stage_config"]["params"] = {"version": clip_path}
    return config


def tiny_clip() -> dict[str, Any]:
    text = dict(CLIP_L["text_config"])  # type: ignore[call-overload]
    text.update(
        hidden_size=TINY_WIDTH, intermediate_size=64, num_attention_heads=4, num_hidden_layers=2
    )
    return {**CLIP_L, "text_config": text}


def small_config(webui: Path, clip_path: str) -> dict[str, Any]:
    """SD1.5's configuration with all its blocks, narrow."""
    from omegaconf import OmegaConf  # noqa: PLC0415

    config = OmegaConf.to_container(OmegaConf.load(webui / "configs" / "v1-inference.yaml"))
    assert isinstance(config, dict)
    params = config["model"]["params"]
    params["unet_config"]["params"].update(model_channels=32, context_dim=TINY_WIDTH)
    params["first_stage_config"]["params"]["ddconfig"].update(ch=32)
    params["cond_stage_config"]["params"] = {"version": clip_path}
    return config


def small_clip() -> dict[str, Any]:
    text = dict(CLIP_L["text_config"])  # type: ignore[call-overload]
    text.update(hidden_size=TINY_WIDTH, intermediate_size=128, num_attention_heads=4)
    return {**CLIP_L, "text_config": text}


def smallxl_config(base: dict[str, Any], clip_path: str) -> dict[str, Any]:
    """SDXL's configuration with all its blocks, narrow."""
    params = base["model"]["params"]
    params["network_config"]["params"].update(
        model_channels=32,
        num_head_channels=16,
        context_dim=2 * TINY_WIDTH,
        adm_in_channels=TINY_WIDTH + 6 * 256,
    )
    embedders = params["conditioner_config"]["params"]["emb_models"]
    embedders[0]["params"]["version"] = clip_path
    embedders[1]["params"]["arch"] = SMALL_OPEN_CLIP
    params["first_stage_config"]["params"]["ddconfig"].update(ch=32)
    return base


def write_open_clip(folder: Path) -> None:
    """OpenCLIP's description of smallxl's second text model, and learns it."""
    import open_clip  # noqa: PLC0415

    text = {
        "context_length": 77,
        "vocab_size": 49408,
        "width": TINY_WIDTH,
        "heads": 2,
        "layers": 32,
    }
    sight = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    about = {"embed_dim": TINY_WIDTH, "vision_cfg": sight, "text_cfg": text}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{SMALL_OPEN_CLIP}.json").write_text(json.dumps(about), encoding="utf-8")
    open_clip.add_model_config(folder)


def meta_shapes(module: Any, prefix: str) -> dict[str, tuple[int, ...]]:
    return {prefix + key: tuple(value.shape) for key, value in module.state_dict().items()}


def sd1_shapes(config: dict[str, Any], clip: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of an SD1 checkpoint of this configuration, by name."""
    import torch  # noqa: PLC0415
    from ldm.models.autoencoder import AutoencoderKL  # noqa: PLC0415
    from ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: PLC0415
    from transformers import CLIPTextConfig, CLIPTextModel  # noqa: PLC0415

    params = config["model"]["params"]
    with torch.device("meta"):
        unet = UNetModel(**params["unet_config"]["params"])
        vae = AutoencoderKL(**params["first_stage_config"]["params"])
        text = CLIPTextModel(CLIPTextConfig(**clip["text_config"]))
    return {
        **meta_shapes(unet, "model.diffusion_model."),
        **meta_shapes(vae, "first_stage_model."),
        **meta_shapes(text, "cond_stage_model.transformer."),
    }


def sdxl_shapes(
    config: dict[str, Any], clip: dict[str, Any] = CLIP_L, open_clip_name: str = "ViT-bigG-14"
) -> dict[str, tuple[int, ...]]:
    """Every tensor of an SDXL base checkpoint of this configuration, by name."""
    import open_clip  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from ldm.models.autoencoder import AutoencoderKL  # noqa: PLC0415
    from sgm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: PLC0415
    from transformers import CLIPTextConfig, CLIPTextModel  # noqa: PLC0415

    params = config["model"]["params"]
    ddconfig = dict(params["first_stage_config"]["params"]["ddconfig"], attn_type="vanilla")
    with torch.device("meta"):
        network = dict(params["network_config"]["params"], spatial_transformer_attn_type="softmax")
        unet = UNetModel(**network)
        vae = AutoencoderKL(ddconfig, {"target": "torch.nn.Identity"}, 4)
        text = CLIPTextModel(CLIPTextConfig(**clip["text_config"]))
        big = open_clip.create_model(open_clip_name, device="meta")
    shapes = {
        **meta_shapes(unet, "model.diffusion_model."),
        **meta_shapes(vae, "first_stage_model."),
        **meta_shapes(text, "conditioner.embedders.0.transformer."),
    }
    for key, shape in meta_shapes(big, "").items():
        if not key.startswith("visual."):
            shapes["conditioner.embedders.1.model." + key] = shape
    return shapes


def random_values(key: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Weights that keep activations near 1, so that the picture is noise rather than NaN or grey."""
    if key.endswith("position_ids"):
        return np.arange(shape[-1], dtype=np.int64).reshape(shape)
    if key.endswith("logit_scale"):
        return np.full(shape, math.log(100), dtype=np.float16)
    count = math.prod(shape)
    if len(shape) < 2:
        # Not exactly 1 and 0: the webui divides by the mean of the text model's last norm.
        around = 1.0 if key.endswith("weight") else 0.02
        return (around + 0.02 * rng.standard_normal(shape, dtype=np.float32)).astype(np.float16)
    fan_in = count // shape[0]
    scale = 0.02 if "embed" in key else min(0.5, 1.0 / math.sqrt(fan_in))
    # One block of noise repeated with a random roll: a gigabyte of fresh normals would take a minute.
    block = rng.standard_normal(min(count, 1 << 20), dtype=np.float32)
    values = np.resize((block * scale).astype(np.float16), count)
    return values.reshape(shape)


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], *, seed: int) -> None:
    """Streams the tensors to `path` in the order of their names."""
    header: dict[str, Any] = {"__metadata__": {"bakery.random": str(seed)}}
    offset = 0
    for key in sorted(shapes):
        size = 8 if key.endswith("position_ids") else 2
        count = math.prod(shapes[key]) * size
        kind = "I64" if size == 8 else "F16"
        header[key] = {
            "dtype": kind,
            "shape": list(shapes[key]),
            "data_offsets": [offset, offset + count],
        }
        offset += count
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key in sorted(shapes):
            file.write(random_values(key, shapes[key], rng).tobytes())
    partial.replace(path)
    os.utime(path, (MTIME, MTIME))
    print(f"{path}: {path.stat().st_size / 1e9:.2f} GB, {len(shapes)} tensors")


def make(kind: str, webui: Path, out: Path, clip_path: str) -> None:
    from omegaconf import OmegaConf  # noqa: PLC0415

    path = out / f"{kind}.safetensors"
    if kind.startswith("tiny"):
        config = tiny_config(webui, clip_path)
        write_tokenizer(out / "tiny-clip", tiny_clip())
        path.with_suffix(".yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
        write_safetensors(path, sd1_shapes(config, tiny_clip()), seed=1 + 9 * (kind != "tiny"))
    elif kind.startswith("small"):
        clip = str(out / "small-clip")
        write_tokenizer(out / "small-clip", small_clip())
        if kind == "smallxl":
            write_open_clip(out / "open-clip")
            config = smallxl_config(xl_base(webui), clip)
            shapes = sdxl_shapes(config, small_clip(), SMALL_OPEN_CLIP)
        else:
            config = small_config(webui, clip)
            shapes = sd1_shapes(config, small_clip())
        path.with_suffix(".yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
        write_safetensors(path, shapes, seed=11 + KINDS.index(kind))
    elif kind == "sd15":
        config = OmegaConf.to_container(OmegaConf.load(webui / "configs" / "v1-inference.yaml"))
        assert isinstance(config, dict)
        write_safetensors(path, sd1_shapes(config, CLIP_L), seed=2)
    else:
        write_safetensors(path, sdxl_shapes(xl_base(webui)), seed=3)


def xl_base(webui: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf  # noqa: PLC0415

    folder = webui / "repositories" / "generative-models" / "configs" / "inference"
    config = OmegaConf.to_container(OmegaConf.load(folder / "sd_xl_base.yaml"))
    assert isinstance(config, dict)
    return config


def use_companions(webui: Path) -> None:
    """Makes ldm and sgm importable from the webui's own copies, as its modules/paths.py does."""
    repositories = webui / "repositories"
    for name in ("stable-diffusion-stability-ai", "generative-models"):
        sys.path.insert(0, str(repositories / name))
    for name in ("taming.modules.losses.lpips", "sgm.data"):
        empty: Any = type(sys)(re.sub(r"\W", "_", name))
        empty.LPIPS = empty.StableDataModuleFromConfig = None
        sys.modules[name] = empty
    sys.modules["xformers"] = None  # type: ignore[assignment]


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--webui", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clip-path", help="what tiny.yaml says (default: OUT/tiny-clip)")
    parser.add_argument("--hf-home", type=Path, help="write the CLIP tokenizer into this HF_HOME")
    parser.add_argument("kinds", nargs="*", help=", ".join(KINDS))
    options = parser.parse_args()
    unknown = set(options.kinds) - set(KINDS)
    if unknown:
        parser.error(f"unknown kind: {', '.join(sorted(unknown))} (choose from {', '.join(KINDS)})")
    return options


def main() -> None:
    options = read_arguments()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    use_companions(options.webui.resolve())
    if options.hf_home:
        write_hf_cache(options.hf_home.resolve())
    for kind in options.kinds:
        make(kind, options.webui.resolve(), out, options.clip_path or str(out / "tiny-clip"))


if __name__ == "__main__":
    main()
