"""`bake update`."""

from __future__ import annotations

from pathlib import Path

import click

from bake.cli.options import json_option, manifest_argument, quiet_option
from bake.console import Console
from bake.errors import ManifestError
from bake.extensions.resolve import newest_commit
from bake.files import write_atomically
from bake.lock import ExtensionPin, Lock, load_lock, lock_path, write_lock
from bake.manifest.load import load_manifest
from bake.settings import Settings
from bake.weights.context import Context
from bake.weights.resolve import resolve_lock
from bake.weights.store import Store
from bake.weights.update import (
    describe_changes,
    edit_manifest,
    find_keys,
    find_standing,
    next_source,
    without,
)


@click.command()
@manifest_argument
@click.argument("name", required=False)
@click.option("--dry-run", is_flag=True, help="Show the difference, write nothing.")
@quiet_option
@json_option
def command(manifest: Path, name: str | None, *, dry_run: bool, quiet: bool, as_json: bool) -> None:
    """Move the pin NAME of MANIFEST (or every pin) to the newest version, and show what changes.

    The manifest's line is edited where it names a version, then the lock is written. An extension moves with
    its tag or branch; one that is pinned by its commit stays.
    """
    console = Console(as_json=as_json, quiet=quiet)
    loaded = load_manifest(manifest)
    old = load_lock(loaded)
    settings = Settings.from_environment()
    store = Store(settings.store)
    context = Context(settings=settings, store=store, console=console, folder=loaded.path.parent)
    keys = find_keys(loaded, name)
    standings = [find_standing(context, loaded, pin) for pin in old.pins if pin.key in keys]
    # What has no versions (https, file) is pinned again only if it was named: it must be downloaded for that.
    moved = [each for each in standings if each.newer or (each.newer is None and name is not None)]
    followed = [pin.key for pin in old.extensions if pin.key in keys and _moves(pin, context, name)]
    if not moved and not followed:
        console.say("everything is up to date")
        return
    changes = {each.pin.key: source for each in moved if (source := next_source(each)) is not None}
    # Not read_text, which would turn the line ends of Windows into others.
    text, edited = edit_manifest(loaded, loaded.path.read_bytes().decode(), changes)
    new = resolve_lock(
        edited,
        previous=without(old, [*(each.pin.key for each in moved), *followed]),
        settings=settings,
        store=store,
        console=console,
    )
    _show(console, old, new)
    if dry_run:
        console.say("nothing was written (--dry-run)")
        return
    if changes:
        write_atomically(loaded.path.resolve(), text)  # a link to it stays one
    write_lock(lock_path(loaded.path), new)


def _moves(pin: ExtensionPin, context: Context, name: str | None) -> bool:
    if pin.ref is not None:
        return newest_commit(pin, context) != pin.commit
    if name is not None:
        raise ManifestError(
            f"{pin.key} is pinned by its commit, which stays",
            hint="write the commit that you have tried into the manifest, then bake lock MANIFEST",
        )
    return False


def _show(console: Console, old: Lock, new: Lock) -> None:
    changes = {after.key: describe_changes(old.pin(after.key), after) for after in new.pins}
    before = {pin.key: pin for pin in old.extensions}
    changes |= {pin.key: describe_changes(before[pin.key], pin) for pin in new.extensions}
    for key, lines in changes.items():
        if lines:
            console.event("moved", key=key, changes=lines)
            console.say("\n  ".join([f"{key}:", *lines]))
    if not any(changes.values()):
        console.say("the sources give what is pinned already")
