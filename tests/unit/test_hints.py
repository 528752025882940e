"""Every command that a message or a page of ours names is one that bake, or make, understands."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from bake.cli import COMMANDS, cli

ROOT = Path(__file__).parents[2]
_COMMAND = re.compile(rf"\bbake ((?:{'|'.join(COMMANDS)})\b[^`,;:()\n]*)")
_ARGUMENT = re.compile(r"--?[a-z][\w-]*|[A-Z][A-Z_|]+|\S*[/.\d]\S*")


def texts(path: Path) -> Iterator[str]:
    """Every string of a source that is no docstring; what an f-string puts in is a name of a file."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    inside = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if id(node) in docstrings or id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "some/file.yaml"
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@cache
def all_texts() -> list[tuple[str, str]]:
    """Those of all our sources: the source, and the string."""
    return [
        (path.relative_to(ROOT).as_posix(), text)
        for package in ("bake", "runtime")
        for path in (ROOT / package).rglob("*.py")
        for text in texts(path)
    ]


def commands_in(text: str) -> Iterator[list[str]]:
    """`bake fetch MANIFEST gets it` → `fetch MANIFEST`: words up to the first that is no argument."""
    for found in _COMMAND.findall(text):
        words = found.split()
        command = cli.get_command(click.Context(cli), words[0])
        count = 2 if isinstance(command, click.Group) else 1
        while count < len(words) and _ARGUMENT.fullmatch(words[count].rstrip(".")):
            count += 1
        yield words[:count]


def understand(words: list[str]) -> None:
    """Raises click.UsageError where bake would end with 2."""
    command, parent = cli.get_command(click.Context(cli), words[0]), click.Context(cli)
    rest = words[1:]
    assert command is not None
    if isinstance(command, click.Group):
        assert rest, f"{words} lacks what to do"
        inner = command.get_command(parent, rest[0])
        assert inner is not None, words
        command, rest = inner, rest[1:]
    context = command.make_context(words[0], rest, parent=parent)
    if command.name == "gc":
        assert any(context.params[name] for name in ("older_than", "keep")), "it removes nothing"


PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / ".runpod").glob("*.md")),
]


def test_a_command_that_is_named_is_understood() -> None:
    named = {(file, " ".join(words)) for file, text in all_texts() for words in commands_in(text)}
    assert len(named) > 15
    wrong = {}
    for file, command in sorted(named):
        try:
            understand(command.split())
        except (click.UsageError, AssertionError) as error:
            wrong[file, command] = str(error)
    assert wrong == {}


def test_commands_are_found() -> None:
    assert [list(commands_in(each)) for each in ("bake lock again", "run `bake store gc`; x")] == [
        [["lock"]],
        [["store", "gc"]],
    ]


@pytest.mark.parametrize("command", ["lock", "store gc", "deploy a.yaml b.yaml", "plan --pish M"])
def test_a_command_that_would_end_with_2_is_found(command: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        understand(command.split())


def blocks_and_spans(page: str) -> tuple[list[str], list[str]]:
    """The lines of a page's code blocks, without prompt and comment, and its code in sentences."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    joined = "\n".join(blocks).replace("\\\n", " ")
    lines = [re.sub(r"^\$ |\s#.*$", "", line.strip()) for line in joined.splitlines()]
    outside = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    return lines, re.findall(r"`([^`\n]+)`", outside)


def whole_commands(line: str, program: str) -> Iterator[list[str]]:
    """The arguments of each command of a program in a line of a shell."""
    for part in re.split(r"&&|\|\||[|;]", line):
        found = re.match(rf"\s*(?:[A-Z_]+=\S*\s+)*(?:\S*/)?{program}\s+(.+)", part)
        if found:
            yield shlex.split(found[1])


def understand_in_part(words: list[str]) -> None:
    """As `understand`, of a command in a sentence: `bake image --push` may leave out what it is about."""
    words = [re.sub(r"[\[\]]|…", "", word) for word in words]
    words = [word for word in words if word]
    if words[0].startswith("-"):
        options = {option for each in cli.get_params(click.Context(cli)) for option in each.opts}
        assert words[0] in options, words
        return
    try:
        understand(words)
    except click.MissingParameter:
        return
    except AssertionError:
        # `bake store`, `bake store gc`: named, not told to be typed
        command = cli.get_command(click.Context(cli), words[0])
        assert isinstance(command, click.Group), words
        assert all(each in command.commands for each in words[1:]), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_on_a_page_is_understood(page: Path) -> None:
    lines, spans = blocks_and_spans(page.read_text(encoding="utf-8"))
    for line in lines:
        for words in whole_commands(line, "bake"):
            understand(words)
    for span in spans:
        for words in whole_commands(span, "bake"):
            understand_in_part(words)


TARGETS = set(
    re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
)


def targets_in(words: list[str]) -> list[str]:
    """What make is told to make; variables and options are no targets."""
    return [word for word in words if not word.startswith("-") and "=" not in word]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_target_on_a_page_is_in_the_makefile(page: Path) -> None:
    lines, spans = blocks_and_spans(page.read_text(encoding="utf-8"))
    for line in (*lines, *spans):
        for words in whole_commands(line, "make"):
            assert set(targets_in(words)) <= TARGETS, line


def test_a_target_in_a_message_is_in_the_makefile() -> None:
    """A hint begins with its command, or has it in backticks; `make room` begins a sentence."""
    prose = {"room", "a", "the", "an"}
    named = {
        found[1]
        for _, text in all_texts()
        for found in re.finditer(r"(?:^|`|: )make ([a-z][a-z-]*)", text)
    }
    assert "engine-start" in named
    assert named - prose <= TARGETS


def test_the_pages_name_such_commands() -> None:
    found = [blocks_and_spans(page.read_text(encoding="utf-8")) for page in PAGES]
    in_blocks = [
        words for lines, _ in found for line in lines for words in whole_commands(line, "bake")
    ]
    in_spans = [
        words for _, spans in found for each in spans for words in whole_commands(each, "bake")
    ]
    assert len(in_blocks) > 10
    assert len(in_spans) > 40
    page = "```console\n$ X=1 .venv/bin/bake lock a.yaml  # and commit\n$ make check test V=1\n```\n`bake plan`"
    lines, spans = blocks_and_spans(page)
    assert [list(whole_commands(line, "bake")) for line in (*lines, *spans)] == [
        [["lock", "a.yaml"]],
        [],
        [["plan"]],
    ]
    assert targets_in(next(whole_commands(lines[1], "make"))) == ["check", "test"]


def test_causes_are_kept() -> None:
    hiding = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "bake").rglob("*.py")
        if "from None" in path.read_text(encoding="utf-8")
    ]
    assert hiding == [], "`from error` keeps what --debug shows"
