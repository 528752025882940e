"""`bake lock`."""

from __future__ import annotations

from pathlib import Path

import click

from bake.cli.options import json_option, manifest_argument, quiet_option
from bake.console import Console
from bake.lock import load_lock, lock_path, read_lock, write_lock
from bake.manifest.load import load_manifest
from bake.settings import Settings
from bake.weights.fetch import describe_size
from bake.weights.resolve import resolve_lock
from bake.weights.store import Store


@click.command()
@manifest_argument
@click.option("--locked", is_flag=True, help="Only check that the lock fits; never write (for CI).")
@quiet_option
@json_option
def command(manifest: Path, *, locked: bool, quiet: bool, as_json: bool) -> None:
    """Pin every source of MANIFEST to an exact file, in <manifest>.lock.json beside it."""
    console = Console(as_json=as_json, quiet=quiet)
    loaded = load_manifest(manifest)
    path = lock_path(loaded.path)
    if locked:
        load_lock(loaded)
        console.say(f"{path} fits the manifest")
        return
    settings = Settings.from_environment()
    lock = resolve_lock(
        loaded,
        previous=read_lock(path),
        settings=settings,
        store=Store(settings.store),
        console=console,
    )
    written = write_lock(path, lock)
    console.event("lock", path=str(path), written=written)
    for pin in lock.pins:
        console.say(
            f"  {pin.key}: {pin.file_name}, {describe_size(pin.size_bytes)}, sha256 {pin.sha256[:12]}…"
        )
    console.say(f"{path} {'written' if written else 'is up to date'}")
