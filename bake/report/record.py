"""A bake's report on disk: `report.json`, the picture that it is of, and the bake before in `earlier/`.

<folder>/report.json    what this module writes and reads
<folder>/report.html    the page (`bake.report.page`)
<folder>/report.png     the warm-up's picture; none where none was drawn
<folder>/earlier/       `report.json` and `report.png` of the last bake that made another image or picture
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bake.errors import BuildError
from bake.files import write_atomically

REPORT_FORMAT = 2
REPORT_FILE = "report.json"
PICTURE_FILE = "report.png"
EARLIER = "earlier"


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One report with its picture."""

    folder: Path
    data: Mapping[str, Any]
    """As `bake.steps.report` makes it."""
    picture: bytes | None = None
    """The PNG."""

    @property
    def name(self) -> str:
        """The manifest's name."""
        return str(self.data["name"])


def keep_report(folder: Path, data: Mapping[str, Any], picture: bytes | None) -> Reported:
    """Writes a report; one of another image or picture moves to `earlier/`, and one of the same is replaced."""
    before = find_report(folder)
    if before is not None and _made(before.data) != _made(data):
        _write(folder / EARLIER, before.data, before.picture)
    return _write(folder, data, picture)


def _made(data: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a bake has made: the image, which may be the same whatever the warm-up drew, and its picture."""
    return data["digest"], data.get("request"), data.get("warmup", {}).get("harvest")


def _write(folder: Path, data: Mapping[str, Any], picture: bytes | None) -> Reported:
    if picture is None:
        (folder / PICTURE_FILE).unlink(missing_ok=True)
    else:
        write_atomically(folder / PICTURE_FILE, picture)
    write_atomically(folder / REPORT_FILE, json.dumps(data, sort_keys=True, indent=1) + "\n")
    return Reported(folder=folder, data=data, picture=picture)


def find_report(folder: Path) -> Reported | None:
    """The report in a folder; None where there is none, or none of this format."""
    try:
        data = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        if data["format"] != REPORT_FORMAT or not isinstance(data["digest"], str):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        picture = (folder / PICTURE_FILE).read_bytes()
    except OSError:
        picture = None
    return Reported(folder=folder, data=data, picture=picture)


def find_earlier(folder: Path) -> Reported | None:
    """The report of the last bake there that made another image or picture."""
    return find_report(folder / EARLIER)


def load_report(folder: Path) -> Reported:
    """As `find_report`.

    Raises:
        BuildError: there is none that can be read.
    """
    found = find_report(folder)
    if found is None:
        raise BuildError(
            f"there is no {REPORT_FILE} that this bake has written",
            where=str(folder),
            hint="bake image MANIFEST writes it, at once where nothing has changed",
        )
    return found
