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


def roundness(picture: NDArray[np.uint8]) -> float:
    """4π·area / perimeter² of the figure of a (height, width, 3) picture: 1 is a circle, 0.79 a square.

    The edge is looked for on 360 rays from the figure's centre, so that only its outer one counts.
    """
    edge = _edge(picture)
    sides = np.roll(edge, -1, axis=0) - edge
    perimeter = float(np.hypot(*sides.T).sum())
    return 4 * np.pi * _area(edge) / perimeter**2


def rectangularity(picture: NDArray[np.uint8]) -> float:
    """The figure's share of the smallest rectangle, of whatever tilt, around it: 1 has four right angles.

    A diamond has 1 too, a circle 0.79.
    """
    edge = _edge(picture)
    boxes = []
    for angle in np.linspace(0, np.pi / 2, 90, endpoint=False):
        turned = edge @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        boxes.append(float(np.ptp(turned, axis=0).prod()))
    return _area(edge) / min(boxes)


def _area(edge: NDArray[Any]) -> float:
    following = np.roll(edge, -1, axis=0)
    return abs(float((edge[:, 0] * following[:, 1] - edge[:, 1] * following[:, 0]).sum())) / 2


def _edge(picture: NDArray[np.uint8]) -> NDArray[Any]:
    """360 points (x, y) in pixels, halfway from the figure's colour to the ground's."""
    levels = picture.astype(np.float64)
    ground = np.median(np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]]), axis=0)
    share = np.abs(levels - ground).max(axis=-1)
    share /= np.percentile(share[share > share.max() / 2], 50)
    rows, columns = np.nonzero(share > 0.5)
    centre_x, centre_y = columns.mean(), rows.mean()
    height, width = share.shape
    reach = np.arange(0, float(np.hypot(height, width)), 0.25)
    points = []
    for angle in np.linspace(0, 2 * np.pi, 360, endpoint=False):
        x = np.clip(centre_x + reach * np.cos(angle), 0, width - 1.001)
        y = np.clip(centre_y + reach * np.sin(angle), 0, height - 1.001)
        column, row = x.astype(int), y.astype(int)
        right, below = x - column, y - row
        on_ray = (
            share[row, column] * (1 - right) * (1 - below)
            + share[row, column + 1] * right * (1 - below)
            + share[row + 1, column] * (1 - right) * below
            + share[row + 1, column + 1] * right * below
        )
        inside = int(np.nonzero(on_ray > 0.5)[0].max(initial=0))
        before, after = on_ray[inside], on_ray[min(inside + 1, len(reach) - 1)]
        part = (before - 0.5) / (before - after) if before > after else 0.0
        length = reach[inside] + 0.25 * min(1.0, max(0.0, float(part)))
        points.append((centre_x + length * np.cos(angle), centre_y + length * np.sin(angle)))
    return np.array(points)


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
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        edges = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
        left, right, top, bottom = (float(edge) / 192 - 0.5 for edge in edges)
        _templates[shape] = mask, (left, right, top, bottom)
    return _templates[shape]
