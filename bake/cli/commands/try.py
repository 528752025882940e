"""`bake try`."""  # noqa: N999  # the command's name; it is loaded by it, never imported by a statement

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bake.cli.options import build_dir_option, json_option, quiet_option
from bake.cli.serving import make_environment, worker_options
from bake.cli.subject import image_in_engine
from bake.console import Console
from bake.errors import VerifyError
from bake.files import write_atomically
from bake.image.engine.device import DeviceChoice
from bake.image.engine.docker import Engine
from bake.serve.job import Drawn, draw, make_input
from bake.serve.worker import run_worker
from bake.settings import Settings


@click.command()
@click.argument("what", metavar="IMAGE|MANIFEST|FOLDER")
@click.argument("prompt")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of the request, such as steps=20; lists and objects are JSON.",
)
@click.option(
    "--lora",
    "loras",
    multiple=True,
    metavar="LORA",
    help="A baked LoRA's name, an https address, or a CivitAI version; 'LORA 0.8' has a strength.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("try.png"),
    show_default=True,
    help="Where the picture goes; further ones get a number.",
)
@worker_options
@build_dir_option
@quiet_option
@json_option
def command(
    what: str, prompt: str, *, fields: tuple[str, ...], loras: tuple[str, ...], output: Path, device: DeviceChoice,
    variables: tuple[str, ...], timeout_s: int, build_dir: Path, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Draw PROMPT with the worker of an image, and write the picture.

    The worker is started in a container as on a load balancing endpoint, that only this machine reaches,
    and is gone when the command ends.
    """
    console = Console(as_json=as_json, quiet=quiet)
    value = make_input(prompt, fields=fields, loras=loras)
    environment = make_environment(variables, Settings.from_environment())
    with Engine(console) as engine:
        image = image_in_engine(what, engine=engine, build_dir=build_dir)
        with run_worker(
            engine, image, environment=environment, console=console, device=device
        ) as worker:
            with console.step("start", f"on {worker.device}"):
                worker.wait_until_ready(timeout_s)
            with console.step("draw"):
                drawn = draw(
                    f"http://127.0.0.1:{worker.port}",
                    value,
                    on_progress=_teller(console),
                    timeout_s=timeout_s,
                )
            _report(drawn, output, worker.started_s, console)


def _teller(console: Console) -> Any:
    """Shows progress: one line that is written over on a terminal; events for machines."""
    is_shown = not (console.as_json or console.quiet) and sys.stderr.isatty()

    def tell(progress: Mapping[str, Any]) -> None:
        console.event("progress", **progress)
        if is_shown and progress.get("steps"):
            sys.stderr.write(f"\r\033[K  step {progress['step']} of {progress['steps']}\r")
            sys.stderr.flush()

    return tell


def _report(drawn: Drawn, output: Path, started_s: float, console: Console) -> None:
    suffix = output.suffix if drawn.format == "png" and output.suffix else f".{drawn.format}"
    paths = []
    for number, picture in enumerate(drawn.pictures, 1):
        name = output.stem if number == 1 else f"{output.stem}-{number}"
        path = output.with_name(name + suffix)
        try:
            write_atomically(path, picture)
        except OSError as error:
            raise VerifyError(
                f"the picture was drawn, but cannot be written: {error.strerror}",
                where=str(path),
                hint="choose another place with --output",
            ) from error
        paths.append(str(path))
    console.event(
        "drawn",
        pictures=[*paths, *drawn.links],
        infotexts=list(drawn.infotexts),
        start_s=started_s,
        seconds=drawn.seconds,
        notes=list(drawn.notes),
    )
    if console.as_json:
        return
    for number, where in enumerate([*paths, *drawn.links]):
        click.echo(where)
        click.echo(
            "".join(f"  {line}\n" for line in drawn.infotexts[number : number + 1]), nl=False
        )
    for note in drawn.notes:
        console.say(f"  note: {note}")
    console.say(f"started in {started_s:.1f} s, drawn in {drawn.seconds:.1f} s")
