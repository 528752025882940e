"""Random drawings with captions: what the demo's model learns from.

A drawing is not made as a picture but as the model's latent (`demo.webui.decoder` says what its
channels mean), 16 x 16 cells of: how far the edge of the shape is, the fill's colour, the ground's colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.webui.decoder import EDGE_WIDTH, LATENT_CHANNELS, LATENT_SIZE

Array = NDArray[Any]

COLOURS = {
    "red": (0.87, 0.12, 0.13),
    "green": (0.12, 0.63, 0.22),
    "blue": (0.13, 0.30, 0.87),
    "yellow": (0.98, 0.86, 0.10),
    "orange": (0.97, 0.50, 0.06),
    "purple": (0.50, 0.17, 0.68),
    "pink": (0.98, 0.55, 0.72),
    "cyan": (0.10, 0.76, 0.82),
    "brown": (0.45, 0.26, 0.11),
    "black": (0.04, 0.04, 0.05),
    "white": (0.98, 0.98, 0.98),
    "gray": (0.52, 0.52, 0.53),
}
SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "ring", "cross")
SIZES = {"": (0.23, 0.29), "small": (0.13, 0.17), "large": (0.34, 0.40)}
PLACES = {
    "": (0.0, 0.0),
    "left": (-0.2, 0.0),
    "right": (0.2, 0.0),
    "top": (0.0, -0.2),
    "bottom": (0.0, 0.2),
    "top left": (-0.2, -0.2),
    "top right": (0.2, -0.2),
    "bottom left": (-0.2, 0.2),
    "bottom right": (0.2, 0.2),
}
SHADES = ("", "", "", "", "dark", "light")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One drawing by its parameters; lengths are fractions of the picture's side."""

    shape: str
    fill: tuple[float, float, float]
    ground: tuple[float, float, float]
    radius: float
    centre: tuple[float, float]
    angle: float
    """Radians; a small tilt, as of a hand."""


def draw_latent(drawing: Drawing, *, outline: bool = False) -> Array:
    """The latent of a drawing, (LATENT_SIZE, LATENT_SIZE, LATENT_CHANNELS), values within -1 and 1."""
    axis = (np.arange(LATENT_SIZE, dtype=np.float32) + 0.5) / LATENT_SIZE - 0.5
    x = axis[None, :] - np.float32(drawing.centre[0])
    y = axis[:, None] - np.float32(drawing.centre[1])
    cos, sin = np.cos(drawing.angle), np.sin(drawing.angle)
    distance = _DISTANCES[drawing.shape](x * cos + y * sin, y * cos - x * sin, drawing.radius)
    if outline:
        distance = np.abs(distance) - 0.05
    latent = np.empty((LATENT_SIZE, LATENT_SIZE, LATENT_CHANNELS), np.float32)
    latent[..., 0] = np.tanh(distance / EDGE_WIDTH)
    latent[..., 1:4] = np.array(drawing.fill) * 2 - 1
    latent[..., 4:7] = np.array(drawing.ground) * 2 - 1
    return latent


def random_drawing(random: np.random.Generator) -> tuple[Drawing, str]:
    """A drawing and a caption that is true of it; the caption may leave things out."""
    shape = str(random.choice(SHAPES))
    names = list(COLOURS)
    fill_name = str(random.choice(names))
    ground_name = str(random.choice([name for name in names if name != fill_name]))
    fill_shade, ground_shade = str(random.choice(SHADES)), str(random.choice(SHADES))
    size = str(random.choice(["", "", "", "small", "large"]))
    place = str(random.choice(list(PLACES))) if random.random() < 0.4 and size != "large" else ""
    radius = float(random.uniform(*SIZES[size]))
    room = max(0.0, 0.46 - radius * 1.2)
    dx, dy = (float(np.clip(way, -room, room)) for way in PLACES[place])
    drawing = Drawing(
        shape=shape,
        fill=_colour(random, fill_name, fill_shade),
        ground=_colour(random, ground_name, ground_shade),
        radius=radius,
        centre=(dx + float(random.normal(0, 0.025)), dy + float(random.normal(0, 0.025))),
        angle=float(random.normal(0, 0.06)),
    )
    caption = _caption(
        random,
        shape=shape,
        fill=f"{fill_shade} {fill_name}".strip(),
        ground=f"{ground_shade} {ground_name}".strip(),
        size=size,
        place=place,
    )
    return drawing, caption


def _colour(random: np.random.Generator, name: str, shade: str) -> tuple[float, float, float]:
    colour = np.array(COLOURS[name])
    if shade == "dark":
        colour = colour * 0.55
    elif shade == "light":
        colour = colour * 0.5 + 0.5
    red, green, blue = np.clip(colour + random.normal(0, 0.02, 3), 0, 1)
    return float(red), float(green), float(blue)


def _caption(
    random: np.random.Generator, *, shape: str, fill: str, ground: str, size: str, place: str
) -> str:
    """Words for a drawing, in one of several ways. What has a default (size, place) is named if it differs."""
    tell_fill, tell_ground = random.random() < 0.93, random.random() < 0.9
    noun = shape if random.random() < 0.97 else "shape"
    adjectives = [size] if size else []
    if tell_fill:
        adjectives.insert(int(random.integers(0, len(adjectives) + 1)), fill)
    subject = " ".join([*adjectives, noun])
    where = ""
    if place:
        where = str(random.choice(["in the {} corner", "at the {}", "on the {}", "{}"])).format(
            place
        )
    elif random.random() < 0.15:
        where = "in the center"
    behind = ""
    if tell_ground:
        forms = [
            "on a {} background",
            "on a {} background",
            "on {}",
            "{} background",
            "with a {} background",
            "on a {} ground",
        ]
        behind = str(random.choice(forms)).format(ground)
    article = str(random.choice(["a ", "a ", "the ", ""]))
    style = random.random()
    if style < 0.7:
        parts = [f"{article}{subject}", where, behind]
        return " ".join(part for part in parts if part)
    parts = [subject, where, behind]
    if style > 0.85:
        random.shuffle(parts)
    return ", ".join(part for part in parts if part)


def _circle(x: Array, y: Array, r: float) -> Array:
    return np.hypot(x, y) - r


def _square(x: Array, y: Array, r: float) -> Array:
    distance: Array = np.maximum(np.abs(x), np.abs(y)) - r * 0.9
    return distance


def _triangle(x: Array, y: Array, r: float) -> Array:
    y = y - r * 0.22
    return np.maximum(0.866 * np.abs(x) - 0.5 * y, y) - r * 0.62


def _diamond(x: Array, y: Array, r: float) -> Array:
    distance: Array = (np.abs(x) * 1.25 + np.abs(y) - r * 1.2) / 1.6
    return distance


def _star(x: Array, y: Array, r: float) -> Array:
    """Five points: in each fifth of the turn, the distance to the line from a tip to an inner corner."""
    r = r * 1.25
    turn = np.arctan2(x, -y)
    fifth = 2 * np.pi / 5
    folded = np.abs((turn + fifth / 2) % fifth - fifth / 2)
    length = np.hypot(x, y)
    px, py = length * np.cos(folded), length * np.sin(folded)
    inner = r * 0.46
    corner_x, corner_y = inner * np.cos(fifth / 2), inner * np.sin(fifth / 2)
    edge_x, edge_y = corner_x - r, corner_y
    norm = np.hypot(edge_x, edge_y)
    distance: Array = ((px - r) * edge_y - py * edge_x) / norm
    return distance


def _heart(x: Array, y: Array, r: float) -> Array:
    """Two discs over a tilted square."""
    r = r * 1.05
    x = np.abs(x)
    y = y + r * 0.12
    lobe = np.hypot(x - r * 0.44, y + r * 0.3) - r * 0.56
    tip = np.maximum((x + y - r * 0.93) * 0.7071, -(y + r * 0.35))
    tip = np.maximum(tip, x - r)
    distance: Array = np.minimum(lobe, tip)
    return distance


def _ring(x: Array, y: Array, r: float) -> Array:
    return np.abs(np.hypot(x, y) - r) - r * 0.32


def _cross(x: Array, y: Array, r: float) -> Array:
    x, y = np.abs(x), np.abs(y)
    arm = r * 0.36
    distance: Array = np.minimum(np.maximum(x - r, y - arm), np.maximum(y - r, x - arm))
    return distance


_DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "star": _star,
    "heart": _heart,
    "ring": _ring,
    "cross": _cross,
}
