"""`bake undeploy`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bake.cli.options import json_option, manifest_argument, quiet_option
from bake.console import Console
from bake.deploy.client import connect
from bake.deploy.deploy import need_endpoint, scale_to_zero
from bake.errors import ManifestError
from bake.manifest.load import load_manifest
from bake.settings import Settings


@click.command()
@click.option("--remove", is_flag=True, help="Remove the endpoint, with its address and its queue.")
@click.option("--yes", "-y", is_flag=True, help="Ask nothing.")
@quiet_option
@json_option
@manifest_argument
def command(manifest: Path, *, remove: bool, yes: bool, quiet: bool, as_json: bool) -> None:
    """Let no worker of MANIFEST's endpoint run any more.

    The endpoint stays, and `bake deploy` lets it run again.
    """
    console = Console(as_json=as_json, quiet=quiet)
    loaded, settings = load_manifest(manifest), Settings.from_environment()
    with connect(settings) as client:
        endpoint = need_endpoint(client, loaded.deploy.name or loaded.name)
        what = "removed, with the jobs in its queue" if remove else "scaled to no worker"
        if not yes:
            if not sys.stdin.isatty() or as_json:
                raise ManifestError("there is no terminal to ask on", hint="add --yes")
            if not click.confirm(f"Endpoint {endpoint.id} ({endpoint.name}) is {what}?"):
                raise click.Abort
        if remove:
            client.delete_endpoint(endpoint.id)
        else:
            scale_to_zero(client, endpoint)
        console.event("undeployed", endpoint=endpoint.id, removed=remove)
    if not as_json:
        click.echo(f"{endpoint.id} {what}")
