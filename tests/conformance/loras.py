"""LoRA files of every kind that the webui knows, and of those that it does not, for the small checkpoint.

Written by hand, by the kinds' own papers' names: up and down, Hadamard and Kronecker factors, rotations, whole
differences. What is right for each is not written here: a fresh webui says whether a file changes its picture.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files.safetensors import read_header

Array = NDArray[np.float32]
Parts = dict[str, Array]
Maker = Callable[[np.random.Generator, tuple[int, ...]], Parts]
RANK = 4
_TYPES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}


def write(path: Path, tensors: dict[str, Array], dtype: str) -> None:
    header: dict[str, Any] = {}
    data = b""
    for name, value in tensors.items():
        piece = _encode(value, dtype)
        header[name] = {
            "dtype": dtype,
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(piece)],
        }
        data += piece
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _encode(value: Array, dtype: str) -> bytes:
    value = np.ascontiguousarray(value, np.float32)
    if dtype == "F32":
        return value.tobytes()
    if dtype == "F16":
        return value.astype(np.float16).tobytes()
    if dtype == "BF16":
        return (value.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    # E4M3: sign, four bits of exponent (bias 7), three of mantissa; small numbers become 0.
    magnitude = np.abs(value)
    exponent = np.floor(np.log2(np.maximum(magnitude, 2.0**-7)))
    exponent = np.clip(exponent, -6, 8)
    mantissa = np.clip(np.floor((magnitude / 2.0**exponent - 1) * 8), 0, 7)
    code = np.where(magnitude < 2.0**-6, 0, (exponent + 7) * 8 + mantissa)
    written: bytes = (code + np.where(value < 0, 128, 0)).astype(np.uint8).tobytes()
    return written


def _normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def lora(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
    down = _normal(rng, RANK, *shape[1:], scale=1 / math.sqrt(_flat(shape)[1]))
    up = _normal(rng, shape[0], RANK, *[1] * (len(shape) - 2), scale=0.5)
    return {"lora_down.weight": down, "lora_up.weight": up}


def with_alpha(maker: Maker, alpha: float = 2.0) -> Maker:
    return lambda rng, shape: {**maker(rng, shape), "alpha": np.array(alpha, np.float32)}


def locon(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
    """With a middle, where the layer is a convolution of 3x3."""
    if len(shape) < 4 or shape[2] == 1:
        return lora(rng, shape)
    return {
        "lora_down.weight": _normal(rng, RANK, shape[1], 1, 1, scale=1 / math.sqrt(shape[1])),
        "lora_mid.weight": _normal(rng, RANK, RANK, *shape[2:], scale=0.3),
        "lora_up.weight": _normal(rng, shape[0], RANK, 1, 1, scale=0.5),
    }


def dora(axis: int) -> Maker:
    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
        size = [1] * len(shape)
        size[axis] = shape[axis]
        scale = np.abs(_normal(rng, *size, scale=0.2)) + 0.8
        return {**lora(rng, shape), "dora_scale": scale.astype(np.float32)}

    return make


def loha(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
    rows, columns = _flat(shape)
    return {
        f"hada_w{n}_{side}": _normal(rng, *size, scale=0.3)
        for n in (1, 2)
        for side, size in (("a", (rows, RANK)), ("b", (RANK, columns)))
    }


def lokr(low_rank: bool) -> Maker:
    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
        rows, columns = _flat(shape)
        first = {"lokr_w1": _normal(rng, 4, 4, scale=0.3)}
        if len(shape) > 2:
            second = _normal(rng, rows // 4, shape[1] // 4, *shape[2:], scale=0.1)
            return {**first, "lokr_w2": second}
        if not low_rank:
            return {**first, "lokr_w2": _normal(rng, rows // 4, columns // 4, scale=0.2)}
        factors = {
            "lokr_w2_a": _normal(rng, rows // 4, 2, scale=0.3),
            "lokr_w2_b": _normal(rng, 2, columns // 4, scale=0.3),
        }
        return {**first, **factors}

    return make


def glora(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
    rows, columns = _flat(shape)
    return {
        "a1.weight": _normal(rng, RANK, columns, scale=0.2),
        "a2.weight": _normal(rng, columns, RANK, scale=0.2),
        "b1.weight": _normal(rng, RANK, columns, scale=0.2),
        "b2.weight": _normal(rng, rows, RANK, scale=0.2),
        "alpha": np.array(RANK, np.float32),
    }


def ia3(on_input: bool) -> Maker:
    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
        count = shape[1] if on_input else shape[0]
        weight = _normal(rng, count, scale=0.3)
        return {"weight": weight, "on_input": np.array(float(on_input), np.float32)}

    return make


def full(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
    return {"diff": _normal(rng, *shape, scale=0.1)}


def full_with_bias(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
    return {**full(rng, shape), "diff_b": _normal(rng, shape[0], scale=0.1)}


def norm(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
    return {"w_norm": _normal(rng, *shape, scale=0.2), "b_norm": _normal(rng, *shape, scale=0.2)}


def oft(name: str) -> Maker:
    """Rotations of blocks; `oft_diag` holds them as they are, `oft_blocks` what they are made from."""

    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
        count = shape[0] // 8
        blocks = _normal(rng, count, 8, 8, scale=0.1)
        if name == "oft_diag":
            return {name: np.linalg.qr(blocks)[0].astype(np.float32)}
        return {name: blocks, "alpha": np.array(0.01, np.float32)}

    return make


def boft(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
    return {"oft_blocks": _normal(rng, 2, shape[0] // 4, 4, 4, scale=0.1)}


def zero(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
    parts = lora(rng, shape)
    return {**parts, "lora_up.weight": np.zeros_like(parts["lora_up.weight"])}


def wrong_shape(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
    return lora(rng, (shape[0] + 8, *shape[1:]))


def half_of_it(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
    return {"lora_down.weight": lora(rng, shape)["lora_down.weight"]}


class Layers:
    """The small checkpoint's layers, by kohya's names."""

    def __init__(self, checkpoint: Path) -> None:
        self._shapes = {key: each.shape for key, each in read_header(checkpoint).tensors.items()}

    def unet(
        self, wanted: str, name: Callable[[str], str | None]
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        for key, shape in sorted(self._shapes.items()):
            layer = key.removeprefix("model.diffusion_model.").removesuffix(".weight")
            if key != layer and key.endswith(".weight") and re.search(wanted, layer):
                found = name(layer)
                if found is not None:
                    yield found, shape

    def text(
        self, wanted: str, prefix: str, start: str = "cond_stage_model."
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        start += "transformer.text_model."
        for key, shape in sorted(self._shapes.items()):
            layer = key.removeprefix(start).removesuffix(".weight")
            if key.startswith(start) and key.endswith(".weight") and re.search(wanted, layer):
                yield f"{prefix}_text_model_{layer.replace('.', '_')}", shape


def kohya(layer: str) -> str | None:
    """`input_blocks.1.1.transformer_blocks…` → `lora_unet_down_blocks_0_attentions_0_…`: SD1 has two layers a block."""
    found = re.fullmatch(
        r"(input|middle|output)_blocks?\.(\d+)\.(?:1\.)?(transformer_blocks.*|proj_\w+)", layer
    )
    if not found:
        return None
    number, rest = int(found[2]), found[3].replace(".", "_")
    place = {
        "input": f"down_blocks_{(number - 1) // 3}_attentions_{(number - 1) % 3}",
        "middle": "mid_block_attentions_0",
        "output": f"up_blocks_{number // 3}_attentions_{number % 3}",
    }[found[1]]
    return f"lora_unet_{place}_{rest}"


def compvis(layer: str) -> str:
    return "lora_unet_" + layer.replace(".", "_")


def diffusers(layer: str) -> str | None:
    found = kohya(layer)
    if found is None:
        return None
    path = re.sub(r"_(\d+)(?=_|$)", r".\1", found.removeprefix("lora_unet_"))
    for word in (
        "attentions",
        "transformer_blocks",
        "attn1",
        "attn2",
        "ff_net",
        "to_q",
        "to_k",
        "to_v",
        "to_out",
        "proj",
    ):
        path = path.replace(f"_{word}", f".{word}")
    return f"unet.{path}"


ATTENTION = r"attn[12]\.to_[qkv]$|attn[12]\.to_out\.0$"
CONV = r"blocks\.\d+\.0\.(?:in_layers\.2|out_layers\.3)$"
NORMS = r"blocks\.\d+\.1\.norm$|blocks\.\d+\.0\.in_layers\.0$"
TEXT = r"mlp\.fc1$|self_attn\.[qkv]_proj$"


def make_all(checkpoint: Path, folder: Path) -> list[str]:
    """Writes every file; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    layers = Layers(checkpoint)
    for number, (name, made_of) in enumerate(_files(layers)):
        made = _tensors(made_of, 100 + number)
        kinds = ["F32", "F16", "BF16", "F8_E4M3"] if name in {"lora", "loha"} else ["F32", "F16"]
        for dtype in kinds:
            write(folder / f"{name}-{dtype.lower().replace('_', '')}.safetensors", made, dtype)
    return sorted(path.stem for path in folder.glob("*.safetensors"))


def make_tiny(checkpoint: Path, folder: Path) -> None:
    """Those of the history's requests, which the tiny checkpoint draws."""
    layers = Layers(checkpoint)
    text = [(*each, with_alpha(lora)) for each in layers.text(TEXT, "lora_te")]

    def unet(maker: Maker, wanted: str = ATTENTION) -> list[Layer]:
        return [(*each, maker) for each in layers.unet(wanted, compvis)]

    word = ("bundle_emb.bakeryword.string_to_param.*", (2, 32), _whole)
    for number, (name, made) in enumerate(
        (
            ("tiny-lora", [*unet(with_alpha(lora)), *text]),
            ("tiny-text", text),
            ("tiny-bias", unet(full_with_bias, r"attn2\.to_k$")),
            ("tiny-bundled", [*unet(lora), word]),
        )
    ):
        write(folder / f"{name}.safetensors", _tensors(made, 300 + number), "F32")


def make_xl(checkpoint: Path, folder: Path) -> None:
    """One for SDXL's UNet and both of its text models; the second one's attention is a single matrix there."""
    layers, plain, width = Layers(checkpoint), with_alpha(lora), 32
    second = "lora_te2_text_model_encoder_layers"
    made = [(*each, plain) for each in layers.unet(r"attn2\.to_[kv]$", compvis)]
    made += [(*each, plain) for each in layers.text(TEXT, "lora_te1", "conditioner.embedders.0.")]
    for number in range(32):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            made.append((f"{second}_{number}_self_attn_{part}", (width, width), plain))
        made.append((f"{second}_{number}_mlp_fc1", (4 * width, width), plain))
    write(folder / "xl-lora.safetensors", _tensors(made, 400), "F16")


def _tensors(layers: list[Layer], seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        f"{layer}.{part}" if part else layer: value
        for layer, shape, maker in layers
        for part, value in maker(rng, shape).items()
    }


def _whole(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
    """A tensor of its own, with no parts."""
    return {"": _normal(rng, *shape)}


Layer = tuple[str, tuple[int, ...], Maker]


def _files(layers: Layers) -> Iterator[tuple[str, list[Layer]]]:
    def unet(maker: Maker, wanted: str = ATTENTION, name: Any = kohya) -> list[Layer]:
        return [(layer, shape, maker) for layer, shape in layers.unet(wanted, name)]

    def text(maker: Maker, prefix: str = "lora_te") -> list[Layer]:
        return [(layer, shape, maker) for layer, shape in layers.text(TEXT, prefix)]

    plain = with_alpha(lora)
    yield "lora", [*unet(plain), *text(plain)]
    yield "no-alpha", unet(lora)
    yield "text-only", text(plain)
    yield "te1", [*unet(plain), *text(plain, "lora_te1")]
    yield "compvis", unet(plain, ATTENTION, compvis)
    yield "locon", [*unet(plain), *unet(locon, CONV, compvis)]
    yield "dora-out", unet(dora(0))
    yield "dora-in", unet(dora(1))
    yield "loha", unet(with_alpha(loha))
    yield "lokr", unet(lokr(low_rank=False))
    yield "lokr-low", unet(lokr(low_rank=True))
    yield "lokr-conv", unet(lokr(low_rank=False), CONV, compvis)
    yield "glora", unet(glora)
    yield "ia3", unet(ia3(on_input=False), r"attn2\.to_[kv]$")
    yield "ia3-input", unet(ia3(on_input=True), r"ff\.net\.2$")
    yield "full", unet(full)
    yield "full-bias", unet(full_with_bias, CONV, compvis)
    yield "full-new-bias", unet(full_with_bias, r"attn2\.to_k$")
    yield "norm", unet(norm, NORMS, compvis)
    yield "oft-blocks", unet(oft("oft_blocks"))
    yield (
        "oft-kohya",
        [
            ("oft" + layer.removeprefix("lora"), shape, maker)
            for layer, shape, maker in unet(oft("oft_blocks"), ATTENTION, compvis)
        ],
    )
    yield "oft-diag", unet(oft("oft_diag"))
    yield "boft", unet(boft)
    yield "zero", [*unet(zero), *text(zero)]
    yield "wrong-shape", unet(wrong_shape)
    yield "half-of-it", unet(half_of_it)
    yield (
        "foreign",
        [(f"lora_unet_double_blocks_{n}_img_attn_qkv", (96, 32), plain) for n in range(4)],
    )
    yield (
        "part",
        [
            *unet(plain),
            *[
                (f"lora_unet_down_blocks_9_attentions_{n}_proj_in", (32, 32), plain)
                for n in range(4)
            ],
        ],
    )
    yield "diffusers", unet(_renamed("lora.down.weight", "lora.up.weight"), ATTENTION, diffusers)
    yield "peft", unet(_renamed("lora_A.weight", "lora_B.weight"), ATTENTION, diffusers)
    yield (
        "peft-base",
        [
            ("base_model.model." + layer.removeprefix("unet."), shape, maker)
            for layer, shape, maker in unet(
                _renamed("lora_A.weight", "lora_B.weight"), ATTENTION, diffusers
            )
        ],
    )
    yield (
        "bundled",
        [
            *unet(plain),
            (
                "bundle_emb.bakeryword.string_to_param.*",
                (2, 32),
                _whole,
            ),
        ],
    )


def _renamed(down: str, up: str) -> Maker:
    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> Parts:
        parts = lora(rng, shape)
        return {down: parts["lora_down.weight"], up: parts["lora_up.weight"]}

    return make
