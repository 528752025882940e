"""`bake lock`."""

from __future__ import annotations

from pathlib import Path

import click

from bake.cli.options import fail_fast_option, json_option, manifests_argument, quiet_option
from bake.cli.several import run_each
from bake.console import Console
from bake.lock import load_lock, lock_path, read_lock, write_lock
from bake.manifest.load import load_manifest
from bake.manifest.model import Manifest
from bake.settings import Settings
from bake.weights.fetch import describe_size
from bake.weights.resolve import resolve_lock
from bake.weights.store import Store


@click.command()
@manifests_argument
@click.option("--locked", is_flag=True, help="Only check that the lock fits; never write (for CI).")
@fail_fast_option
@quiet_option
@json_option
def command(
    manifests: tuple[Path, ...], *, locked: bool, fail_fast: bool, quiet: bool, as_json: bool
) -> None:
    """Pin every source of each MANIFEST to an exact file, in <manifest>.lock.json beside it."""

    def pin(manifest: Path, console: Console) -> None:
        loaded = load_manifest(manifest)
        if locked:
            load_lock(loaded)
            console.say(f"{lock_path(loaded.path)} fits the manifest")
        else:
            _pin(loaded, console)

    run_each(manifests, pin, as_json=as_json, quiet=quiet, fail_fast=fail_fast)


def _pin(manifest: Manifest, console: Console) -> None:
    path, settings = lock_path(manifest.path), Settings.from_environment()
    lock = resolve_lock(
        manifest,
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
    for extension in lock.extensions:
        console.say(f"  {extension.key}: {extension.url} at {extension.commit}")
    console.say(f"{path} {'written' if written else 'is up to date'}")
