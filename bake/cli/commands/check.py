"""`bake check`."""

from __future__ import annotations

from pathlib import Path

import click

from bake.cli.options import fail_fast_option, manifests_argument
from bake.cli.several import run_each
from bake.console import Console
from bake.manifest.load import load_manifest


@click.command()
@manifests_argument
@fail_fast_option
def command(manifests: tuple[Path, ...], *, fail_fast: bool) -> None:
    """Check manifests and report every mistake in them, without network or engine."""

    def check(manifest: Path, console: Console) -> None:
        loaded = load_manifest(manifest)
        count = len(loaded.sources())
        files = "1 file" if count == 1 else f"{count} files"
        console.answer(f"{manifest}: ok, {loaded.name} with {files} of weights")

    run_each(manifests, check, fail_fast=fail_fast)
