"""Which source files shape a step's result: what its module imports, followed to the end.

Nobody keeps such a list by hand: a file that a step begins to use is in its key at once. Only what cannot
shape a result is left out, and why stands here.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bake import assets
from bake.plan.state import Document, key_of

SHAPES_NOTHING = {
    "bake.assets": "finds files, whose contents are in the keys",
    "bake.certificates": "whom to trust; what comes from there is known by its digest",
    "bake.console": "talks",
    "bake.errors": "words of failures",
    "bake.process": "runs a command as it is given, and keeps its output in a log",
    "bake.flock": "makes others wait",
    "bake.files": "writes and hashes files as they are",
    "bake.settings": "where and how long; no value of it is in an image",
    "bake.manifest": "its values are in the keys",
    "bake.lock": "its text is in the keys",
    "bake.plan": "decides what runs",
    "bake.steps.run": "runs what was decided",
    "bake.extensions.git": "gives a commit's files, whose SHA-256 is in the keys",
    "bake.extensions.resolve": "gives files by their SHA-256, or fails",
    "bake.weights": "gives files by their SHA-256, or fails",
    "bake.image.kept": "repeats what was learnt, under the version of the sources that learnt it",
    "bake.image.engine.docker": "the engine does as the step says",
    "bake.image.engine.load": "the engine's image has the digest that was assembled, or it fails",
    "bake.image.registry": "moves blobs by their digests, or fails",
}
"""Modules, and packages with all that is in them, whose source no key holds, each with the reason."""


def sources_of(*modules: str) -> Document:
    """The path and SHA-256 of every source file of ours that modules are run with.

    Args:
        modules: Dotted names; `package.*` stands for every module of a package, for what is started by
            a name that no import statement holds.
    """
    seen: set[str] = set()
    hashes: dict[str, str] = {}
    waiting = [each for module in modules for each in _expand(module)]
    while waiting:
        module = waiting.pop()
        if module in seen or _shapes_nothing(module):
            continue
        seen.add(module)
        path = _path_of(module)
        if path is None:
            continue
        content = path.read_bytes()
        source = _read(content)
        waiting += [*(_resolve(*each) for each in source.imports), *_parents(module)]
        if not source.is_empty:
            hashes[_shown(path)] = hashlib.sha256(content).hexdigest()
    return dict(sorted(hashes.items()))


@cache
def version_of(module: str) -> str:
    """A version of what a module does that nobody has to raise: the SHA-256 of all sources that it is run with."""
    return key_of(sources_of(module))


def _expand(module: str) -> Iterator[str]:
    if not module.endswith(".*"):
        yield module
        return
    package = module[:-2]
    folder = assets.package_folder(package.split(".")[0]).joinpath(*package.split(".")[1:])
    for path in sorted(folder.rglob("*.py")):
        yield ".".join([package, *path.relative_to(folder).with_suffix("").parts])


@cache
def _shapes_nothing(module: str) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in SHAPES_NOTHING)


def _parents(module: str) -> Iterator[str]:
    """The packages that Python runs first; `bake` itself only holds the version, for those who import it."""
    parts = module.split(".")[:-1]
    for count in range(1, len(parts) + 1):
        if parts[:count] != ["bake"]:
            yield ".".join(parts[:count])


@cache
def _path_of(module: str) -> Path | None:
    """The source file of a module of ours; None for a name that is none, such as a function."""
    package, *rest = module.split(".")
    path = assets.package_folder(package).joinpath(*rest)
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


@cache
def _shown(path: Path) -> str:
    """`runtime/boot/start.py`, the same in a checkout and where the wheel was installed."""
    for package in assets.PACKAGES:
        folder = assets.package_folder(package)
        if path.is_relative_to(folder):
            return f"{package}/{path.relative_to(folder).as_posix()}"
    raise ValueError(f"{path} is no source file of ours")


def _resolve(module: str, name: str) -> str:
    """What `from module import name` loads: the submodule of that name, else the module; see `_parents`."""
    return f"{module}.{name}" if name and _path_of(f"{module}.{name}") else module


@dataclass(frozen=True, kw_only=True)
class _Source:
    imports: tuple[tuple[str, str], ...]
    """Module and name of each import of ours; the name is empty where a module is imported."""
    is_empty: bool
    """Whether it holds a docstring and nothing else."""


@cache
def _read(source: bytes) -> _Source:
    """What a source imports anywhere, type checkers' imports aside."""
    tree = ast.parse(source)
    imports: set[tuple[str, str]] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            imports.update((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError("our modules are imported by their whole names")
            imports.update((node.module or "", alias.name) for alias in node.names)
        waiting += ast.iter_child_nodes(node)
    ours = sorted(each for each in imports if each[0].split(".")[0] in assets.PACKAGES)
    return _Source(
        imports=tuple(ours),
        is_empty=len(tree.body) == (ast.get_docstring(tree) is not None),
    )
