"""The command line. `main` is the only place where an error becomes an exit code.

Commands are loaded when they are called: `bake --help` must not pay for docker, pydantic or requests.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from types import FrameType, ModuleType
from typing import Any, NoReturn

import click

from bake import __version__
from bake.cli.failures import State, Terminated, say_failure
from bake.errors import near_to

COMMANDS = {
    "check": "Check a manifest and report every mistake in it, without network or engine.",
    "deploy": "Make or change the RunPod endpoint of a manifest, and draw a picture with it.",
    "doctor": "Say what this machine lacks for a bake, and how to get it.",
    "fetch": "Fetch and verify the weights of a manifest into the store.",
    "gpu-check": "Check on this machine's card that an image's fast start draws what a plain one does.",
    "image": "Bake the image of a manifest: everything that is needed, nothing twice.",
    "inspect": "Print what an image says of itself, without pulling it.",
    "lock": "Pin every source of a manifest to an exact file.",
    "logs": "Print the log of a worker of a manifest's endpoint.",
    "outdated": "List newer versions of what a manifest pins.",
    "plan": "Say what a bake would do, what it would reuse, why, and the bytes.",
    "prune": "Remove bases and earlier images from the engine that no bake here needs any more.",
    "push": "Push a baked image to its registry.",
    "report": "Write the page of a bake again, or of what changed between two.",
    "schema": "Print the JSON Schema of a manifest.",
    "serve": "Run the worker of an image here, with a page to try it in the browser.",
    "sign": "Sign a pushed image, its provenance and its bill of materials.",
    "store": "List, verify or empty the store of weights.",
    "summary": "Write what a change of a manifest means, as Markdown for a pull request.",
    "try": "Draw one picture with the worker of an image, on this machine.",
    "undeploy": "Let no worker of a manifest's endpoint run any more, or remove it.",
    "update": "Move a pin to the newest version of its source.",
    "verify": "Check that an image holds what its lock says, and serves a picture.",
    "warmup": "Build the base and run the warm-up generation only.",
}
"""Each command's one line; the command itself is `bake.cli.commands.<name>.command`, `_` for `-`."""


_TRUE = ("1", "true", "yes", "on")


def _set_debug(context: click.Context, _option: click.Parameter, value: bool) -> None:
    context.ensure_object(State).debug |= value


def _import_all_of(name: str) -> ModuleType:
    """Imports a module; what that makes is here to stay, and looking for garbage in it is a tenth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        if was_on:
            gc.enable()


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used, and not to list them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = _import_all_of(f"bake.cli.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        for each in (command, *getattr(command, "commands", {}).values()):
            if not any(option.name == "debug" for option in each.params):
                debug_option(each)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; a misspelt command is told which one is near."""
        if not args[0].startswith("-") and args[0] not in COMMANDS:
            near = near_to(args[0], sorted(COMMANDS)) or "."
            ctx.fail(f"No such command {args[0]!r}{near}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_set_debug,
    help="Show where an error comes from: its causes and tracebacks, with tokens masked.",
)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bake")
@debug_option
def cli() -> None:
    """Turn a model manifest into a container image whose workers start fast."""
    from bake.settings import Settings  # noqa: PLC0415  # `bake --help` needs none

    # Whatever the command is: what does not fit in the environment is said before anything is done.
    Settings.from_environment()


def _raise_terminated(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def main(args: list[str] | None = None) -> NoReturn:
    """Runs `bake` and exits: 0 done, 2 to 7 as `bake.errors` says, 1 for faults of ours, 130 and 143 when interrupted."""
    signal.signal(signal.SIGTERM, _raise_terminated)
    state = State(debug=os.environ.get("BAKE_DEBUG", "").strip().lower() in _TRUE)
    try:
        # click returns, rather than raises, the code of --help and ctx.exit()
        code: Any = cli.main(args=args, prog_name="bake", standalone_mode=False, obj=state)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Terminated:
        sys.exit(143)
    except Exception as error:  # noqa: BLE001  # whatever it is, a user gets no traceback
        sys.exit(say_failure(error, debug=state.debug))
    sys.exit(code if isinstance(code, int) else 0)
