"""The demo's model in numpy: words and a noisy latent in, a cleaner latent out.

The same network as `demo.train.network`, which holds the explanations; names are the checkpoint's.
Latents are (16, 16, channels), one picture at a time, so that a picture's bytes do not depend on its batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo.webui.safetensors import BadWeightsError, read_metadata, read_tensors
from demo.webui.text import tokenise

Array = NDArray[np.float32]

SIGMA_DATA = np.float32(0.7)
_PREFIX = "demo."


class Network:
    """The denoiser with its text encoder."""

    def __init__(self, tensors: Mapping[str, Array], vocabulary: Sequence[str]) -> None:
        """`tensors` is named as in the checkpoint, without the leading `demo.`."""
        self.vocabulary = vocabulary
        self.tensors = tensors
        self._matrices = {
            name: np.ascontiguousarray(value.T)
            for name, value in tensors.items()
            if name.endswith(".weight") and name != "text.embedding.weight"
        }
        count = tensors["noise.weight"].shape[1] // 2
        ends = ".first.weight"
        self._blocks = sorted(name[: -len(ends)] for name in tensors if name.endswith(ends))
        self._frequencies = (2.0 ** (np.arange(count) / 2 - 2)).astype(np.float32)

    def with_changes(self, changes: Mapping[str, Array]) -> Network:
        """A copy with `changes` added to the weights of the modules that they name."""
        tensors = dict(self.tensors)
        for name, change in changes.items():
            tensors[name] = tensors[name] + change
        return Network(tensors, self.vocabulary)

    @property
    def width(self) -> int:
        """Of the vector that a prompt becomes."""
        return int(self.tensors["text.out.bias"].shape[0])

    def encode(self, prompt: str, *, skip_last_layers: int = 0, backtrack: int = 0) -> Array:
        """A prompt as the vector that conditions the denoiser."""
        embedding = self.tensors["text.embedding.weight"]
        h = embedding[tokenise(prompt, self.vocabulary, backtrack=backtrack)]
        layers = sum(
            name.startswith("text.layers.") and name.endswith("weight") for name in self.tensors
        )
        for layer in range(max(1, layers - skip_last_layers)):
            padded = np.pad(h, ((1, 1), (0, 0)))
            near = np.concatenate([padded[:-2], h, padded[2:]], axis=1)
            h = h + _silu(self._linear(f"text.layers.{layer}", near))
        return self._linear("text.out", h.max(axis=0))

    def denoise(self, x: Array, sigma: float, text: Array) -> Array:
        """The clean latent that `x`, with noise of deviation `sigma`, most likely came from."""
        s = np.float32(sigma)
        wave = np.log(s) / 4 * self._frequencies
        condition = self._linear("noise", np.concatenate([np.sin(wave), np.cos(wave)])) + text
        condition = _silu(self._linear("mix", _silu(condition)))
        total = np.sqrt(s**2 + SIGMA_DATA**2)
        start = self._linear("enter", x.reshape(-1) / total)
        h = start
        for block in self._blocks:
            middle = self._linear(f"{block}.first", _silu(_normalise(h)))
            scale, shift = np.split(self._linear(f"{block}.film", condition), 2)
            middle = _silu(_normalise(middle) * (1 + scale) + shift)
            h = h + self._linear(f"{block}.second", middle)
        inner = start * (SIGMA_DATA**2 / total) + (h - start) * (s * SIGMA_DATA / total)
        return self._linear("leave", inner).reshape(x.shape)

    def _linear(self, name: str, x: Array) -> Array:
        result: Array = x @ self._matrices[f"{name}.weight"] + self.tensors[f"{name}.bias"]
        return result


def load_network(path: Path) -> Network:
    """Reads a checkpoint.

    Raises:
        BadWeightsError: it is not a checkpoint of the demo's model.
        OSError: it cannot be read.
    """
    tensors = read_tensors(path)
    vocabulary = read_metadata(path).get("demo.vocabulary")
    if vocabulary is None or not all(name.startswith(_PREFIX) for name in tensors):
        raise BadWeightsError(f"{path} is not a checkpoint of the demo's model")
    try:
        return Network(
            {name.removeprefix(_PREFIX): value for name, value in tensors.items()},
            json.loads(vocabulary),
        )
    except KeyError as error:
        raise BadWeightsError(f"{path} lacks the tensor {error}") from None


def _silu(x: Array) -> Array:
    # Clipped so that exp cannot overflow; beyond that silu is 0 within float32 anyway.
    result: Array = x / (1 + np.exp(-np.clip(x, -80, None)))
    return result


def _normalise(x: Array) -> Array:
    result: Array = x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(1e-5))
    return result
