"""Options that several commands share, and what they make of the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bake.console import Console
from bake.errors import ManifestError

if TYPE_CHECKING:
    from bake.steps.run import Context

_Function = TypeVar("_Function", bound=Callable[..., Any])

manifest_argument = click.argument("manifest", type=click.Path(path_type=Path))
manifests_argument = click.argument(
    "manifests", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="MANIFEST..."
)
fail_fast_option = click.option(
    "--fail-fast", is_flag=True, help="Of several manifests: begin no further one after a failure."
)
jobs_option = click.option(
    "--jobs",
    "-j",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="How many of several manifests are worked on side by side.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON event a line on stdout."
)
document_option = click.option(
    "--json", "as_json", is_flag=True, help="The answer as one JSON document."
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Say warnings and errors only.")
build_dir_option = click.option(
    "--build-dir",
    type=click.Path(path_type=Path),
    default=Path("build"),
    show_default=True,
    help="Where a bake keeps its state, logs and report: a folder for each manifest's name.",
)


trust_config_option = click.option(
    "--trust-config",
    type=click.Path(path_type=Path),
    help="A Sigstore of your own instead of the public one: its ClientTrustConfig, as JSON.",
)
no_load_option = click.option(
    "--no-load",
    "load",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Keep the image out of the local engine: the weights stream from the store to the registry, "
    "and no worker is tried after the warm-up.",
)
no_store_option = click.option(
    "--no-store",
    "store",
    is_flag=True,
    flag_value=False,
    default=True,
    help="With --push: weights that the store lacks stream from their source to the registry and never "
    "touch this disk. Without them there is no warm-up: an earlier one's harvest is used where it fits, "
    "else the worker starts slower. Implies --no-load.",
)


def device_option(meaning: str) -> Callable[[_Function], _Function]:
    """`--device`, or BAKE_DEVICE: `auto`, `cuda` or `cpu`."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cuda", "cpu"]),
        default="auto",
        show_default=True,
        envvar="BAKE_DEVICE",
        help=meaning,
    )


def bake_options(function: _Function) -> _Function:
    """What every command that bakes takes, and `bake plan`."""
    return build_options(fail_fast_option(manifests_argument(function)))


def build_options(function: _Function) -> _Function:
    """Of that, what is about one manifest's bake."""
    for option in (
        click.option(
            "--build-arg",
            "build_args",
            multiple=True,
            metavar="NAME=VALUE",
            envvar="BAKE_BUILD_ARGS",
            help="A build argument of the base's Dockerfile and of Dockerfile.final; also, "
            "space-separated, in BAKE_BUILD_ARGS.",
        ),
        device_option("What the warm-up draws on."),
        build_dir_option,
    ):
        function = option(function)
    return function


def parse_build_args(texts: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE` texts as a mapping.

    Raises:
        ManifestError: one is not of that form.
    """
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            # the value may be a secret
            shown = f"{name}=…" if equals else name
            raise ManifestError(f"{shown!r} is not NAME=VALUE", where="--build-arg")
        pairs[name] = value
    refuse_secrets(pairs)
    return pairs


def refuse_secrets(pairs: Mapping[str, str]) -> None:
    """Build arguments are in an image's history, and in what bake keeps of a step.

    Raises:
        ManifestError: a value gives a secret away; it is not shown.
    """
    from bake.secrets import REMEDY, find_secret  # noqa: PLC0415  # loaded when a command runs

    for name, value in pairs.items():
        reason = find_secret(value)
        if reason:
            raise ManifestError(
                f"the build argument {name} {reason}, which would be in the image's history",
                where="--build-arg",
                hint=REMEDY,
            )


def make_context(
    manifest: Path,
    *,
    build_args: tuple[str, ...],
    device: str,
    build_dir: Path,
    console: Console,
    push: bool = False,
    load: bool = True,
    store: bool = True,
) -> Context:
    """Reads the manifest and the environment into what a bake needs.

    Raises:
        ManifestError: any of it is wrong.
    """
    if not store and not push:
        raise ManifestError(
            "weights that are not to be stored here have to go to a registry",
            where="--no-store",
            hint="add --push",
        )
    from bake.manifest.load import load_manifest  # noqa: PLC0415  # loaded when a command runs
    from bake.plan.state import BuildFolder  # noqa: PLC0415
    from bake.plan.step import Options  # noqa: PLC0415
    from bake.settings import Settings  # noqa: PLC0415
    from bake.steps.run import Context  # noqa: PLC0415

    loaded = load_manifest(manifest)
    chosen = {**loaded.base.args, **parse_build_args(build_args)}
    return Context(
        manifest=loaded,
        options=Options(
            device=device,  # type: ignore[arg-type]
            build_args=chosen,
            push=push,
            load=load and store,  # an engine is given layers from this disk
            store=store,
        ),
        settings=Settings.from_environment(),
        console=console,
        folder=BuildFolder(build_dir / loaded.name),
    )
