"""`bake inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bake.cli.options import build_dir_option
from bake.cli.subject import find_baked
from bake.console import Console, format_bytes
from bake.image.engine.docker import Engine
from bake.image.final.inspect import Inspection, count_components, inspect_image
from bake.image.oci.layout import LAYOUT_SCHEME, parse_layout
from bake.image.oci.reference import parse_reference
from bake.image.registry.client import RegistryClient
from bake.image.source import (
    image_of,
    read_base_from_engine,
    read_base_from_layout,
    read_base_from_registry,
)


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
    found = _inspect(what, in_engine=in_engine, build_dir=build_dir)
    if as_json:
        click.echo(json.dumps(found.as_json(), sort_keys=True, indent=1))
    else:
        click.echo("\n".join(_lines(found)))


def _inspect(what: str, *, in_engine: bool, build_dir: Path) -> Inspection:
    baked = find_baked(what, build_dir=build_dir)
    if baked:
        return inspect_image(baked.image, name=baked.reference or what)
    if in_engine:
        with Engine(Console(quiet=True)) as engine:
            base = read_base_from_engine(engine, what)
            return inspect_image(image_of(base), name=what, digest=base.identity)
    if what.startswith(LAYOUT_SCHEME):
        folder, tag = parse_layout(what)
        return inspect_image(image_of(read_base_from_layout(folder, tag=tag)), name=what)
    reference = parse_reference(what)
    with RegistryClient(reference.host) as client:
        base = read_base_from_registry(client, reference)
        return inspect_image(image_of(base), name=str(reference), digest=base.identity)


def _lines(found: Inspection) -> list[str]:
    lines = [f"image    {found.name}", f"digest   {found.digest}"]
    lines += [
        f"{label:<34} {value}"
        for label, value in sorted(found.labels.items())
        if label.startswith(("bakery.", "org.opencontainers."))
        and label not in ("bakery.lock", "bakery.layers", "bakery.base.layers")
    ]
    for pin in found.lock.pins if found.lock else ():
        lines.append(f"{pin.role:<10} {pin.name}  sha256:{pin.sha256}")
        lines.append(f"           from {pin.source}, licence {pin.licence.name or 'not named'}")
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
