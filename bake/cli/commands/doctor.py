"""`bake doctor`."""

from __future__ import annotations

import json

import click

from bake.cli.options import document_option
from bake.doctor import examine_machine
from bake.errors import MachineError


@click.command()
@document_option
def command(*, as_json: bool) -> None:
    """Say what this machine lacks for a bake, and how to get it."""
    findings = examine_machine()
    if as_json:
        click.echo(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.severity:<8} {finding.what}")
            if finding.remedy:
                click.echo(f"         → {finding.remedy}")
    if any(finding.severity == "error" for finding in findings):
        raise MachineError("this machine cannot bake yet", hint="the lines above say what to do")
