"""`bake outdated`."""

from __future__ import annotations

from pathlib import Path

import click

from bake.cli.options import fail_fast_option, json_option, manifests_argument
from bake.cli.several import run_each
from bake.console import Console
from bake.errors import SourceError
from bake.extensions.resolve import newest_commit
from bake.lock import ExtensionPin, load_lock
from bake.manifest.load import load_manifest
from bake.settings import Settings
from bake.weights.context import Context
from bake.weights.store import Store
from bake.weights.update import Standing, find_standing


@click.command()
@manifests_argument
@fail_fast_option
@json_option
def command(manifests: tuple[Path, ...], *, fail_fast: bool, as_json: bool) -> None:
    """List versions that were published after what each MANIFEST pins, with names and dates."""
    run_each(manifests, _compare, as_json=as_json, fail_fast=fail_fast)


def _compare(manifest: Path, console: Console) -> None:
    loaded = load_manifest(manifest)
    settings = Settings.from_environment()
    context = Context(
        settings=settings,
        store=Store(settings.store),
        console=console,
        folder=loaded.path.parent,
    )
    failed = []
    lock = load_lock(loaded)
    for pin in lock.pins:
        try:
            standing = find_standing(context, loaded, pin)
        except SourceError as error:  # the others are still worth knowing
            console.warn(str(error))
            failed.append(pin.key)
            continue
        console.event("standing", **_fields(standing))
        console.answer("\n".join(_lines(standing, manifest)))
    for extension in lock.extensions:
        try:
            newest = newest_commit(extension, context)
        except SourceError as error:
            console.warn(str(error))
            failed.append(extension.key)
            continue
        newer = {"source": newest, "title": extension.ref or "HEAD", "published": None}
        console.event(
            "standing",
            key=extension.key,
            pinned=extension.commit,
            published=None,
            newer=[newer] if newest != extension.commit else [],
        )
        console.answer(_extension_line(extension, newest, manifest))
    if failed:
        raise SourceError(f"not compared: {', '.join(failed)}", where=str(manifest))


def _fields(standing: Standing) -> dict[str, object]:
    newer = standing.newer
    return {
        "key": standing.pin.key,
        "pinned": standing.pin.title or standing.pin.file_name,
        "published": standing.pin.published_at,
        "newer": None
        if newer is None
        else [
            {"source": each.source, "title": each.title, "published": each.published_at}
            for each in newer
        ],
    }


def _extension_line(pin: ExtensionPin, newest: str, manifest: Path) -> str:
    at = f"{pin.key}: {pin.commit[:12]}"
    if newest == pin.commit:
        return f"{at}: up to date"
    if pin.ref is not None:
        return f"{at}: {pin.ref} is at {newest[:12]}, bake update {manifest} {pin.key}"
    return (
        f"{at}: its repository is at {newest}, which the manifest may name once you have tried it"
    )


def _lines(standing: Standing, manifest: Path) -> list[str]:
    pin = standing.pin
    since = f" of {pin.published_at[:10]}" if pin.published_at else ""
    head = f"{pin.key}: {pin.title or pin.file_name}{since}"
    if standing.newer is None:
        return [f"{head}: the source has no versions to compare"]
    if not standing.newer:
        return [f"{head}: up to date"]
    lines = [f"{head}: {len(standing.newer)} newer, bake update {manifest} {pin.key}"]
    lines += [
        f"  {(each.published_at or 'no date')[:10]}  {each.title}"
        f"{f' ({each.base_model})' if each.base_model else ''}  {each.source}"
        for each in standing.newer
    ]
    return lines
