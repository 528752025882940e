"""What a picture shows, by a simple measure: the colours' names and the shape's, for tests and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.train.drawings import COLOURS, SHAPES, Drawing, draw_latent
from demo.webui.decoder import decode_latent

_SIDE = 48


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Names from `COLOURS` and `SHAPES`; shape is "nothing" where there is no figure on a ground."""

    fill: str
    ground: str
    shape: str
    overlap: float
    """How well the figure covers the named shape: 1 is exactly."""


def look_at(picture: NDArray[np.uint8]) -> Seen:
    """Measures a (height, width, 3) picture of one figure on a plain ground.

    The ground's colour is that of the border; the figure is what differs from it. The shape is the one whose
    drawing, at the figure's place and size, covers the figure best.
    """
    small = _shrink(picture)
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    ground = np.median(border, axis=0)
    figure = np.abs(small - ground).max(axis=-1) > 0.18
    if not 0.01 < figure.mean() < 0.9:
        return Seen(fill="", ground=_name(ground), shape="nothing", overlap=0.0)
    fill = np.median(small[_shrunk_mask(figure)], axis=0)
    overlaps = {shape: _best_overlap(shape, figure) for shape in SHAPES}
    shape = max(overlaps, key=lambda each: overlaps[each])
    return Seen(fill=_name(fill), ground=_name(ground), shape=shape, overlap=overlaps[shape])


def _shrink(picture: NDArray[np.uint8]) -> NDArray[Any]:
    """48 x 48 means of a square picture's cells, 0 to 1."""
    edges = np.linspace(0, picture.shape[0], _SIDE + 1).astype(int)
    rows = np.add.reduceat(picture.astype(np.float32), edges[:-1], axis=0)
    sums = np.add.reduceat(rows, edges[:-1], axis=1)
    counts = np.diff(edges)
    means: NDArray[Any] = sums / (counts[:, None, None] * counts[None, :, None]) / 255
    return means


def _shrunk_mask(figure: NDArray[Any]) -> NDArray[Any]:
    """The figure without its edge, if something is left of it."""
    padded = np.pad(figure, 1)
    inner: NDArray[Any] = (
        figure & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    )
    return inner if inner.any() else figure


def _name(colour: NDArray[Any]) -> str:
    return min(COLOURS, key=lambda name: float(np.abs(colour - COLOURS[name]).sum()))


def _best_overlap(shape: str, figure: NDArray[Any]) -> float:
    """The largest intersection over union of the figure with the shape near its place and size."""
    rows, columns = np.nonzero(figure)
    centre_x = (columns.min() + columns.max() + 1) / 2 / _SIDE - 0.5
    centre_y = (rows.min() + rows.max() + 1) / 2 / _SIDE - 0.5
    mask, (left, right, top, bottom) = _template(shape)
    width, height = (np.ptp(columns) + 1) / _SIDE, (np.ptp(rows) + 1) / _SIDE
    scale = ((width / (right - left)) + (height / (bottom - top))) / 2
    axis = (np.arange(_SIDE) + 0.5) / _SIDE - 0.5
    best = 0.0
    for grown in (0.94, 1.0, 1.06):
        x = (axis - centre_x) / (scale * grown) + (left + right) / 2
        y = (axis - centre_y) / (scale * grown) + (top + bottom) / 2
        column = np.clip(((x + 0.5) * len(mask)).astype(int), 0, len(mask) - 1)
        row = np.clip(((y + 0.5) * len(mask)).astype(int), 0, len(mask) - 1)
        drawn = mask[row[:, None], column[None, :]]
        best = max(best, float((drawn & figure).sum() / (drawn | figure).sum()))
    return best


_templates: dict[str, tuple[NDArray[Any], tuple[float, float, float, float]]] = {}


def _template(shape: str) -> tuple[NDArray[Any], tuple[float, float, float, float]]:
    """A large drawing of a shape, with its left, right, top and bottom as fractions of the side."""
    if shape not in _templates:
        drawing = Drawing(
            shape=shape, fill=(0, 0, 0), ground=(1, 1, 1), radius=0.3, centre=(0, 0), angle=0
        )
        mask = decode_latent(draw_latent(drawing), width=192, height=192)[..., 0] < 128
        rows, columns = np.nonzero(mask)
        box = [float(value) / 192 - 0.5 for value in (columns.min(), columns.max() + 1)]
        box += [float(value) / 192 - 0.5 for value in (rows.min(), rows.max() + 1)]
        _templates[shape] = mask, (box[0], box[1], box[2], box[3])
    return _templates[shape]
