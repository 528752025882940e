"""Every command that a message of ours names is one that bake understands."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bake.cli import COMMANDS, cli

ROOT = Path(__file__).parents[2]
_COMMAND = re.compile(rf"\bbake ((?:{'|'.join(COMMANDS)})\b[^`,;:()\n]*)")
_ARGUMENT = re.compile(r"--?[a-z][\w-]*|[A-Z][A-Z_|]+|\S*[/.\d]\S*")


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Every string of a source that is no docstring; what an f-string puts in is a name of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if id(node) in docstrings or id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(
                str(part.value) if isinstance(part, ast.Constant) else "some/file.yaml"
                for part in node.values
            )  # fmt: skip
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


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


NAMED = sorted(
    {
        (path.relative_to(ROOT).as_posix(), " ".join(words))
        for path in (ROOT / "bake").rglob("*.py")
        for _, text in texts(path)
        for words in commands_in(text)
    }
)


@pytest.mark.parametrize(("file", "command"), NAMED)
def test_a_command_that_is_named_is_understood(file: str, command: str) -> None:
    understand(command.split())


def test_there_are_such_commands() -> None:
    assert len(NAMED) > 15
    assert [list(commands_in(each)) for each in ("bake lock again", "run `bake store gc`; x")] == [
        [["lock"]],
        [["store", "gc"]],
    ]


@pytest.mark.parametrize("command", ["lock", "store gc", "fetch a.yaml b.yaml", "plan --pish M"])
def test_a_command_that_would_end_with_2_is_found(command: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        understand(command.split())


def test_causes_are_kept() -> None:
    hiding = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "bake").rglob("*.py")
        if "from None" in path.read_text(encoding="utf-8")
    ]
    assert hiding == [], "`from error` keeps what --debug shows"
