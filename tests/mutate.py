"""Small faults are put into a package, one at a time, and the unit tests that concern it are to fail: mutmut in a copy.

`make mutate PACKAGE=runtime/job`. mutmut passes over functions with a decorator, such as properties. So the copy applies
decorators in a statement of their own, after the function, which means the same. What each mutant changes that nobody
noticed is printed at the end.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
CAUGHT = {"killed", "timeout", "segfault"}
"""What mutmut calls a fault that the tests noticed; of `survived` and `no tests` they did not."""
BESIDE = {"test_keys", "test_package", "test_published", "test_architecture"}
"""Unit tests that look at the tree's files, which in the copy are others."""
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


def concerned(package: str) -> list[str]:
    """The modules of unit tests that name the package."""
    name = package.replace("/", ".")
    modules = sorted((ROOT / "tests/unit").glob("test_*.py"))
    found = [each for each in modules if name in each.read_text() and each.stem not in BESIDE]
    return [str(each.relative_to(ROOT)) for each in found]


def copy_tree(package: str, folder: Path) -> None:
    """What git knows of the checkout, as mutmut wants it."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for module in (folder / package).rglob("*.py"):
        module.write_text(undecorate(module.read_text()))
    tops = sorted({name.partition("/")[0] for name in names} - {"bake", "runtime", "tests"})
    settings = {
        "source_paths": ["bake", "runtime"],
        "only_mutate": [f"{package}/*"],
        "also_copy": tops,
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-p", "tests.fresh_caches"],
        "pytest_add_cli_args_test_selection": concerned(package),
        "timeout_multiplier": ["30"],
        "timeout_constant": ["2"],
        "use_git_change_detection": ["false"],
    }
    text = "".join(f"{key}=\n  " + "\n  ".join(each) + "\n" for key, each in settings.items())
    (folder / "setup.cfg").write_text(f"[mutmut]\n{text}")


def mutants(package: str, folder: Path) -> list[str]:
    """The names of all, as mutmut will make them."""
    os.chdir(folder)  # where its settings are
    from mutmut.mutation.file_mutation import mutate_file_contents  # noqa: PLC0415  # not in .venv
    from mutmut.utils.format_utils import get_mutant_name  # noqa: PLC0415

    names = []
    for module in sorted(Path(package).rglob("*.py")):
        made = mutate_file_contents(str(module), module.read_text()).mutant_names
        names += [get_mutant_name(module, name) for name in made]
    return names


def mutmut(folder: Path, *arguments: str) -> str:
    """Its output; it shows what it does on our standard error."""
    environment = {**os.environ, "BAKE_TEST_EXAMPLES": "20", "PYTHONPATH": ""}
    ended = subprocess.run(
        ["mutmut", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise SystemExit(f"{ended.stdout[-4000:]}\nmutmut {arguments[0]} failed in {folder}")
    return ended.stdout


def results(folder: Path) -> dict[str, str]:
    """What became of each mutant, by its name."""
    lines = mutmut(folder, "results", "--all", "true").splitlines()
    pairs = [line.strip().rpartition(": ") for line in lines if "__mutmut_" in line]
    return {name: status for name, _, status in pairs}


def show(tried: dict[str, str]) -> None:
    """A row for each module, what those change that nobody noticed, and the share of those that were."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant  # noqa: PLC0415  # not in .venv

    modules: dict[str, Counter[str]] = {}
    for name, status in tried.items():
        modules.setdefault(name.rpartition(".")[0], Counter())[status] += 1
    for module, counts in sorted(modules.items()):
        killed = sum(counts[status] for status in CAUGHT)
        print(f"{module}: {killed} of {counts.total()} ({killed / counts.total():.0%})")
    for name, status in sorted(tried.items()):
        if status not in CAUGHT:
            print(f"{status}: {name}")
            changes = get_diff_for_mutant(name).splitlines()[2:]
            print(*(f"  {line}" for line in changes if line[:1] in {"-", "+"}), sep="\n")
    killed = sum(status in CAUGHT for status in tried.values())
    print(f"{killed} of {len(tried)} were noticed: {100 * killed / len(tried):.1f} %")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__)
    parser.add_argument("package", help="such as runtime/job")
    parser.add_argument("--sample", type=int, default=300, help="so many of its mutants; 0 is all")
    parser.add_argument("--seed", type=int, default=17, help="which of them")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    folder = ROOT / "build/mutate" / options.package.replace("/", ".")
    copy_tree(options.package, folder)
    names = mutants(options.package, folder)
    print(f"{len(names)} mutants of {options.package}", flush=True)
    if options.sample and options.sample < len(names):
        names = random.Random(options.seed).sample(names, options.sample)
    run = ("run", "--max-children", str(options.processes))
    mutmut(folder, *run, *names)
    # That a machine stood still is no fault that was noticed.
    late = [name for name, status in results(folder).items() if status == "timeout"]
    if late:
        mutmut(folder, *run, *late)
    tried = results(folder)
    show({name: tried[name] for name in names})


if __name__ == "__main__":
    main(sys.argv[1:])
