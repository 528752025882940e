"""Trains the demo's model and its LoRA on a CPU and writes demo/weights/*.safetensors.

Run from the repository's root, in an environment of demo/train/requirements.txt:

    python -m demo.train.train                # 13 minutes of one core: the checkpoint, then the LoRA
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

from demo.train.drawings import COLOURS, SHAPES, draw_latent, random_drawing
from demo.train.network import SIGMA_DATA, Denoiser
from demo.webui.text import MAX_TOKENS, PADDING, START, tokenise

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
CHECKPOINT, LORA = "shapes.safetensors", "outline.safetensors"
BATCH = 128
LORA_RANK = 32
DROP_CAPTION = 0.12
"""How often a caption is left out, for classifier-free guidance."""

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
    """Drawings made beforehand, in the little room that they need."""

    distances: Tensor
    """(count, 256)"""
    colours: Tensor
    """(count, 6): the fill's and the ground's"""
    tokens: Tensor
    """(count, MAX_TOKENS)"""

    @classmethod
    def make(cls, count: int, *, seed: int, outline: bool = False) -> Drawings:
        random = np.random.default_rng(seed)
        distances, colours = np.empty((count, 256), np.float32), np.empty((count, 6), np.float32)
        tokens = np.zeros((count, MAX_TOKENS), np.int64)
        for row in range(count):
            drawing, caption = random_drawing(random)
            latent = draw_latent(drawing, outline=outline)
            distances[row], colours[row] = latent[..., 0].reshape(-1), latent[0, 0, 1:]
            numbers = tokenise(caption, VOCABULARY)
            tokens[row, : len(numbers)] = numbers
        arrays = (torch.from_numpy(each) for each in (distances, colours, tokens))
        return cls(**dict(zip(("distances", "colours", "tokens"), arrays, strict=True)))

    def latents(self, rows: Tensor) -> Tensor:
        """(count, 1792)"""
        colours = self.colours[rows, None].expand(-1, 256, -1)
        return torch.cat([self.distances[rows, :, None], colours], dim=2).flatten(1)

    def batch(self, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents (BATCH, 1792) and word numbers, some captions left out."""
        rows = torch.randint(len(self.tokens), (BATCH,), generator=random)
        latents = self.latents(rows)
        tokens = self.tokens[rows].clone()
        tokens[torch.rand(BATCH, generator=random) < DROP_CAPTION, 1:] = 0
        return latents, tokens


def loss_of(model: nn.Module, clean: Tensor, tokens: Tensor, random: torch.Generator) -> Tensor:
    """The denoising loss of Karras et al. 2022 (arXiv:2206.00364, table 1), noise levels 0.02 to 60."""
    sigma = (torch.randn(len(clean), generator=random) * 1.5 - 0.2).exp().clamp(0.02, 60)
    s = sigma[:, None]
    noisy = clean + torch.randn(clean.shape, generator=random) * s
    weight = ((s.square() + SIGMA_DATA**2) / (s * SIGMA_DATA).square()).clamp(max=100)
    error: Tensor = (model(noisy, sigma, tokens) - clean).square() * weight
    # The distance is one channel of seven, and what makes the shape.
    shares = torch.tensor([3.0, 1, 1, 1, 1, 1, 1]) / 9
    return (error.unflatten(1, (-1, 7)).mean(dim=(0, 1)) * shares).sum()


def train(model: Denoiser, data: Drawings, *, minutes: float, rate: float) -> None:
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
        if step % 500 == 0:
            print(f"{done:4.0%} step {step}, loss {recent:.4f}", flush=True)
    with torch.no_grad():
        for mean, parameter in zip(averaged, parameters, strict=True):
            parameter.copy_(mean)


def save_checkpoint(model: Denoiser, path: Path) -> None:
    tensors = {
        f"demo.{name}": value.half().contiguous() for name, value in model.state_dict().items()
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


def save_lora(added: dict[str, LoraLayer], path: Path) -> None:
    tensors = {}
    for name, layer in added.items():
        key = "lora_demo_" + name.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = layer.down.weight.detach().half().contiguous()
        tensors[f"{key}.lora_up.weight"] = layer.up.weight.detach().half().contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(float(LORA_RANK)).half()
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
    parser.add_argument("--minutes", type=float, default=10, help="of one core, for the checkpoint")
    parser.add_argument("--lora-minutes", type=float, default=2.5)
    parser.add_argument("--drawings", type=int, default=40_000)
    parser.add_argument("--lora-only", action="store_true")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    checkpoint = options.output / CHECKPOINT
    checkpoint.parent.mkdir(exist_ok=True)
    model = Denoiser(len(VOCABULARY))
    if not options.lora_only:
        data = Drawings.make(options.drawings, seed=1)
        model.start_from(data.latents(torch.arange(4096)))
        train(model, data, minutes=options.minutes, rate=1.5e-3)
        save_checkpoint(model, checkpoint)
    saved = load_file(checkpoint)
    model.load_state_dict(
        {name.removeprefix("demo."): value.float() for name, value in saved.items()}
    )
    added = add_lora(model)
    data = Drawings.make(options.drawings // 3, seed=2, outline=True)
    train(model, data, minutes=options.lora_minutes, rate=2e-3)
    save_lora(added, options.output / LORA)


if __name__ == "__main__":
    main()
