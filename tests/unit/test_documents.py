"""What README and docs say is there: links, commands, options, variables, the manifest to start from."""

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from ruamel.yaml import YAML

from bake.cli import COMMANDS
from bake.manifest.model import Manifest, Warmup

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
    *(ROOT / each / "README.md" for each in (".runpod", "benchmarks/gpu", "demo", "findings")),
]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def anchors_of(page: Path) -> set[str]:
    """As the forge makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        place, _, anchor = link.partition("#")
        target = (page.parent / place.replace("\\", "")).resolve() if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


FOLDERS = "bake|runtime|tests|demo|benchmarks|docs|requirements|manifests"
NOT_HERE = {"bake/resources/"}
"""Only in a wheel."""
SOURCES = sorted(path for name in FOLDERS.split("|") for path in (ROOT / name).rglob("*.py"))


def alternatives(path: str) -> Iterator[str]:
    """`a/{b,c}.py` → `a/b.py`, `a/c.py`."""
    found = re.search(r"\{([^{}]*)\}", path)
    if found is None:
        yield path
        return
    for each in found[1].split(","):
        yield from alternatives(path[: found.start()] + each + path[found.end() :])


def is_there(path: str) -> bool:
    return all(any(ROOT.glob(each.rstrip("/."))) for each in alternatives(path))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    spans = " ".join(re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")))
    named = set(re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w{{}},.*/-]+", spans))
    assert [each for each in sorted(named - NOT_HERE) if not is_there(each)] == []


def has_name(dotted: str) -> bool:
    """Whether `bake.image.kept` is a module, or `runtime.worker.Worker` a name in one."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:count])
        for source in (place.with_suffix(".py"), place / "__init__.py"):
            if source.is_file():
                names = parts[count : count + 1]
                text = source.read_text(encoding="utf-8")
                return all(re.search(rf"\b{each}\b", text) for each in names)
    return False


def test_every_file_and_module_that_a_comment_names_is_there() -> None:
    wrong = []
    for source in SOURCES:
        text = source.read_text(encoding="utf-8")
        paths = re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w/-]+\.(?:py|md|txt|json)\b", text)
        dotted = re.findall(r"`((?:bake|runtime|tests|demo|benchmarks)(?:\.\w+)+)`", text)
        wrong += [f"{source}: {each}" for each in paths if not is_there(each)]
        wrong += [f"{source}: {each}" for each in dotted if not has_name(each)]
    assert wrong == []


def test_every_section_that_a_message_or_a_comment_names_is_there() -> None:
    named = {
        found
        for source in SOURCES
        for found in re.findall(r"\b(docs/[\w-]+\.md)#([\w-]+)", source.read_text(encoding="utf-8"))
    }
    assert len(named) > 5
    assert {each for each in named if each[1] not in anchors_of(ROOT / each[0])} == set()


def test_a_file_that_is_not_there_is_found() -> None:
    assert is_there("bake/{lock,errors}.py")
    assert not is_there("bake/{lock,none}.py")
    assert has_name("runtime.worker.Worker.command")
    assert not has_name("runtime.worker.Nobody")
    assert not has_name("bake.nothing")


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
    module = importlib.import_module(f"bake.cli.commands.{name.replace('-', '_')}")
    missing = [
        option for option in options_of(module.command) if not re.search(rf"{option}\b", TEXT)
    ]
    assert missing == []


def test_every_variable_that_bake_reads_is_documented() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "bake").rglob("*.py")]
    read = {name for text in sources for name in re.findall(r'"(BAKE_[A-Z_]+)"', text)}
    assert len(read) > 10
    assert {name for name in read if not re.search(rf"`{name}\b", TEXT)} == set()


def test_the_manifests_page_has_every_key_with_what_is_needed_and_every_card() -> None:
    page = (ROOT / "docs" / "manifest.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", page, re.MULTILINE)
    said = {key: needed for keys, needed in rows for key in re.findall(r"`([^`]+)`", keys)}
    for model in (Manifest, Warmup):
        for key, field in model.model_fields.items():
            known = [each for each in said if each.split(".")[0] == key]
            assert known, f"docs/manifest.md: {key} is missing"
            for name in known:
                assert (said[name] == "needed") == field.is_required(), name
    for key, field in Warmup.model_fields.items():
        if not field.is_required() and field.default_factory is None and field.default != "":
            assert said[key] == str(field.default), key
    cards = json.loads((ROOT / "bake" / "manifest" / "gpus.json").read_text("utf-8"))["gpus"]
    for card, about in cards.items():
        assert re.search(rf"^\| {about['cuda_architecture']} \|.*`{card}`", page, re.MULTILINE)


def test_every_event_is_documented() -> None:
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "bake").rglob("*.py"))
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    table = page[page.index("## Events") : page.index("## Exit codes")]
    told = set(re.findall(r"\.event\(\s*\"([a-z.]+)\"", code))
    assert len(told) > 20
    documented = [
        name
        for row in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
        for name in re.findall(r"`([a-z.]+)`", row)
    ]
    assert told == set(documented)
