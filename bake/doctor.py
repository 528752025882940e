"""What a machine needs for a bake, looked at one by one."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bake.console import Console, format_bytes
from bake.errors import BakeError
from bake.image.engine.buildx import buildx_version
from bake.image.engine.docker import Engine
from bake.settings import Settings

Severity = Literal["ok", "warning", "error"]
_WANTED_FREE_BYTES = 60 << 30
"""A base of about 10 GB in the engine and its build cache, and a checkpoint or two in the store."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    severity: Severity
    what: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """For `bake doctor --json`."""
        return dataclasses.asdict(self)


def examine_machine() -> list[Finding]:
    """Every check, each of which says what it found; none of them raises."""
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _check_engine,
        _check_buildx,
        _check_store,
        _check_tokens,
    )
    return [finding for check in checks for finding in check()]


def _failed(error: BakeError) -> Finding:
    what = f"{error.where}: {error.what}" if error.where else error.what
    return Finding(severity="error", what=what, remedy=error.hint or "")


def _check_engine() -> list[Finding]:
    try:
        with Engine(Console(quiet=True)) as engine:
            information = engine.client.info()
    except BakeError as error:
        return [_failed(error)]
    version = information.get("ServerVersion", "of an unknown version")
    found = [Finding(severity="ok", what=f"Docker Engine {version} answers")]
    if "nvidia" in (information.get("Runtimes") or {}):
        found.append(Finding(severity="ok", what="the engine can give a container a GPU"))
    else:
        found.append(
            Finding(
                severity="warning",
                what="the engine has no NVIDIA runtime: warm-ups run on the CPU",
                remedy="install the NVIDIA container toolkit on a machine with a card",
            )
        )
    return found


def _check_buildx() -> list[Finding]:
    try:
        return [Finding(severity="ok", what=buildx_version(os.environ))]
    except BakeError as error:
        return [_failed(error)]


def _check_store() -> list[Finding]:
    try:
        folder = Settings.from_environment().store
    except BakeError as error:
        return [_failed(error)]
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return [
            Finding(
                severity="error",
                what=f"the store {folder} cannot be written",
                remedy="set BAKE_STORE to a folder that can",
            )
        ]
    free = shutil.disk_usage(existing).free
    text = f"the store {folder} has {format_bytes(free)} free"
    if free < _WANTED_FREE_BYTES:
        remedy = "set BAKE_STORE to a larger disk, or make room: bake store gc --older-than 30d"
        return [Finding(severity="warning", what=text, remedy=remedy)]
    return [Finding(severity="ok", what=text)]


def _check_tokens() -> list[Finding]:
    found = []
    for name, other in (
        ("CIVITAI_TOKEN", "CIVITAI_API_KEY"),
        ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    ):
        names = (name, other, f"{name}_FILE", f"{other}_FILE")
        if any(os.environ.get(each) for each in names):
            found.append(Finding(severity="ok", what=f"{name} is set"))
        else:
            what = f"{name} is not set: files that need a login cannot be fetched"
            found.append(
                Finding(severity="warning", what=what, remedy=f"export {name}=… or {name}_FILE=…")
            )
    netrc = Path("~/.netrc").expanduser()
    if netrc.exists():
        found.append(Finding(severity="ok", what=f"{netrc} is there, and never read by bake"))
    return found
