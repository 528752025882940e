"""`bake warmup`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bake.cli.options import bake_options, json_option, make_context, quiet_option
from bake.console import Console
from bake.pipeline import warm_up_only


@click.command()
@bake_options
@click.option("--locked", is_flag=True, help="Fail unless the lock is there and fits (for CI).")
@quiet_option
@json_option
def command(manifest: Path, *, as_json: bool, quiet: bool, locked: bool, **options: Any) -> None:
    """Build the base of MANIFEST and run the warm-up generation only."""
    console = Console(as_json=as_json, quiet=quiet)
    picture = warm_up_only(make_context(manifest, console=console, **options), locked=locked)
    console.event("picture", path=str(picture))
    if not as_json:
        click.echo(f"picture  {picture}")
