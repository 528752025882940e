"""Random drawings with captions: what the demo's model learns from.

A drawing is not made as a picture but as the model's latent (`demo.webui.decoder` says what its
channels mean), 16 x 16 cells of: six fields, the fill's colour, the ground's colour. Each field is a conic
(a line, a strip, an ellipse): few cells hold it exactly, and where two cross, a corner is sharp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.webui.decoder import FIELD_WIDTH, FIELDS, LATENT_CHANNELS, LATENT_SIZE

Array = NDArray[Any]

_AXIS = (np.arange(LATENT_SIZE, dtype=np.float32) + 0.5) / LATENT_SIZE - 0.5
_Y, _X = (each.reshape(-1) for each in np.meshgrid(_AXIS, _AXIS, indexing="ij"))
TERMS = np.stack([np.ones_like(_X), _X, _Y, _X * _X, _X * _Y, _Y * _Y])
"""(6, cells): what a conic is a sum of, at each cell."""
_OUTLINE = 0.035
"""Half the width of an outline, as a fraction of the picture's side."""

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


def conics(drawing: Drawing) -> Array:
    """The fields of a drawing as what they are made of: (FIELDS, 6), coefficients of `TERMS`."""
    own = np.array(_CONICS[drawing.shape](drawing.radius))
    q = _moved(own, centre=drawing.centre, angle=drawing.angle)
    terms = [q[:, 2, 2], 2 * q[:, 0, 2], 2 * q[:, 1, 2], q[:, 0, 0], 2 * q[:, 0, 1], q[:, 1, 1]]
    return np.stack(terms, axis=1).astype(np.float32)


def draw_fields(coefficients: Array, *, outline: bool = False) -> Array:
    """Cells' values of (..., FIELDS, 6) coefficients: (..., cells, FIELDS), within -1 and 1."""
    fields = np.swapaxes(coefficients @ TERMS, -1, -2)
    if outline:
        whole = np.partition(fields, FIELDS - 2, axis=-1)[..., FIELDS - 2, None]
        sides = np.repeat(np.array([1, -1], np.float32), FIELDS // 2)
        fields = whole * sides - np.float32(_OUTLINE)
    drawn: Array = np.tanh(fields / np.float32(FIELD_WIDTH))
    return drawn


def draw_latent(drawing: Drawing, *, outline: bool = False) -> Array:
    """The latent of a drawing, (LATENT_SIZE, LATENT_SIZE, LATENT_CHANNELS), values within -1 and 1."""
    fields = draw_fields(conics(drawing), outline=outline)
    latent = np.empty((LATENT_SIZE, LATENT_SIZE, LATENT_CHANNELS), np.float32)
    latent[..., :FIELDS] = fields.reshape(LATENT_SIZE, LATENT_SIZE, FIELDS)
    latent[..., FIELDS : FIELDS + 3] = np.array(drawing.fill) * 2 - 1
    latent[..., FIELDS + 3 :] = np.array(drawing.ground) * 2 - 1
    return latent


def random_drawing(random: np.random.Generator) -> tuple[Drawing, str]:
    """A drawing and a caption that is true of it; the caption may leave things out."""
    shape = str(random.choice(SHAPES))
    names = list(COLOURS)
    fill_name = str(random.choice(names))
    ground_name = str(random.choice([name for name in names if name != fill_name]))
    fill_shade, ground_shade = str(random.choice(SHADES)), str(random.choice(SHADES))
    size = str(random.choice(["", "", "small", "large"]))
    place = str(random.choice(list(PLACES))) if random.random() < 0.5 and size != "large" else ""
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


def _line(nx: float, ny: float, offset: float) -> Array:
    """nx·x + ny·y - offset: negative on one side of a line; (nx, ny) is its unit normal."""
    return np.array([[0, 0, nx / 2], [0, 0, ny / 2], [nx / 2, ny / 2, -offset]])


def _ellipse(*, centre: tuple[float, float], along: float, across: float, angle: float) -> Array:
    """An ellipse of two half axes; with slope 1 at the ends of the shorter one."""
    turned = _moved(np.diag([1 / along**2, 1 / across**2, -1]), centre=centre, angle=angle)
    return turned * min(along, across) / 2


def _disc(r: float) -> Array:
    return _ellipse(centre=(0, 0), along=r, across=r, angle=0)


def _strip(nx: float, ny: float, half: float) -> Array:
    """Between two parallel lines, `half` from the centre on both sides; with slope 1 at them."""
    normal = np.array([nx, ny, 0])
    return (np.outer(normal, normal) - np.diag([0, 0, half**2])) / (2 * half)


def _moved(conic: Array, *, centre: tuple[float, float], angle: float) -> Array:
    """Conics (..., 3, 3) of their own coordinates, turned and then put at `centre`."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = centre
    back = np.array([[cos, sin, -x * cos - y * sin], [-sin, cos, x * sin - y * cos], [0, 0, 1]])
    moved: Array = back.T @ conic @ back
    return moved


def _circle(r: float) -> list[Array]:
    return [_disc(r)] * 6


def _square(r: float) -> list[Array]:
    return [_strip(1, 0, r * 0.9)] * 3 + [_strip(0, 1, r * 0.9)] * 3


def _triangle(r: float) -> list[Array]:
    """Three equal sides."""
    slope = 3**0.5 / 2
    sides = [_line(0, 1, r * 0.84), _line(slope, -0.5, r * 0.51), _line(-slope, -0.5, r * 0.51)]
    return [side for side in sides for _ in range(2)]


def _diamond(r: float) -> list[Array]:
    """Taller than wide."""
    nx, ny = 1.25 / 1.6, 1 / 1.6
    norm = float(np.hypot(nx, ny))
    half = r * 0.75 / norm
    return [_strip(nx / norm, ny / norm, half)] * 3 + [_strip(nx / norm, -ny / norm, half)] * 3


def _star(r: float) -> list[Array]:
    """Five lines: inside the pentagram at most one of them has its outer side."""
    turns = np.arange(5) * 2 * np.pi / 5
    # From the centre to each line of a pentagram whose tips are 1 away: cos(2π/5).
    offset = r * 1.25 * float(np.cos(2 * np.pi / 5))
    sides = [_line(float(np.sin(turn)), -float(np.cos(turn)), offset) for turn in turns]
    return [*sides, _line(0, 0, 1)]


def _heart(r: float) -> list[Array]:
    """Two leaning ellipses, and two lines that meet in the tip."""
    halves = [
        _ellipse(
            centre=(side * r * 0.24, r * 0.08), along=r * 1.25, across=r * 0.66, angle=side * 2.15
        )
        for side in (-1, 1)
    ]
    flanks = [_line(side * 0.74, 0.6726, r * 0.74) for side in (-1, 1)]
    return [*halves, *flanks, *flanks]


def _ring(r: float) -> list[Array]:
    return [_disc(r * 1.15)] * 3 + [-_disc(r * 0.62)] * 3


def _cross(r: float) -> list[Array]:
    """In a square, and in at least one of two beams."""
    square = [_strip(1, 0, r), _strip(0, 1, r)]
    return [_strip(1, 0, r * 0.36), _strip(0, 1, r * 0.36), *square, *square]


_CONICS = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "star": _star,
    "heart": _heart,
    "ring": _ring,
    "cross": _cross,
}
