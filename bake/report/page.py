"""The pages: one self-contained HTML file each, whose policy forbids scripts and anything from elsewhere.

Jinja escapes every value, so that a prompt, a file's name or a licence is text and nothing else. All drawing is
SVG with plain attributes: the policy allows one style sheet, by its hash, and no style of an element.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bake.console import format_bytes
from bake.files import write_atomically
from bake.report.difference import Difference, compare
from bake.report.record import Reported, find_earlier
from bake.report.timelines import read_timelines, ticks

PAGE_FILE = "report.html"
_TEMPLATES = Path(__file__).with_name("templates")
KINDS = {
    "base": "base image",
    "weights": "weights",
    "thin": "runtime",
    "documents": "documents",
    "added": "added on top",
}
"""Kinds of layers, from the lowest up, in words."""
_LEAST_SHARE = 0.4
"""Per cent of a bar's width: what is smaller would not be seen."""


def write_page(report: Reported) -> Path:
    """Writes a report's page beside it."""
    path = report.folder / PAGE_FILE
    write_atomically(path, render_report(report, find_earlier(report.folder)))
    return path


def render_report(report: Reported, earlier: Reported | None = None) -> str:
    """The page of one bake.

    Args:
        report: The bake.
        earlier: The last bake there that made another image or picture.
    """
    data = report.data
    timelines = read_timelines(data)
    difference = compare(earlier.data, data) if earlier else None
    longest = max((step["seconds"] or 0 for step in data["steps"]), default=0)
    return _render(
        "report.html",
        title=f"{report.name}, baked",
        r=data,
        picture=_data_url(report.picture),
        earlier=earlier.data if earlier else None,
        difference=difference,
        timelines=timelines,
        ticks=ticks(timelines) if timelines else (),
        slices=_slices(data["layers"], difference),
        longest=longest or 1,
        total_s=sum(step["seconds"] or 0 for step in data["steps"]),
        checks=sorted(data["verify"]["checks"], key=_by_severity),
        commands=_commands(data),
    )


def render_comparison(before: Reported, after: Reported) -> str:
    """The page of two bakes, side by side."""
    difference = compare(before.data, after.data)
    pairs = [(read_timelines(each.data)) for each in (before, after)]
    return _render(
        "compare.html",
        title=f"{before.name} and {after.name}: two bakes",
        sides=(("A", before), ("B", after)),
        pictures=(_data_url(before.picture), _data_url(after.picture)),
        slices=(_slices(before.data["layers"], None), _slices(after.data["layers"], difference)),
        d=difference,
        starts=tuple(zip(("A", "B"), pairs, strict=True)),
        ticks=ticks([line for each in pairs for line in each]) if any(pairs) else (),
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bytes=format_bytes, seconds=format_seconds, digest=_breakable, percent=_percent, when=_when
    )
    environment.globals.update(kinds=KINDS)
    return environment


def _render(template: str, **values: Any) -> str:
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8").strip()
    hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(style=Markup(style), style_hash=hashed, **values)  # noqa: S704  # our own file
    )


def format_seconds(seconds: float | None) -> str:
    """`2.7 s`, `0.05 s`, `3 min 05 s`; a dash for what was not measured."""
    if seconds is None:
        return "–"  # noqa: RUF001  # typography
    if seconds >= 99.95:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{seconds:.2f} s"


def _slices(
    layers: Sequence[Mapping[str, Any]], difference: Difference | None
) -> list[dict[str, Any]]:
    """Each layer's place in the bar: `x` and `width` in per cent of it, none too narrow to be seen."""
    new = {layer["digest"] for layer in difference.new_layers} if difference else set()
    total = sum(layer["size_bytes"] for layer in layers) or 1
    widths = [max(100 * layer["size_bytes"] / total, _LEAST_SHARE) for layer in layers]
    scale = 100 / sum(widths) if widths else 1
    starts = [0.0, *accumulate(widths)]
    return [
        {**layer, "x": start * scale, "width": width * scale, "is_new": layer["digest"] in new}
        for layer, start, width in zip(layers, starts, widths, strict=False)
    ]


def _commands(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is to be done next with the image: why, and the command."""
    words = [shlex.quote(report["manifest"])]
    if report["build_dir"]:
        words += ["--build-dir", shlex.quote(report["build_dir"])]
    what = " ".join(words)
    push = [] if report["push"] else [("to its registry first", f"bake push {what}")]
    return [
        *push,
        ("what would change", f"bake deploy {what} --dry-run"),
        ("change it, and draw a picture with it", f"bake deploy {what}"),
    ]


def _by_severity(check: Mapping[str, Any]) -> int:
    return ("error", "warning", "ok").index(check["severity"])


def _data_url(picture: bytes | None) -> str | None:
    if picture is None:
        return None
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _breakable(digest: str) -> Markup:
    """A digest that may be broken between groups of 16 digits, and is copied as one word."""
    algorithm, colon, digits = digest.rpartition(":")
    groups = [digits[at : at + 16] for at in range(0, len(digits), 16)]
    return Markup("<wbr>").join([algorithm + colon + groups[0], *groups[1:]])


def _percent(value: float) -> str:
    return f"{value:.3f}%"


def _when(text: str) -> str:
    """`2026-11-27T16:40:00Z` as people write it."""
    return text.replace("T", " ").removesuffix(":00Z").removesuffix("Z")[:16] + " UTC"
