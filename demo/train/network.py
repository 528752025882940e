"""The demo's network in torch, for training only; `demo.webui.network` is the same in numpy.

Module names are the tensor names of the checkpoint, after `demo.`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from demo.webui.decoder import FIELDS, LATENT_CHANNELS, LATENT_SIZE

LATENT_CELLS = LATENT_SIZE * LATENT_SIZE
COLOUR_VALUES = LATENT_CHANNELS - FIELDS
COMPONENTS = 256
WIDTH = 192
BLOCKS = 5
TEXT_WIDTH = 64
CONDITION_WIDTH = 128
NOISE_FREQUENCIES = 16
SIGMA_DATA = 0.7


def normalise(x: Tensor) -> Tensor:
    """Divides by the root mean square of the values."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-5)


class TextEncoder(nn.Module):
    """Words to one vector: each layer lets a word see its neighbours, then the strongest of each value."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, TEXT_WIDTH)
        self.layers = nn.ModuleList(nn.Linear(3 * TEXT_WIDTH, TEXT_WIDTH) for _ in range(2))
        self.out = nn.Linear(TEXT_WIDTH, CONDITION_WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, length) of word numbers, 0 is padding, to (batch, CONDITION_WIDTH)."""
        real = (tokens > 0).unsqueeze(-1)
        h = self.embedding(tokens) * real
        for layer in self.layers:
            padded = functional.pad(h, (0, 0, 1, 1))
            near = torch.cat([padded[:, :-2], h, padded[:, 2:]], dim=-1)
            h = (h + functional.silu(layer(near))) * real
        return self.out(h.masked_fill(~real, -1e4).amax(dim=1))


class Block(nn.Module):
    """A residual block whose middle is scaled and shifted by the condition."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.film = nn.Linear(CONDITION_WIDTH, 2 * WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.first(functional.silu(normalise(x)))
        scale, shift = self.film(condition).chunk(2, dim=-1)
        return x + self.second(functional.silu(normalise(h) * (1 + scale) + shift))


class Denoiser(nn.Module):
    """A residual network over the whole latent at once, in the space of the drawings' principal components.

    A drawing has few degrees of freedom, so a narrow waist loses nothing; and a step costs a thirtieth of what
    it costs a U-Net of as many weights, whose shapes were not yet shapes after 6 minutes on a core.

    Training goes on in coordinates of a `Basis`, since noise of what no drawing has is passed over anyway: that
    is a third of the work. `values` is how many there are.
    """

    def __init__(self, words: int, values: int) -> None:
        super().__init__()
        self.text = TextEncoder(words)
        self.noise = nn.Linear(2 * NOISE_FREQUENCIES, CONDITION_WIDTH)
        self.mix = nn.Linear(CONDITION_WIDTH, CONDITION_WIDTH)
        self.enter = nn.Linear(values, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.leave = nn.Linear(WIDTH, values)
        frequencies = 2.0 ** (torch.arange(NOISE_FREQUENCIES) / 2 - 2)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x: Tensor, sigma: Tensor, tokens: Tensor) -> Tensor:
        """The clean coordinates that `x` (batch, values) at noise levels `sigma` (batch,) come from."""
        wave = (sigma.log() / 4)[:, None] * self.frequencies
        condition = self.noise(torch.cat([wave.sin(), wave.cos()], dim=1)) + self.text(tokens)
        condition = functional.silu(self.mix(functional.silu(condition)))
        s = sigma[:, None]
        total = (s.square() + SIGMA_DATA**2).sqrt()
        start = self.enter(x / total)
        h = start
        for block in self.blocks:
            h = block(h, condition)
        return self.leave(start * (SIGMA_DATA**2 / total) + (h - start) * (s * SIGMA_DATA / total))

    def start_from(self, coordinates: Tensor) -> None:
        """Sets the first and the last layer to the WIDTH strongest of (count, values).

        Together they change nothing but what no drawing has, so that training begins at a plain filter.
        """
        spread = coordinates.square().mean(dim=0)
        kept = spread.topk(WIDTH).indices
        scale = (spread[kept] + 0.15**2).sqrt()
        with torch.no_grad():
            for layer in (self.enter, self.leave):
                layer.weight.zero_()
                layer.bias.zero_()
            self.enter.weight[torch.arange(WIDTH), kept] = 1 / scale
            self.leave.weight[kept, torch.arange(WIDTH)] = scale


class Basis:
    """An orthonormal basis of the latents that drawings have: six colours, then principal components."""

    def __init__(self, fields: Tensor) -> None:
        """`fields`: (count, cells, FIELDS) of many drawings."""
        self.vectors = torch.zeros(LATENT_CELLS, LATENT_CHANNELS, COMPONENTS)
        for colour in range(COLOUR_VALUES):
            self.vectors[:, FIELDS + colour, colour] = LATENT_CELLS**-0.5
        flat = fields.flatten(1).double()
        _, components = torch.linalg.eigh(flat.T @ flat / len(flat))
        strongest = components.flip(1)[:, : COMPONENTS - COLOUR_VALUES].float()
        self.vectors[:, :FIELDS, COLOUR_VALUES:] = strongest.unflatten(0, (-1, FIELDS))
        self.vectors = self.vectors.flatten(0, 1)
        """(LATENT_VALUES, COMPONENTS)"""

    def coordinates(self, fields: Tensor, colours: Tensor) -> Tensor:
        """(count, cells, FIELDS) and (count, 6) to (count, COMPONENTS)."""
        own = self.vectors.unflatten(0, (LATENT_CELLS, LATENT_CHANNELS))[:, :FIELDS, COLOUR_VALUES:]
        of_fields = fields.flatten(1) @ own.flatten(0, 1)
        return torch.cat([colours * LATENT_CELLS**0.5, of_fields], dim=1)
