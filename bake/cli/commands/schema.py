"""`bake schema`."""

from __future__ import annotations

import json

import click

from bake.manifest.model import Manifest


@click.command()
def command() -> None:
    """Print the JSON Schema of a manifest."""
    click.echo(json.dumps(Manifest.model_json_schema(), indent=2, sort_keys=True))
