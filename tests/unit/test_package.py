"""Where the version stands, and what `bake` needs to be installed with."""

import ast
import re
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path

from bake import __version__

ROOT = Path(__file__).parents[2]


def test_the_version_is_written_in_one_place() -> None:
    text = (ROOT / "bake" / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{__version__}"' in text
    assert "version = " not in (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace(
        "python_version = ", ""
    ).replace("target-version = ", "")


def installed_with(list_name: str) -> set[str]:
    """What pip installs for a list of pyproject.toml."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(rf"^{list_name} = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert declared is not None
    installed, waiting = set(), re.findall(r'^ +"([\w.-]+)', declared[1], re.MULTILINE)
    while waiting:
        name = normalised(waiting.pop())
        if name in installed:
            continue
        installed.add(name)
        with suppress(PackageNotFoundError):  # needed on another platform only
            needs = [each for each in requires(name) or () if "extra ==" not in each]
            waiting += [re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in needs]
    return installed


def test_everything_that_bake_imports_is_installed_with_it() -> None:
    always, signing = installed_with("dependencies"), installed_with("sign")
    # the standard library has its own from Python 3.14 on; one of the two is imported
    other_zstd = "backports" if sys.version_info >= (3, 14) else "compression"
    # packages_distributions() of Python 3.10 knows only what top_level.txt names
    where: dict[str, set[str]] = {}
    for each in distributions():
        name = each.name  # which reads the metadata each time
        for file in each.files or ():
            where.setdefault(file.parts[0].removesuffix(".py"), set()).add(name)
    foreign = {
        (module, path.relative_to(ROOT).as_posix())
        for path in (ROOT / "bake").rglob("*.py")
        for module in imported(path)
        if module not in {*sys.stdlib_module_names, other_zstd, "bake", "runtime"}
    }
    assert "requests" in {module for module, _ in foreign}
    missing = set()
    for module, path in foreign:
        installed = always | signing if path.startswith("bake/image/sign/") else always
        if not installed.intersection(normalised(each) for each in where.get(module, ())):
            missing.add((module, path))
    assert missing == set(), "name it under `dependencies` in pyproject.toml"


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path: Path) -> set[str]:
    """The top-level names of what a source imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names
