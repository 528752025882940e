"""Small faults are put into a package, one at a time, and the unit tests that concern it are to fail.

`make mutate PACKAGE=runtime/job`. mutmut makes the faults, in a copy, and `tests.mutants` runs the tests. mutmut passes
over functions with a decorator, such as properties. So the copy applies decorators in a statement of their own, after
the function, which means the same. What each mutant changes that nobody noticed is printed at the end.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
CAUGHT = {"killed", "timeout"}
"""What a fault is called that the tests noticed; of `survived` and `no tests` they did not."""
BESIDE = {"test_keys", "test_package", "test_published", "test_architecture"}
"""Unit tests that look at the tree's files, which in the copy are others."""
Change = tuple[list[str], list[str]]
"""Lines of a function, as it is and with a fault."""
KEEPS_ITS_DECORATORS = ("overload", "staticmethod", "classmethod", ".setter", ".register")


def decorated(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Functions and methods whose decorators can stand after them."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from decorated(node)
        elif isinstance(node, ast.FunctionDef) and node.decorator_list:
            names = [ast.unparse(each) for each in node.decorator_list]
            if not any(name.endswith(KEEPS_ITS_DECORATORS) for name in names):
                yield node


def undecorate(source: str) -> str:
    """The same module, with `name = decorator(name)` after a definition in place of `@decorator` before it."""
    lines = source.splitlines(keepends=True)
    for node in sorted(decorated(ast.parse(source)), key=lambda each: -each.lineno):
        applied = node.name
        for decorator in reversed(node.decorator_list):
            applied = f"{ast.unparse(decorator)}({applied})"
        assert node.end_lineno is not None
        lines.insert(node.end_lineno, f"{' ' * node.col_offset}{node.name} = {applied}\n")
        for decorator in node.decorator_list:
            assert decorator.end_lineno is not None
            lines[decorator.lineno - 1 : decorator.end_lineno] = [""] * (
                decorator.end_lineno - decorator.lineno + 1
            )
    return "".join(lines)


def concerned(package: str, folder: Path) -> list[str]:
    """The modules of unit tests that name the package."""
    name = package.replace("/", ".")
    modules = sorted((folder / "tests/unit").glob("test_*.py"))
    found = [each for each in modules if name in each.read_text() and each.stem not in BESIDE]
    return [str(each.relative_to(folder)) for each in found]


def copy_tree(package: str, folder: Path) -> dict[str, Change]:
    """What git knows of the checkout, with all mutants in the package; by the name of each, its function before and after."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "setup.cfg").write_text("[mutmut]\nsource_paths=\n  bake\n  runtime\n")
    os.chdir(folder)  # where its settings are
    from mutmut.mutation.file_mutation import mutate_file_contents  # noqa: PLC0415  # not in .venv
    from mutmut.utils.format_utils import get_mutant_name  # noqa: PLC0415

    changes = {}
    for module in sorted(Path(package).rglob("*.py")):
        mutated = mutate_file_contents(str(module), undecorate(module.read_text()))
        module.write_text(mutated.code)
        lines = mutated.code.splitlines()
        spans = mutated.line_span_by_function_name
        for name in mutated.mutant_names:
            original = f"{name.partition('__mutmut_')[0]}__mutmut_orig"
            before, after = (
                lines[each.start - 1 : each.end] for each in (spans[original], spans[name])
            )
            changes[get_mutant_name(module, name)] = before, after
    return changes


def run(
    folder: Path, mutants: Sequence[str], *, tests: Sequence[str], processes: int
) -> dict[str, str]:
    """What became of each mutant, by its name."""
    task = {"mutants": mutants, "processes": processes}
    (folder / "task.json").write_text(json.dumps(task))
    environment = {
        **os.environ,
        "BAKE_TEST_EXAMPLES": "20",
        "BAKE_MUTANTS": str(folder),
        "MUTANT_UNDER_TEST": "",
        "PYTHONPATH": str(folder),
    }
    plugins = ("-p", "no:cacheprovider", "-p", "tests.mutants")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, *tests],
        cwd=folder,
        env=environment,
        check=False,
    )
    lines = (folder / "results.jsonl").read_text().splitlines() if not ended.returncode else []
    found = {name: status for name, status, _ in map(json.loads, lines)}
    if found.pop("", "") != "survived":
        raise SystemExit(f"the tests fail in {folder} where nothing is changed")
    return found


def show(tried: dict[str, str], changes: dict[str, Change]) -> None:
    """A row for each module, what those change that nobody noticed, and the share of those that were."""
    modules: dict[str, Counter[str]] = {}
    for name, status in tried.items():
        modules.setdefault(name.rpartition(".")[0], Counter())[status] += 1
    for module, counts in sorted(modules.items()):
        killed = sum(counts[status] for status in CAUGHT)
        print(f"{module}: {killed} of {counts.total()} ({killed / counts.total():.0%})")
    for name, status in sorted(tried.items()):
        if status not in CAUGHT:
            print(f"{status}: {name}")
            for line in difflib.ndiff(*changes[name]):
                if line[:1] in {"-", "+"} and "__mutmut_" not in line:
                    print(line)
    killed = sum(status in CAUGHT for status in tried.values())
    print(f"{killed} of {len(tried)} were noticed: {100 * killed / len(tried):.1f} %")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__)
    parser.add_argument("package", help="such as runtime/job")
    parser.add_argument("--sample", type=int, default=300, help="so many of its mutants; 0 is all")
    parser.add_argument("--seed", type=int, default=17, help="which of them")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--tests", nargs="+", help="these modules alone, of which no score is too high"
    )
    options = parser.parse_args(arguments)
    folder = ROOT / "build/mutate" / options.package.replace("/", ".")
    changes = copy_tree(options.package, folder)
    names = sorted(changes)
    print(f"{len(names)} mutants of {options.package}", flush=True)
    if options.sample and options.sample < len(names):
        names = random.Random(options.seed).sample(names, options.sample)
    tests = options.tests or concerned(options.package, folder)
    show(run(folder, names, tests=tests, processes=options.processes), changes)


if __name__ == "__main__":
    main(sys.argv[1:])
