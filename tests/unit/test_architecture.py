"""The house as docs/architecture.md draws it: its rooms, who may import whom, and how large they may get."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("bake", "runtime")
LIKE_THINGS = {"bake/cli/commands", "bake/steps", "runtime/boot/tricks"}
"""Folders of like things, which may hold any number of them."""
STARTS = ("runtime.__main__", "runtime.boot.__main__")
"""Where a worker and its webui begin; the tricks are imported by their names."""


def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name; a package is known by its own."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def room_of(module: str) -> str:
    """The folder that a module lies in."""
    return MODULES[module].parent.relative_to(ROOT).as_posix()


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports_of(module: str, *, for_types: bool = True) -> list[str]:
    """The modules of the product that a module names in its imports, late ones included."""
    return list(_imports_of(module, for_types=for_types))


def _imports_of(module: str, *, for_types: bool) -> Iterator[str]:
    waiting: list[ast.AST] = [tree_of(module)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and not for_types and _is_type_checking(node.test):
            continue
        # No expression holds an import.
        waiting += [each for each in ast.iter_child_nodes(node) if not isinstance(each, ast.expr)]
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{each.name}" for each in node.names]
        else:
            continue
        for name in names:
            known = name if name in MODULES else name.rpartition(".")[0]
            if known in MODULES and known != module:
                yield known


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def drawn() -> dict[str, set[str]]:
    """The table of rooms in docs/architecture.md: each room, and the rooms that it may import from."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z/_]+)/` \| .* \| (.*) \|$", text, flags=re.MULTILINE)
    return {room: set(re.findall(r"`([a-z/_]+)/`", allowed)) for room, allowed in rows}


def built() -> dict[str, set[str]]:
    """The rooms as they are."""
    rooms: dict[str, set[str]] = {room_of(module): set() for module in MODULES}
    for module in MODULES:
        rooms[room_of(module)].update(map(room_of, imports_of(module)))
    return {room: others - {room} for room, others in rooms.items()}


def test_the_picture_shows_every_room_and_every_import() -> None:
    assert built() == drawn(), "docs/architecture.md: mend the table of rooms, or the import"
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert not re.findall(r"^\| `[a-z/_]+/` \| (?:None|TODO.*|) \|", text, flags=re.MULTILINE)


def test_the_runtime_never_imports_bake() -> None:
    for module in MODULES:
        if module.startswith("runtime"):
            assert not [name for name in imports_of(module) if name.startswith("bake")], module


def find_circle(graph: Mapping[str, Iterable[str]]) -> str:
    """A circle of what imports what, as `a -> b -> a`; empty where there is none."""
    done: set[str] = set()

    def visit(node: str, path: tuple[str, ...]) -> str:
        if node in path:
            return " -> ".join((*path[path.index(node) :], node))
        if node in done:
            return ""
        found = next(filter(None, (visit(each, (*path, node)) for each in graph[node])), "")
        done.add(node)
        return found

    return next(filter(None, (visit(node, ()) for node in graph)), "")


def test_there_is_no_circle_of_modules() -> None:
    assert not find_circle({each: set(imports_of(each, for_types=False)) for each in MODULES})


def test_there_is_no_circle_of_rooms() -> None:
    """A folder with rooms in it holds what they share and what puts them together: its modules count singly."""
    rooms = {room_of(module) for module in MODULES}
    houses = {room for room in rooms if any(each.startswith(f"{room}/") for each in rooms)}

    def place(module: str) -> str:
        room = room_of(module)
        return module if room in houses else room

    graph: dict[str, set[str]] = {place(module): set() for module in MODULES}
    for module in MODULES:
        graph[place(module)].update(map(place, imports_of(module, for_types=False)))
    assert not find_circle({each: others - {each} for each, others in graph.items()})


def test_a_circle_is_found() -> None:
    assert find_circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == "b -> c -> b"
    assert not find_circle({"a": ["b", "c"], "b": ["c"], "c": []})


FORMATS = {
    "bake.lock.LOCK_FORMAT": "locks are committed beside manifests",
    "bake.report.record.REPORT_FORMAT": "report.json is read by others",
    "bake.weights.transfer.partial._JOURNAL_FORMAT": "an unfinished file in the store outlives a release",
    "runtime.worker.CONTRACT_VERSION": "base images and worker.json meet other releases of bake",
}
"""Numbers that a person raises: each is written into a file in the field, and another one is told apart."""


def test_no_other_version_is_raised_by_hand() -> None:
    """What is only kept to save time has the hash of the sources in its key (`bake.plan.code.version_of`)."""
    found: set[str] = set()
    for module in MODULES:
        for node in tree_of(module).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = [each.id for each in targets if isinstance(each, ast.Name)]
            if isinstance(getattr(node, "value", None), ast.Constant):
                found.update(
                    f"{module}.{name}" for name in names if re.search("VERSION$|FORMAT$", name)
                )
    assert found == set(FORMATS)


def test_everything_in_the_runtime_is_used_by_a_worker() -> None:
    reached: set[str] = set()
    left = list(STARTS)
    left += [name for name in MODULES if name.startswith("runtime.boot.tricks.")]
    while left:
        module = left.pop()
        if module in reached:
            continue
        reached.add(module)
        left.extend(imports_of(module))
        parent = module.rpartition(".")[0]
        left.extend([parent] if parent else [])
    unused = {name for name in MODULES if name.startswith("runtime")} - reached
    assert not unused, "only bake uses it: it belongs into bake/"


@pytest.mark.parametrize("room", sorted({room_of(module) for module in MODULES}))
def test_a_room_can_be_overlooked(room: str) -> None:
    inside = [
        path
        for path in MODULES.values()
        if path.parent == ROOT / room and not path.stem.startswith("__")
    ]
    assert room in LIKE_THINGS or len(inside) <= 12, "split the room, or move a module"
    for path in inside:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 400, f"{path.relative_to(ROOT)}: {lines} lines; has it two jobs?"


def test_the_runtime_grows_no_fatter() -> None:
    """Lines, all of them: what is in a worker, and what of it a reader must know; tables are looked into, not read."""
    lines = {
        name: len(path.read_text(encoding="utf-8").splitlines())
        for name, path in MODULES.items()
        if name.startswith("runtime")
    }
    tables = {f"runtime.job.{name}" for name in ("fields", "values", "names", "vendors")}
    core = {
        name: count
        for name, count in lines.items()
        if room_of(name) in ("runtime", "runtime/job", "runtime/webui") and name not in tables
    }
    assert sum(core.values()) <= 3880
    assert sum(lines.values()) <= 9944
