"""`bake image`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bake.cli.options import (
    bake_options,
    jobs_option,
    json_option,
    make_context,
    no_load_option,
    no_store_option,
    quiet_option,
)
from bake.cli.several import refuse_same_names, run_each
from bake.console import Console
from bake.pipeline import bake_image


@click.command()
@bake_options
@click.option("--locked", is_flag=True, help="Fail unless the lock is there and fits (for CI).")
@click.option("--push", is_flag=True, help="Push the image once it is verified.")
@no_load_option
@no_store_option
@jobs_option
@quiet_option
@json_option
def command(
    manifests: tuple[Path, ...],
    *,
    as_json: bool,
    quiet: bool,
    jobs: int,
    fail_fast: bool,
    locked: bool,
    **options: Any,
) -> None:
    """Bake the image of each MANIFEST: everything that is needed, nothing twice.

    Several share base, wheel and store. One that fails does not keep the others from being baked; the exit
    code is then that of the first that failed, in the order given.
    """
    refuse_same_names(manifests)

    def bake(manifest: Path, console: Console) -> None:
        context = make_context(manifest, console=console, **options)
        baked = bake_image(context, locked=locked)
        picture = str(baked.picture) if baked.picture else None
        console.event(
            "image",
            digest=baked.image.digest,
            reference=baked.reference,
            report=str(baked.report),
            picture=picture,
            pushed=baked.pushed,
        )
        lines = [f"image    {baked.reference}", f"digest   {baked.image.digest}"]
        lines += (
            [f"pushed   {baked.pushed}"] if baked.pushed not in (None, baked.image.digest) else []
        )
        lines += [f"picture  {picture}"] if picture else []
        console.answer("\n".join([*lines, f"report   {baked.report}"]))

    run_each(manifests, bake, as_json=as_json, quiet=quiet, fail_fast=fail_fast, jobs=jobs)
