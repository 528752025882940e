"""`bake check`."""

from __future__ import annotations

from pathlib import Path

import click

from bake.manifest.load import load_manifest


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
def command(manifest: Path) -> None:
    """Check a manifest and report every mistake in it, without network or engine."""
    loaded = load_manifest(manifest)
    click.echo(f"{manifest}: ok, {loaded.name} with {len(loaded.sources())} weights files")
