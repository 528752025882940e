"""`bake fetch`."""

from __future__ import annotations

from pathlib import Path

import click

from bake.cli.options import (
    fail_fast_option,
    jobs_option,
    json_option,
    manifests_argument,
    quiet_option,
)
from bake.cli.several import run_each
from bake.console import Console, format_bytes
from bake.extensions.resolve import check_extensions, fetch_extension
from bake.lock import load_lock
from bake.manifest.load import load_manifest
from bake.settings import Settings
from bake.weights.check import check_stored, check_together
from bake.weights.context import Context
from bake.weights.fetch import describe_size, fetch_pin
from bake.weights.store import Store


@click.command()
@manifests_argument
@fail_fast_option
@jobs_option
@quiet_option
@json_option
def command(
    manifests: tuple[Path, ...], *, fail_fast: bool, jobs: int, quiet: bool, as_json: bool
) -> None:
    """Fetch the weights of each MANIFEST into the store, and check them against lock and manifest."""
    run_each(manifests, _fetch, as_json=as_json, quiet=quiet, fail_fast=fail_fast, jobs=jobs)


def _fetch(manifest: Path, console: Console) -> None:
    loaded = load_manifest(manifest)
    lock = load_lock(loaded)
    settings = Settings.from_environment()
    store = Store(settings.store)
    stored = [sha256 for each in lock.extensions for sha256 in each.stored]
    with store.lease([*(pin.sha256 for pin in lock.pins), *stored]):
        for pin in lock.pins:
            if store.has(pin.sha256):
                console.skip(f"fetch {pin.key}", "it is in the store already")
                path = store.path_of(pin.sha256)
            else:
                with console.step(f"fetch {pin.key}", describe_size(pin.size_bytes)):
                    path = fetch_pin(
                        pin,
                        store=store,
                        settings=settings,
                        console=console,
                        folder=loaded.path.parent,
                    )
            for warning in check_stored(path, loaded, pin):
                console.warn(warning)
            size = store.size_of(pin.sha256)
            console.event("weights", key=pin.key, path=str(path), bytes=size)
            console.say(f"  {path} ({format_bytes(size)})")
        check_together(loaded, lock.pins, store, {})
        context = Context(
            settings=settings, store=store, console=console, folder=loaded.path.parent
        )
        for extension in lock.extensions:
            fetch_extension(extension, context)
            path = store.path_of(extension.sha256)
            console.event("extension", key=extension.key, path=str(path), commit=extension.commit)
            console.say(f"  {path} ({extension.key} at {extension.commit[:12]})")
        check_extensions(lock, context)
