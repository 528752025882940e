"""The command line. `main` is the only place where an error becomes an exit code."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from bake import __version__
from bake.errors import BakeError


class Terminated(BaseException):
    """SIGTERM, raised so that every context manager cleans up on the way out."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bake")
def cli() -> None:
    """Turn a model manifest into a container image whose workers start fast."""


@cli.command()
def schema() -> None:
    """Print the JSON Schema of a manifest."""
    from bake.manifest import Manifest  # noqa: PLC0415  # pydantic costs start time

    click.echo(json.dumps(Manifest.model_json_schema(), indent=2, sort_keys=True))


@cli.command()
@click.argument("manifest", type=click.Path(path_type=Path))
def check(manifest: Path) -> None:
    """Check a manifest and report every mistake in it, without network or engine."""
    from bake.manifest import load_manifest  # noqa: PLC0415  # pydantic costs start time

    loaded = load_manifest(manifest)
    click.echo(f"{manifest}: ok, {loaded.name} with {len(loaded.sources())} weights files")


def _raise_terminated(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def main(args: list[str] | None = None) -> NoReturn:
    """Runs `bake` and exits: 0 done, 2 to 7 as `bake.errors` says, 130 and 143 when interrupted."""
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        # click returns, rather than raises, the code of --help and ctx.exit()
        code = cli.main(args=args, prog_name="bake", standalone_mode=False)
    except BakeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Terminated:
        sys.exit(143)
    sys.exit(code if isinstance(code, int) else 0)
