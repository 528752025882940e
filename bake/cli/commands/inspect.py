"""`bake inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bake.cli.options import build_dir_option
from bake.cli.subject import open_image
from bake.console import Console, format_bytes
from bake.image.final.inspect import Inspection, count_components, inspect_image
from bake.image.oci.model import BASE_LAYERS_LABEL, LAYERS_LABEL, LOCK_LABEL

_OWN_LINES = (LOCK_LABEL, LAYERS_LABEL, BASE_LAYERS_LABEL)


@click.command()
@click.argument("what", metavar="IMAGE|MANIFEST|FOLDER")
@click.option("--engine", "in_engine", is_flag=True, help="Ask the local engine, not the registry.")
@click.option("--json", "as_json", is_flag=True, help="Everything, the whole SBOM too, as JSON.")
@build_dir_option
def command(what: str, *, in_engine: bool, as_json: bool, build_dir: Path) -> None:
    """Print what an image says of itself: versions, base, weights with sources and licences, SBOM.

    From a registry this fetches the manifest, the config and one small layer; nothing is pulled.
    oci:FOLDER[:TAG] is an OCI layout.
    """
    with open_image(
        what,
        build_dir=build_dir,
        console=Console(quiet=True),
        places=["engine" if in_engine else "registry"],
    ) as opened:
        found = inspect_image(opened.image, name=opened.name)
    if as_json:
        click.echo(json.dumps(found.as_json(), sort_keys=True, indent=1))
    else:
        click.echo("\n".join(_lines(found)))


def _lines(found: Inspection) -> list[str]:
    lines = [f"image    {found.name}", f"digest   {found.digest}"]
    lines += [
        f"{label:<34} {value}"
        for label, value in sorted(found.labels.items())
        if label.startswith(("bakery.", "org.opencontainers.")) and label not in _OWN_LINES
    ]
    for pin in found.lock.pins if found.lock else ():
        lines.append(f"{pin.role:<10} {pin.name}  sha256:{pin.sha256}")
        lines.append(f"           from {pin.source}, licence {pin.licence.name or 'not named'}")
    for extension in found.lock.extensions if found.lock else ():
        lines.append(f"{'extension':<10} {extension.name}  commit {extension.commit}")
        lines.append(f"           from {extension.url}, licence {extension.licence or 'not named'}")
    ours = [layer for layer in found.layers if layer["kind"] != "base"]
    base_bytes = sum(layer["size_bytes"] for layer in found.layers if layer["kind"] == "base")
    lines.append(f"base     {len(found.layers) - len(ours)} layers, {format_bytes(base_bytes)}")
    lines += [
        f"{layer['kind']:<9}{format_bytes(layer['size_bytes']):>11}  {layer['comment']}"
        for layer in ours
    ]
    if found.sbom:
        counts = count_components(found.sbom)
        lines.append("sbom     " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return lines
