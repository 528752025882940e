"""From a latent to a picture of any size: the demo's counterpart of a VAE's decoder.

A latent has 16 x 16 cells of 12 channels, each about -1 to 1. Channels 0 to 5 are fields: distances to six
curves, negative on the inner side, squeezed by tanh. A point is in the shape where at most one of them says
outside, so that crossing curves make a sharp corner, outwards and inwards; one distance to the edge, in so
few cells, rounds it. 6 to 8 are the fill's colour, 9 to 11 the ground's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LATENT_SIZE = 16
FIELDS = 6
LATENT_CHANNELS = FIELDS + 6
FIELD_WIDTH = 0.15
"""Distances, as fractions of the picture's side, are divided by this before tanh."""

_BAND_ROWS = 64
_FARTHEST = 0.97
"""What tanh has squeezed beyond this is taken for this: noise there would be stretched without end."""


def decode_latent(
    latent: NDArray[np.float32], *, width: int, height: int, softness: float = 1.2
) -> NDArray[np.uint8]:
    """Draws a latent.

    Args:
        latent: (16, 16, 12).
        width: Pixels. A picture that is not square shows the latent in its middle; the edges go on.
        height: Pixels.
        softness: How many pixels an edge takes.

    Returns:
        (height, width, 3).
    """
    side = min(width, height)
    across = _cubic_weights(width, side)
    down = _cubic_weights(height, side)
    stretched = latent.copy()
    # Between cells a distance is nearly a polynomial, its tanh is not.
    stretched[..., :FIELDS] = np.arctanh(np.clip(latent[..., :FIELDS], -_FARTHEST, _FARTHEST))
    columns = np.tensordot(stretched, across, axes=([1], [1]))
    picture = np.empty((height, width, 3), np.uint8)
    # In bands, so that a large picture needs no large arrays beside itself.
    for top in range(0, height, _BAND_ROWS):
        band = np.tensordot(down[top : top + _BAND_ROWS], columns, axes=([1], [0]))
        distance = _second_largest(band[:, :FIELDS]) * np.float32(FIELD_WIDTH * side / softness)
        inside = np.clip(0.5 - distance, 0, 1)
        for channel in range(3):
            fill, ground = band[:, FIELDS + channel], band[:, FIELDS + 3 + channel]
            value = (ground + (fill - ground) * inside) * 127.5 + 128.0
            picture[top : top + _BAND_ROWS, :, channel] = np.clip(value, 0, 255)
    return picture


def _second_largest(fields: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rows, FIELDS, columns) to (rows, columns)."""
    largest = fields[:, 0]
    second = np.full_like(largest, -np.inf)
    for each in range(1, FIELDS):
        second = np.maximum(second, np.minimum(largest, fields[:, each]))
        largest = np.maximum(largest, fields[:, each])
    return second


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
