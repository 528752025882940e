"""Trains the demo's model and its LoRA on a CPU and writes demo/weights/*.safetensors.

Run from the repository's root, in an environment of demo/train/requirements.txt:

    python -m demo.train.train                # 21 minutes of one core: the checkpoint, then the LoRA
    python -m demo.train.train --lora-only    # only the LoRA, on the checkpoint that is there
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from demo.train.drawings import COLOURS, SHAPES, conics, draw_fields, random_drawing
from demo.train.network import (
    COLOUR_VALUES,
    COMPONENTS,
    LATENT_CELLS,
    SIGMA_DATA,
    Basis,
    Denoiser,
)
from demo.webui.decoder import FIELDS
from demo.webui.text import MAX_TOKENS, PADDING, START, tokenise

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
CHECKPOINT, LORA = "shapes.safetensors", "outline.safetensors"
BATCH = 128
LORA_RANK = 32
DROP_CAPTION = 0.12
"""How often a caption is left out, for classifier-free guidance."""
_FIELDS_SHARE = 0.7
"""Of the loss; the colours, the same in every cell, are the easier half."""
VOCABULARY = [
    PADDING,
    START,
    *[
        "a",
        "the",
        "an",
        "on",
        "in",
        "at",
        "with",
        "and",
        "of",
        "to",
        "background",
        "ground",
        "corner",
        "center",
        "shape",
    ],
    *["small", "large", "dark", "light", "left", "right", "top", "bottom"],
    *COLOURS,
    *SHAPES,
]


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Drawings made beforehand."""

    fields: Tensor
    """(count, cells, FIELDS)"""
    colours: Tensor
    """(count, 6): the fill's and the ground's"""
    tokens: Tensor
    """(count, MAX_TOKENS)"""

    @classmethod
    def make(cls, count: int, *, seed: int, outline: bool = False) -> Drawings:
        random = np.random.default_rng(seed)
        shapes, colours = np.empty((count, FIELDS, 6), np.float32), np.empty((count, 6), np.float32)
        tokens = np.zeros((count, MAX_TOKENS), np.int64)
        for row in range(count):
            drawing, caption = random_drawing(random)
            shapes[row] = conics(drawing)
            colours[row] = np.array([*drawing.fill, *drawing.ground]) * 2 - 1
            numbers = tokenise(caption, VOCABULARY)
            tokens[row, : len(numbers)] = numbers
        arrays = (
            torch.from_numpy(each)
            for each in (draw_fields(shapes, outline=outline), colours, tokens)
        )
        return cls(**dict(zip(("fields", "colours", "tokens"), arrays, strict=True)))


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What is learnt from."""

    clean: Tensor
    """(count, COMPONENTS)"""
    tokens: Tensor
    """(count, MAX_TOKENS)"""

    def batch(self, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Clean coordinates (BATCH, COMPONENTS) and word numbers, some captions left out."""
        rows = torch.randint(len(self.tokens), (BATCH,), generator=random)
        tokens = self.tokens[rows].clone()
        tokens[torch.rand(BATCH, generator=random) < DROP_CAPTION, 1:] = 0
        return self.clean[rows], tokens


def examples(drawings: Drawings, basis: Basis) -> Examples:
    return Examples(
        clean=basis.coordinates(drawings.fields, drawings.colours), tokens=drawings.tokens
    )


def loss_of(model: nn.Module, clean: Tensor, tokens: Tensor, random: torch.Generator) -> Tensor:
    """The denoising loss of Karras et al. 2022 (arXiv:2206.00364, table 1), noise levels 0.02 to 60."""
    sigma = (torch.randn(len(clean), generator=random) * 1.5 - 0.2).exp().clamp(0.02, 60)
    s = sigma[:, None]
    noisy = clean + torch.randn(clean.shape, generator=random) * s
    weight = ((s.square() + SIGMA_DATA**2) / (s * SIGMA_DATA).square()).clamp(max=100)
    error: Tensor = (model(noisy, sigma, tokens) - clean).square() * weight
    colours, fields = error[:, :COLOUR_VALUES], error[:, COLOUR_VALUES:]
    share = _FIELDS_SHARE
    total = (colours.sum() * (1 - share) + fields.sum() * share) / len(clean)
    return total / (LATENT_CELLS * FIELDS)


def train(model: Denoiser, data: Examples, *, minutes: float, rate: float) -> None:
    """Trains what is not frozen, with a warm-up and a cosine decay by the clock; leaves averaged weights."""
    parameters = [each for each in model.parameters() if each.requires_grad]
    random = torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    averaged = [parameter.detach().clone() for parameter in parameters]
    began, step, recent = time.process_time(), 0, 0.0
    while (done := (time.process_time() - began) / (minutes * 60)) < 1:
        step += 1
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, step / 100) * (0.5 + 0.5 * math.cos(math.pi * done))
        loss = loss_of(model, *data.batch(random), random)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        keep = min(0.998, 1 - 1 / (step / 8 + 1))
        with torch.no_grad():
            for mean, parameter in zip(averaged, parameters, strict=True):
                mean.lerp_(parameter, 1 - keep)
        recent = loss.item() if step == 1 else recent * 0.99 + loss.item() * 0.01
        if step % 250 == 0:
            print(f"{done:4.0%} step {step}, loss {recent:.4f}", flush=True)
    with torch.no_grad():
        for mean, parameter in zip(averaged, parameters, strict=True):
            parameter.copy_(mean)


def in_latents(name: str, value: Tensor, basis: Basis) -> Tensor:
    """A tensor of the checkpoint or of a LoRA: the first and the last layer are of latents, not coordinates."""
    if name.startswith("enter") and name.endswith(("enter.weight", "lora_down.weight")):
        return value @ basis.vectors.T
    if name.startswith("leave") and not name.endswith(("lora_down.weight", "alpha")):
        return basis.vectors @ value
    return value


def in_coordinates(name: str, value: Tensor, basis: Basis) -> Tensor:
    """The other way, of the checkpoint."""
    if name == "enter.weight":
        return value @ basis.vectors
    return basis.vectors.T @ value if name.startswith("leave") else value


def save_checkpoint(model: Denoiser, basis: Basis, path: Path) -> None:
    tensors = {
        f"demo.{name}": in_latents(name, value, basis).half().contiguous()
        for name, value in model.state_dict().items()
    }
    metadata = {"bakery.family": "demo", "demo.vocabulary": json.dumps(VOCABULARY)}
    save_file(tensors, path, metadata)


class LoraLayer(nn.Module):
    """A layer of the model with a change of low rank beside it, as kohya's scripts write it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, LORA_RANK, bias=False)
        self.up = nn.Linear(LORA_RANK, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x) + self.up(self.down(x))
        return result


def add_lora(model: Denoiser) -> dict[str, LoraLayer]:
    """Puts a LoRA beside the layers that carry the latent; the rest is frozen."""
    model.requires_grad_(False)
    added = {}
    for name, module in list(model.named_modules()):
        for child_name in ("enter", "first", "second", "leave"):
            child = getattr(module, child_name, None)
            if isinstance(child, nn.Linear):
                added[f"{name}.{child_name}".lstrip(".")] = layer = LoraLayer(child)
                setattr(module, child_name, layer)
    return added


def save_lora(added: dict[str, LoraLayer], basis: Basis, path: Path) -> None:
    tensors = {}
    for name, layer in added.items():
        parts = {
            "lora_down.weight": layer.down.weight.detach(),
            "lora_up.weight": layer.up.weight.detach(),
            "alpha": torch.tensor(float(LORA_RANK)),
        }
        key = "lora_demo_" + name.replace(".", "_")
        for part, value in parts.items():
            whole = in_latents(f"{name}.{part}", value, basis)
            tensors[f"{key}.{part}"] = whole.half().contiguous()
    metadata = {
        "bakery.family": "demo",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(LORA_RANK),
        "ss_network_alpha": str(LORA_RANK),
        "ss_output_name": path.stem,
    }
    save_file(tensors, path, metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=17, help="of one core, for the checkpoint")
    parser.add_argument("--lora-minutes", type=float, default=4)
    parser.add_argument("--drawings", type=int, default=24_000)
    parser.add_argument("--lora-only", action="store_true")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    checkpoint = options.output / CHECKPOINT
    checkpoint.parent.mkdir(exist_ok=True)
    outlines = Drawings.make(options.drawings // 3, seed=2, outline=True)
    whole = Drawings.make(options.drawings, seed=1)
    basis = Basis(torch.cat([whole.fields[:3000], outlines.fields[:3000]]))
    model = Denoiser(len(VOCABULARY), COMPONENTS)
    if not options.lora_only:
        data = examples(whole, basis)
        model.start_from(data.clean)
        train(model, data, minutes=options.minutes, rate=1.5e-3)
        save_checkpoint(model, basis, checkpoint)
    saved = {
        name.removeprefix("demo."): value.float() for name, value in load_file(checkpoint).items()
    }
    model.load_state_dict(
        {name: in_coordinates(name, value, basis) for name, value in saved.items()}
    )
    added = add_lora(model)
    train(model, examples(outlines, basis), minutes=options.lora_minutes, rate=2e-3)
    save_lora(added, basis, options.output / LORA)


if __name__ == "__main__":
    main()
