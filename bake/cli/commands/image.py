"""`bake image`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bake.cli.options import (
    bake_options,
    json_option,
    make_context,
    no_load_option,
    no_store_option,
    quiet_option,
)
from bake.console import Console
from bake.pipeline import bake_image


@click.command()
@bake_options
@click.option("--locked", is_flag=True, help="Fail unless the lock is there and fits (for CI).")
@click.option("--push", is_flag=True, help="Push the image once it is verified.")
@no_load_option
@no_store_option
@quiet_option
@json_option
def command(
    manifest: Path,
    *,
    as_json: bool,
    quiet: bool,
    locked: bool,
    push: bool,
    **options: Any,
) -> None:
    """Bake the image of MANIFEST: everything that is needed, nothing twice."""
    console = Console(as_json=as_json, quiet=quiet)
    context = make_context(manifest, console=console, push=push, **options)
    baked = bake_image(context, locked=locked)
    console.event(
        "image",
        digest=baked.image.digest,
        reference=baked.reference,
        report=str(baked.report),
        picture=str(baked.picture) if baked.picture else None,
    )
    if not as_json:
        click.echo(f"image    {baked.reference}")
        click.echo(f"digest   {baked.image.digest}")
        if baked.picture:
            click.echo(f"picture  {baked.picture}")
        click.echo(f"report   {baked.report}")
