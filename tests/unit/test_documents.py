"""What README and docs say is there: links, commands, options, variables, the manifest to start from."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from ruamel.yaml import YAML

from bake.cli import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def anchors_of(page: Path) -> set[str]:
    """As the forge makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        place, _, anchor = link.partition("#")
        target = (page.parent / place.replace("\\", "")).resolve() if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_the_readmes_manifest_is_the_committed_one() -> None:
    shown = re.findall(r"```yaml\n(.+?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    file = ROOT / "manifests" / "jib-mix-illustrious-realistic.yaml"
    assert [YAML().load(each) for each in shown] == [YAML().load(file.read_text("utf-8"))]


def options_of(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        yield from (option for option in parameter.opts if option.startswith("--"))
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from options_of(inner)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_is_documented(name: str) -> None:
    assert re.search(rf"`bake {name}\b", TEXT)
    command = importlib.import_module(f"bake.cli.commands.{name}").command
    missing = [option for option in options_of(command) if not re.search(rf"{option}\b", TEXT)]
    assert missing == []


def test_every_variable_that_bake_reads_is_documented() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "bake").rglob("*.py")]
    read = {name for text in sources for name in re.findall(r'"(BAKE_[A-Z_]+)"', text)}
    assert len(read) > 10
    assert {name for name in read if not re.search(rf"`{name}\b", TEXT)} == set()
