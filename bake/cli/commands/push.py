"""`bake push`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from bake.cli.options import build_dir_option, json_option, quiet_option
from bake.cli.subject import BakedImage, need_baked
from bake.console import Console, format_bytes
from bake.errors import ManifestError
from bake.image.kept import Kept
from bake.image.layout import LAYOUT_SCHEME, parse_layout, write_layout
from bake.image.oci.model import LOCK_LABEL
from bake.image.registry.push import PushReport, push_image
from bake.image.rewrite import push_rewritten, write_rewritten_layout
from bake.lock import Lock, lock_path, read_lock
from bake.manifest.load import load_manifest
from bake.plan.state import BuildFolder
from bake.plan.step import packing_of, pinned_weights
from bake.settings import Settings
from bake.weights.licences import licence_warnings


@click.command()
@click.argument("what", metavar="MANIFEST|FOLDER")
@click.argument("reference", required=False)
@build_dir_option
@quiet_option
@json_option
def command(
    what: str, reference: str | None, *, build_dir: Path, quiet: bool, as_json: bool
) -> None:
    """Push what was baked from a manifest (or lies in a build folder) to its registry.

    REFERENCE is where to, as registry/name:tag; by default the manifest's `image`. Only what the
    registry lacks is sent, and the tag moves last. `oci:FOLDER[:TAG]` writes an OCI layout instead, as
    skopeo spells it.
    """
    baked = need_baked(what, build_dir=build_dir)
    target = reference or baked.reference
    if not target:
        raise ManifestError("a build folder needs a reference to go to", hint=f"bake push {what} registry/name:tag, or oci:FOLDER")  # fmt: skip
    console = Console(as_json=as_json, quiet=quiet)
    lock = read_lock(lock_path(Path(what))) if Path(what).is_file() else None
    for warning in licence_warnings(lock) if lock else []:
        console.warn(warning)
    if target.startswith(LAYOUT_SCHEME):
        _write_layout(baked, target, console)
        return
    with console.step("push", target):
        report = _push(baked, target, console)
    if Path(what).is_file() and target == baked.reference:
        _note(Path(what), baked, report)
    if not as_json:
        click.echo("\n".join(_lines(report)))


def _push(baked: BakedImage, target: str, console: Console) -> PushReport:
    if baked.compression == "gzip":
        return push_image(baked.image, target, console=console)
    with _scratch(baked, console) as scratch:
        return push_rewritten(baked.image, target, console=console, folder=scratch, kept=_kept())


@contextmanager
def _scratch(baked: BakedImage, console: Console) -> Iterator[Path]:
    folder = BuildFolder(baked.folder)
    with folder.locked(console), folder.temporary_folder("push") as scratch:
        yield scratch


def _kept() -> Kept:
    return Kept(Settings.from_environment().kept)


def _note(manifest: Path, baked: BakedImage, report: PushReport) -> None:
    """Keeps what the registry has now, so that `bake plan --push` does not count it again."""
    lock = baked.image.labels.get(LOCK_LABEL)
    if lock:
        read = load_manifest(manifest)
        document = {
            **pinned_weights(Lock.from_json(lock)),
            "repository": read.image,
            **packing_of(read),
        }
        BuildFolder(baked.folder).write_record("push", document, report.as_json())


def _write_layout(baked: BakedImage, target: str, console: Console) -> None:
    (folder, tag), image = parse_layout(target), baked.image
    with console.step("write", target):
        if baked.compression == "gzip":
            write_layout(image, folder, tag=tag)
        else:
            with _scratch(baked, console) as scratch:
                image = write_rewritten_layout(
                    image, folder, tag=tag, console=console, folder=scratch, kept=_kept()
                )
    console.event("written", reference=target, digest=image.digest)
    if not console.as_json:
        click.echo(f"{target} {image.digest}")


def _lines(report: PushReport) -> list[str]:
    lines = [
        f"{layer.how:<9}{format_bytes(layer.size_bytes):>11}  {layer.comment or layer.digest}"
        for layer in report.layers
    ]
    return [
        *lines,
        f"{format_bytes(report.sent_bytes)} sent in {report.seconds:.1f} s",
        f"{report.reference}@{report.digest}",
    ]
