"""`bake summary`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bake.cli.options import (
    build_options,
    make_context,
    manifest_argument,
    no_load_option,
    no_store_option,
)
from bake.console import Console
from bake.errors import BakeError, MachineError, ManifestError
from bake.lock import load_lock, read_lock
from bake.manifest.load import load_manifest
from bake.pipeline import plan_only
from bake.plan.summary import summarise


@click.command()
@manifest_argument
@build_options
@click.option("--push", is_flag=True, help="Plan a push as well.")
@no_load_option
@no_store_option
@click.option(
    "--before",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The lock as it was before the change; without it, or where it is empty, all is new.",
)
def command(manifest: Path, *, before: Path | None, push: bool, **options: Any) -> None:
    """Write what a change of MANIFEST means, as Markdown: weights, licences, plan and bytes.

    For a pull request: CI puts it on the run's page (docs/ci.md). The page is written even if the lock does not fit; that
    is an error all the same. Without an engine, what a bake would do is left out.
    """
    problems: list[str] = []
    wrong: BakeError | None = None
    lock = plan = None
    earlier = read_lock(before) if before and before.stat().st_size else None
    name = manifest.stem
    try:
        loaded = load_manifest(manifest)
        name, lock = loaded.name, load_lock(loaded)
        plan = plan_only(make_context(manifest, console=Console(quiet=True), push=push, **options))
    except MachineError as error:
        problems.append(f"What a bake would do is not known here: {error.what}")
    except ManifestError as error:
        wrong = error
        problems.append(str(error))
    click.echo(summarise(name, lock, before=earlier, plan=plan, problems=problems), nl=False)
    if wrong:
        raise wrong
