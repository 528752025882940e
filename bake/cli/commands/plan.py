"""`bake plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bake.cli.options import (
    bake_options,
    document_option,
    make_context,
    no_load_option,
    no_store_option,
)
from bake.console import Console, format_bytes
from bake.pipeline import plan_only
from bake.plan.plan import Plan


@click.command()
@bake_options
@click.option("--push", is_flag=True, help="Plan a push as well.")
@no_load_option
@no_store_option
@document_option
def command(manifest: Path, *, as_json: bool, push: bool, **options: Any) -> None:
    """Say what a bake of MANIFEST would do, what it would reuse, why, and the bytes."""
    console = Console(quiet=True)
    plan = plan_only(make_context(manifest, console=console, push=push, **options))
    if as_json:
        click.echo(json.dumps({"steps": [step.to_json() for step in plan.steps]}, indent=2))
    else:
        click.echo("\n".join(_lines(plan)))


def _lines(plan: Plan) -> list[str]:
    lines = []
    for step in plan.steps:
        size = f" ({format_bytes(step.size_bytes)})" if step.size_bytes else ""
        lines.append(f"{'run ' if step.runs else 'skip'}  {step.name:<12} {step.why}{size}")
    return lines
