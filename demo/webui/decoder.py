"""From a latent to a picture of any size: the demo's counterpart of a VAE's decoder.

A latent has 16 x 16 cells of 7 channels, each about -1 to 1. Channel 0 is the distance to the edge of
the shape, negative inside, squeezed by tanh; 1 to 3 are the fill's colour, 4 to 6 the ground's. Distances
stay smooth, so that a small latent gives sharp edges at every size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LATENT_SIZE = 16
LATENT_CHANNELS = 7
EDGE_WIDTH = 0.15
"""Distances, as fractions of the picture's side, are divided by this before tanh."""

_BAND_ROWS = 64


def decode_latent(
    latent: NDArray[np.float32], *, width: int, height: int, softness: float = 1.2
) -> NDArray[np.uint8]:
    """Draws a latent.

    Args:
        latent: (16, 16, 7).
        width: Pixels. A picture that is not square shows the latent in its middle; the edges go on.
        height: Pixels.
        softness: How many pixels an edge takes.

    Returns:
        (height, width, 3).
    """
    side = min(width, height)
    across = _cubic_weights(width, side)
    down = _cubic_weights(height, side)
    columns = np.tensordot(latent, across, axes=([1], [1]))
    picture = np.empty((height, width, 3), np.uint8)
    # In bands, so that a large picture needs no large arrays beside itself.
    for top in range(0, height, _BAND_ROWS):
        band = np.tensordot(down[top : top + _BAND_ROWS], columns, axes=([1], [0]))
        distance = band[:, 0] * np.float32(EDGE_WIDTH * side / softness)
        inside = np.clip(0.5 - distance, 0, 1)
        for channel in range(3):
            fill, ground = band[:, 1 + channel], band[:, 4 + channel]
            value = (ground + (fill - ground) * inside) * 127.5 + 128.0
            picture[top : top + _BAND_ROWS, :, channel] = np.clip(value, 0, 255)
    return picture


def _cubic_weights(length: int, side: int) -> NDArray[np.float32]:
    """(length, 16): Catmull-Rom interpolation from the cells to `length` pixels, clamped at the border."""
    place = ((np.arange(length) + 0.5 - (length - side) / 2) / side) * LATENT_SIZE - 0.5
    first = np.floor(place).astype(int)
    t = place - first
    taps = (
        -0.5 * t + t**2 - 0.5 * t**3,
        1 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    )
    weights = np.zeros((length, LATENT_SIZE), np.float32)
    rows = np.arange(length)
    for offset, tap in enumerate(taps):
        cells = np.clip(first - 1 + offset, 0, LATENT_SIZE - 1)
        np.add.at(weights, (rows, cells), tap.astype(np.float32))
    return weights
