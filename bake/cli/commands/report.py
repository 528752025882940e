"""`bake report`."""

from __future__ import annotations

from pathlib import Path

import click

from bake.cli.options import build_dir_option, json_option
from bake.console import Console, format_bytes
from bake.errors import BuildError, ManifestError
from bake.files import write_atomically
from bake.manifest.load import load_manifest
from bake.report.difference import Difference, Measured, compare
from bake.report.page import format_seconds, render_comparison, write_page
from bake.report.record import EARLIER, Reported, find_earlier, load_report


@click.command()
@click.argument("bakes", nargs=-1, required=True, metavar="MANIFEST|FOLDER...")
@click.option(
    "--compare", "compares", is_flag=True, help="Of two bakes: what changed from the first to the second. Of one: since the bake before it.",
)  # fmt: skip
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --compare: the page that is written; by default compare.html in the second's folder.",
)
@build_dir_option
@json_option
def command(
    bakes: tuple[str, ...], *, compares: bool, output: Path | None, build_dir: Path, as_json: bool
) -> None:
    """Write the page of a bake again, or with --compare one of what changed between two bakes.

    A bake is named by its manifest or its build folder. Nothing is baked, and no engine is asked.
    """
    console = Console(as_json=as_json)
    folders = [_folder(each, build_dir) for each in bakes]
    if not compares:
        if output:
            raise ManifestError("is for --compare: a bake's page lies beside it", where="--output")
        for folder in folders:
            report = load_report(folder)
            page = write_page(report)
            console.event("report", name=report.name, digest=report.data["digest"], page=str(page))
            console.answer(str(page))
        return
    if len(folders) == 1:
        if find_earlier(folders[0]) is None:
            raise BuildError(
                "no bake of anything else came before this one",
                where=str(folders[0]),
                hint="bake report --compare ONE OTHER names two",
            )
        folders = [folders[0] / EARLIER, folders[0]]
    if len(folders) != 2:
        raise ManifestError(f"{len(folders)} bakes are given", where="--compare", hint="name two")
    before, after = map(load_report, folders)
    page = output or after.folder / "compare.html"
    write_atomically(page, render_comparison(before, after))
    difference = compare(before.data, after.data)
    console.event(
        "compared",
        before=before.data["digest"],
        after=after.data["digest"],
        page=str(page),
        **difference.as_json(),
    )
    console.answer("\n".join([*_lines(before, after, difference), str(page)]))


def _folder(what: str, build_dir: Path) -> Path:
    path = Path(what)
    return path if path.is_dir() else build_dir / load_manifest(path).name


def _lines(before: Reported, after: Reported, difference: Difference) -> list[str]:
    if before.data["digest"] == after.data["digest"]:
        lines = ["the same image, to the digest"]
    else:
        size = format_bytes(difference.new_bytes)
        lines = [f"{size} in {len(difference.new_layers)} layer(s) are new"]
    for change in (*difference.pins, *difference.changes):
        lines.append(f"  {change.what}: {change.before or 'nothing'} → {change.after or 'nothing'}")
    lines += [f"  {_resized(each)}" for each in difference.sizes if each.before != each.after]
    lines += [f"  {_timed(each)}" for each in difference.times if each.before != each.after]
    return lines


def _resized(row: Measured) -> str:
    before, after = row.before or 0, row.after or 0
    more = ("+" if after > before else "-") + format_bytes(abs(after - before))
    return f"{row.what}: {format_bytes(before)} → {format_bytes(after)} ({more})"


def _timed(row: Measured) -> str:
    shown = [
        "not measured" if value is None else format_seconds(value)
        for value in (row.before, row.after)
    ]
    return f"{row.what}: {shown[0]} → {shown[1]}"
