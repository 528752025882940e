"""`bake serve`."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from bake.cli.options import build_dir_option, json_option, quiet_option
from bake.cli.serving import make_environment, worker_options
from bake.cli.subject import image_in_engine
from bake.console import Console
from bake.image.engine.device import DeviceChoice
from bake.image.engine.docker import Engine
from bake.image.verify.worker import read_worker
from bake.serve.page import Upstream, make_about, serve_page
from bake.serve.worker import run_worker
from bake.settings import Settings


@click.command()
@click.argument("what", metavar="IMAGE|MANIFEST|FOLDER")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Of 127.0.0.1, for the page; a free one if left out.",
)
@click.option(
    "--no-open",
    "opens",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Leave the browser alone.",
)
@worker_options
@build_dir_option
@quiet_option
@json_option
def command(
    what: str, *, port: int, opens: bool, device: DeviceChoice, variables: tuple[str, ...], timeout_s: int,
    build_dir: Path, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Run the worker of an image here, with a page to try it, until Ctrl-C.

    The page and POST /txt2img, as on a load balancing endpoint, are on 127.0.0.1 alone; the container is
    gone when the command ends.
    """
    console = Console(as_json=as_json, quiet=quiet)
    environment = make_environment(variables, Settings.from_environment())
    with Engine(console) as engine:
        image = image_in_engine(what, engine=engine, build_dir=build_dir)
        about = make_about(read_worker(engine, image), what)
        with run_worker(
            engine, image, environment=environment, console=console, device=device
        ) as worker:
            upstream = Upstream(port=lambda: worker.port, ping=worker.ping)
            with serve_page(about, upstream, port=port) as url:
                console.event("serving", url=url)
                console.say(f"the page: {url}")
                if opens and not as_json:
                    webbrowser.open(url)
                try:
                    with console.step("start", f"on {worker.device}"):
                        worker.wait_until_ready(timeout_s)
                    console.event("ready", url=url, start_s=worker.started_s)
                    console.say("ready; Ctrl-C ends it")
                    worker.wait()
                except KeyboardInterrupt:
                    console.say("ending the worker")
                    return
                raise worker.failure("the worker ended")
