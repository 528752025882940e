"""The denoiser as a sampler sees it: a prompt for, a prompt against, and the noise of a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from demo.webui.decoder import LATENT_CHANNELS, LATENT_SIZE
from demo.webui.network import Array, Network

STRENGTH = 0.15
"""What a CFG scale beyond 1 counts for: the model follows its captions closely, so that 7 would burn the colours."""

_GUIDED_ABOVE = 0.4
"""Below this noise level the prompt alone leads: more guidance there bends straight edges inwards."""
_LIMIT = 1.05


def guided(
    network: Network, *, text: Array, against: Array, cfg_scale: float
) -> Callable[[Array, float], Array]:
    """Classifier-free guidance (Ho and Salimans 2022): away from the negative prompt, towards the prompt."""
    scale = np.float32(1 + (cfg_scale - 1) * STRENGTH)

    def denoise(x: Array, sigma: float) -> Array:
        clean = network.denoise(x, sigma, text)
        if scale != 1 and sigma > _GUIDED_ABOVE:
            base = network.denoise(x, sigma, against)
            clean = base + scale * (clean - base)
        return np.clip(clean, -_LIMIT, _LIMIT)

    return denoise


def noise_source(seed: int) -> Callable[[], Array]:
    """Noise of deviation 1, one latent a call; the same for the same seed."""
    random = np.random.Generator(np.random.PCG64(seed % 2**64))

    def noise() -> Array:
        return random.standard_normal((LATENT_SIZE, LATENT_SIZE, LATENT_CHANNELS), np.float32)

    return noise
