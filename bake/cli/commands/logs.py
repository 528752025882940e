"""`bake logs`."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import click

from bake.cli.options import json_option, manifest_argument, quiet_option
from bake.console import Console
from bake.deploy.client import RunpodClient, connect
from bake.deploy.deploy import need_endpoint
from bake.errors import ManifestError
from bake.manifest.load import load_manifest
from bake.settings import Settings


@click.command()
@click.option(
    "--worker", "chosen", metavar="ID", help="Of this worker; else of one of the newest release."
)
@click.option(
    "--tail",
    type=click.IntRange(1, 5000),
    default=100,
    show_default=True,
    help="Lines from before.",
)
@click.option("--follow", "-f", is_flag=True, help="Go on until interrupted.")
@quiet_option
@json_option
@manifest_argument
def command(
    manifest: Path, *, chosen: str | None, tail: int, follow: bool, quiet: bool, as_json: bool
) -> None:
    """Print the log of a worker of MANIFEST's endpoint."""
    console = Console(as_json=as_json, quiet=quiet)
    loaded, settings = load_manifest(manifest), Settings.from_environment()
    with connect(settings) as client:
        endpoint = need_endpoint(client, loaded.deploy.name or loaded.name)
        worker = chosen or _newest(client, endpoint.id)
        console.say(f"worker {worker} of {endpoint.id}")
        after, seen = "", deque[str](maxlen=1000)
        while True:
            # Without --follow what is there comes at once; then the stream is silent.
            silence_s = 60 if follow else 5
            for line in client.log(endpoint.id, worker, tail=tail, after=after, read_s=silence_s):
                if line.id in seen:
                    continue  # the stream goes on after a time, not after a line
                seen.append(line.id)
                after = line.time or after
                console.event("log", worker=worker, time=line.time, line=line.text)
                if not as_json:
                    click.echo(line.text)
            if not follow:
                return


def _newest(client: RunpodClient, endpoint_id: str) -> str:
    workers = client.workers(endpoint_id).workers
    found = [each.id for each in sorted(workers, key=lambda each: each.is_stale)]
    if not found:
        raise ManifestError(
            "the endpoint has no worker now",
            where=endpoint_id,
            hint="workers start with a job: bake deploy MANIFEST sends one",
        )
    return found[0]
