"""`bake warmup`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bake.cli.options import bake_options, json_option, make_context, quiet_option
from bake.cli.several import refuse_same_names, run_each
from bake.console import Console
from bake.pipeline import warm_up_only


@click.command()
@bake_options
@click.option("--locked", is_flag=True, help="Fail unless the lock is there and fits (for CI).")
@quiet_option
@json_option
def command(
    manifests: tuple[Path, ...],
    *,
    as_json: bool,
    quiet: bool,
    fail_fast: bool,
    locked: bool,
    **options: Any,
) -> None:
    """Build the base of each MANIFEST and run the warm-up generation only."""
    refuse_same_names(manifests)

    def warm_up(manifest: Path, console: Console) -> None:
        picture = warm_up_only(make_context(manifest, console=console, **options), locked=locked)
        console.event("picture", path=str(picture))
        console.answer(f"picture  {picture}")

    run_each(manifests, warm_up, as_json=as_json, quiet=quiet, fail_fast=fail_fast)
