"""`bake prune`."""

from __future__ import annotations

from pathlib import Path

import click

from bake.cli.options import build_dir_option, json_option, quiet_option
from bake.console import Console, format_bytes
from bake.errors import ManifestError
from bake.image.engine.docker import Engine
from bake.image.kept import Kept
from bake.image.prune import find_used, list_images, plan_prune, remove_stale
from bake.settings import Settings

_KEPT_FOR_S = 30 * 86400


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
@build_dir_option
@quiet_option
@json_option
def command(*, dry_run: bool, build_dir: Path, quiet: bool, as_json: bool) -> None:
    """Remove from the engine what no build folder refers to any more.

    That is: bases that `bake` has built, and earlier images of the manifests that are baked in the build
    folders, named by their own digests. Never an image of another name, and none that a container uses.
    Weights are `bake store gc`'s, the builder's cache `docker builder prune`'s.
    """
    if not build_dir.is_dir():
        raise ManifestError(
            "there is no such folder, so every base would count as unused",
            where=f"--build-dir {build_dir}",
            hint="run it where you bake, or name the folder that your bakes use",
        )
    console = Console(as_json=as_json, quiet=quiet)
    sizes: dict[str, int] = {}
    with Engine(console) as engine:
        stale = plan_prune(list_images(engine), find_used(build_dir))
        done = ((each, "") for each in stale) if dry_run else remove_stale(engine, stale)
        for each, reason in done:
            image = each.image
            size = format_bytes(image.size_bytes)
            if reason:
                console.say(f"kept {image.tag}: {reason}")
                continue
            sizes[image.id] = image.size_bytes
            console.event("removed", image=image.tag, kind=each.kind, bytes=image.size_bytes, dry_run=dry_run)  # fmt: skip
            console.say(
                f"{'would remove' if dry_run else 'removed'} {each.kind} {image.tag} ({size})"
            )
    notes = Kept(Settings.from_environment().kept).remove_unused(_KEPT_FOR_S, dry_run=dry_run)
    freed = sum(sizes.values())
    console.event("pruned", images=len(sizes), bytes=freed, notes_bytes=notes, dry_run=dry_run)
    console.say(
        f"{len(sizes)} images, at most {format_bytes(freed)} (what other images share stays); "
        f"{format_bytes(notes)} of notes on layers, unused for 30 days"
    )
