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
from bake.cli.several import run_each
from bake.console import Console, format_bytes
from bake.pipeline import plan_only
from bake.plan.plan import Plan


@click.command()
@bake_options
@click.option("--push", is_flag=True, help="Plan a push as well.")
@no_load_option
@no_store_option
@document_option
def command(manifests: tuple[Path, ...], *, as_json: bool, fail_fast: bool, **options: Any) -> None:
    """Say what a bake of each MANIFEST would do, what it would reuse, why, and the bytes.

    With --json and several manifests, a list under `manifests`; those that failed are not in it.
    """
    plans: list[dict[str, Any]] = []

    def plan(manifest: Path, console: Console) -> None:
        decided = plan_only(make_context(manifest, console=console, **options))
        plans.append({"steps": [step.to_json() for step in decided.steps]})
        if len(manifests) > 1:
            plans[-1]["manifest"] = str(manifest)
        if not as_json:
            console.answer("\n".join(_lines(decided)))

    try:
        run_each(manifests, plan, fail_fast=fail_fast, is_silent=True)
    finally:
        if as_json and (len(manifests) > 1 or plans):
            click.echo(
                json.dumps({"manifests": plans} if len(manifests) > 1 else plans[0], indent=2)
            )


def _lines(plan: Plan) -> list[str]:
    lines = []
    for step in plan.steps:
        size = f" ({format_bytes(step.size_bytes)})" if step.size_bytes else ""
        lines.append(f"{'run ' if step.runs else 'skip'}  {step.name:<12} {step.why}{size}")
    return lines
