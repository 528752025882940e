"""`bake store`."""

from __future__ import annotations

import datetime
import re
import time

import click

from bake.cli.options import json_option
from bake.console import Console, format_bytes
from bake.errors import ManifestError, SourceError
from bake.settings import Settings
from bake.weights.store import Store, collect_garbage, hash_file

_AGE = re.compile(r"^(\d{1,12})([smhdw])$")
_SIZE = re.compile(r"^(\d{1,18}(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_age_s(text: str) -> float:
    """`30d` → seconds. Raises ManifestError."""
    match = _AGE.match(text.strip().lower())
    if not match:
        raise ManifestError(f"{text} is no age; expected 12h, 30d or 8w", where="--older-than")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size_bytes(text: str) -> int:
    """`50G` → bytes, in powers of 1024. Raises ManifestError.

    Only 0 goes without a unit: whoever writes 50 means 50 GB, and not to lose all but 50 bytes.
    """
    match = _SIZE.match(text.strip())
    if not match or not (match[2] or float(match[1]) == 0):
        raise ManifestError(f"{text} is no size; expected 500M, 50G or 1T", where="--keep")
    return int(float(match[1]) * 1024 ** " kmgt".index((match[2] or " ").lower()))


@click.group()
def command() -> None:
    """List, verify or empty the store of weights (BAKE_STORE)."""


@command.command("ls")
@json_option
def list_files(*, as_json: bool) -> None:
    """List what is in the store, the least recently used first."""
    store, console = _open(as_json)
    files, partials = store.files(), store.partials()
    for file in files:
        console.event("file", sha256=file.sha256, bytes=file.size_bytes, used=_day(file.used_at))
    for part in partials:
        console.event("partial", key=part.key, bytes=part.disk_bytes)
    if as_json:
        return
    for file in files:
        click.echo(f"{file.sha256}  {format_bytes(file.size_bytes):>10}  {_day(file.used_at)}")
    for part in partials:
        click.echo(f"{part.key}  {format_bytes(part.disk_bytes):>10}  unfinished")
    total = sum(file.size_bytes for file in files)
    click.echo(f"{store.root}: {len(files)} files, {format_bytes(total)}")


@command.command("verify")
@json_option
def verify_files(*, as_json: bool) -> None:
    """Hash every file again and remove what is not what its name says."""
    store, console = _open(as_json)
    wrong = []
    for file in store.files():
        good = hash_file(file.path) == file.sha256
        console.event("verified", sha256=file.sha256, good=good)
        if good:
            console.say(f"good   {file.sha256}")
            continue
        removed = store.remove(file.sha256)
        wrong.append(file.sha256)
        console.warn(
            f"{file.path} is damaged and was {'removed' if removed else 'kept: a bake uses it'}"
        )
    if wrong:
        raise SourceError(
            f"{len(wrong)} damaged: {', '.join(wrong)}",
            where=str(store.root),
            hint="check the disk; bake fetch MANIFEST gets them again",
        )


@command.command("gc")
@click.option("--older-than", metavar="AGE", help="Remove what was not used for 12h, 30d, 8w.")
@click.option("--keep", metavar="SIZE", help="Then the least recently used, down to 500M, 50G, 1T.")
@json_option
def collect(older_than: str | None, keep: str | None, *, as_json: bool) -> None:
    """Remove what was not used for long; never what a running bake uses."""
    if older_than is None and keep is None:
        raise ManifestError(
            "say what to remove", where="store gc", hint="--older-than 30d, or --keep 50G"
        )
    store, console = _open(as_json)
    done = collect_garbage(
        store,
        older_than_s=None if older_than is None else parse_age_s(older_than),
        keep_bytes=None if keep is None else parse_size_bytes(keep),
    )
    for file in done.removed:
        console.event("removed", sha256=file.sha256, bytes=file.size_bytes)
        console.say(f"removed {file.sha256} ({format_bytes(file.size_bytes)})")
    for file in done.in_use:
        console.say(f"kept    {file.sha256}: a bake uses it")
    for part in done.partials:
        console.say(f"removed the unfinished download {part.key}")
    console.event("collected", bytes=done.freed_bytes)
    console.say(f"{format_bytes(done.freed_bytes)} freed")


def _open(as_json: bool) -> tuple[Store, Console]:
    return Store(Settings.from_environment().store), Console(as_json=as_json)


def _day(seconds: float) -> str:
    at = datetime.datetime.fromtimestamp(min(seconds, time.time()), datetime.timezone.utc)
    return at.strftime("%Y-%m-%d %H:%M")
