"""`bake gpu-check`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bake.cli.options import build_dir_option, json_option, quiet_option
from bake.cli.subject import image_in_engine
from bake.console import Console
from bake.errors import MachineError, VerifyError
from bake.files import write_atomically
from bake.image.engine.docker import Engine
from bake.serve.card import check_card


@click.command()
@click.argument("what", metavar="IMAGE|MANIFEST|FOLDER")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("gpu-check.json"),
    show_default=True,
    help="Where the record goes.",
)
@click.option("--rounds", type=click.IntRange(2, 100), default=3, show_default=True)
@click.option(
    "--cache",
    type=click.Choice(["warm", "cold", "cold,warm"]),
    default="warm",
    show_default=True,
    help="The page cache before each start.",
)
@click.option("--steps", type=click.IntRange(1, 150), help="Of the picture.  [default: 8; CPU: 1]")
@click.option(
    "--size", type=click.IntRange(64, 2048), help="Its side, in pixels.  [default: 512; CPU: 64]"
)
@click.option(
    "--device",
    type=click.Choice(["cuda", "cpu"]),
    default="cuda",
    show_default=True,
    help="cpu rehearses the check, on a machine without a card.",
)
@build_dir_option
@quiet_option
@json_option
def command(
    what: str, *, output: Path, rounds: int, cache: str, steps: int | None, size: int | None, device: str,
    build_dir: Path, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Check on this machine's NVIDIA card that an image's fast start draws what upstream's plain start draws.

    The image's webui is started plain, with each trick alone and with all of them, several times. The
    table says for each whether the picture is the same bit by bit, the seconds of each phase, the card's
    memory and which attention drew. The record can be sent in (docs/records).
    """
    console = Console(as_json=as_json, quiet=quiet)
    asked = {"--rounds": rounds, "--cache": cache, "--steps": steps, "--size": size}
    arguments = [
        text for name, value in asked.items() if value is not None for text in (name, str(value))
    ]
    _need_writable(output)

    def keep(record: Mapping[str, Any]) -> None:
        write_atomically(output, json.dumps(record, indent=1, sort_keys=True) + "\n")
        console.say(f"the record is in {output}")

    with Engine(console) as engine:
        image = image_in_engine(what, engine=engine, build_dir=build_dir)
        with console.step("gpu-check", f"on {device}"):
            found = check_card(
                engine,
                image,
                device=device,  # type: ignore[arg-type]  # a choice of click
                arguments=arguments,
                console=console,
                keep=keep,
            )
    if not as_json:
        click.echo(f"{found.table.rstrip()}\n")
    keep(found.record)
    console.event("checked", path=str(output), good=found.is_good, figures=found.record["figures"])
    if not found.is_good:
        raise VerifyError(
            "a start failed, or drew another picture than upstream's plain start",
            where=what,
            hint=f"run its workers with BAKERY_BOOT=plain, and send {output} in with a report",
        )


def _need_writable(path: Path) -> None:
    """Before an hour goes into what will be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise MachineError(
            f"the record cannot be written: {error.strerror or error}",
            where=str(path),
            hint="name a file in a folder that you may write to: --output FILE",
        ) from error
