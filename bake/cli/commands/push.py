"""`bake push`."""

from __future__ import annotations

from pathlib import Path

import click

from bake.cli.options import build_dir_option, json_option, quiet_option
from bake.cli.subject import BakedImage, need_baked
from bake.console import Console, format_bytes
from bake.errors import ManifestError
from bake.image.layout import LAYOUT_SCHEME, parse_layout, write_layout
from bake.image.oci.model import LOCK_LABEL, Image
from bake.image.registry.push import PushReport, push_image
from bake.lock import Lock, lock_path, read_lock
from bake.manifest.load import load_manifest
from bake.plan.state import BuildFolder
from bake.plan.step import pinned_weights
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
        _write_layout(baked.image, target, console)
        return
    with console.step("push", target):
        report = push_image(baked.image, target, console=console)
    if Path(what).is_file() and target == baked.reference:
        _note(Path(what), baked, report)
    if not as_json:
        click.echo("\n".join(_lines(report)))


def _note(manifest: Path, baked: BakedImage, report: PushReport) -> None:
    """Keeps what the registry has now, so that `bake plan --push` does not count it again."""
    lock = baked.image.labels.get(LOCK_LABEL)
    if lock:
        document = {
            **pinned_weights(Lock.from_json(lock)),
            "repository": load_manifest(manifest).image,
        }
        BuildFolder(baked.folder).write_record("push", document, report.as_json())


def _write_layout(image: Image, target: str, console: Console) -> None:
    folder, tag = parse_layout(target)
    with console.step("write", target):
        write_layout(image, folder, tag=tag)
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
