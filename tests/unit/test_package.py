"""What a wheel holds, and that images made with it have the keys of those made in a checkout."""

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from contextlib import suppress
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path

import pytest

from bake import __version__
from tests.dist import ROOT, find_wheel
from tests.unit.test_keys import PLAN

RESOURCES = {
    "Dockerfile.base",
    "Dockerfile.base.dockerignore",
    "Dockerfile.final",
    "requirements/runtime.txt",
    "requirements/torch.txt",
    "requirements/webui.txt",
    "requirements/xformers.txt",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_a_wheel_holds_all_of_our_source_and_what_images_are_built_from(unpacked: Path) -> None:
    expected = {f"bake/resources/{name}": ROOT / name for name in RESOURCES}
    for package in ("bake", "runtime"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected[path.relative_to(ROOT).as_posix()] = path
    found = {
        path.relative_to(unpacked).as_posix(): path
        for path in unpacked.rglob("*")
        if path.is_file() and ".dist-info" not in path.parts[len(unpacked.parts)]
    }
    assert sorted(found) == sorted(expected)
    for name, path in expected.items():
        assert found[name].read_bytes() == path.read_bytes(), name


def test_its_metadata_has_the_version_that_bake_says(unpacked: Path) -> None:
    [metadata] = unpacked.glob("*.dist-info/METADATA")
    headers = Parser().parsestr(metadata.read_text(encoding="utf-8"))
    assert (headers["Name"], headers["Version"]) == ("bakery", __version__)
    assert headers["License-Expression"] == "MIT"
    [scripts] = unpacked.glob("*.dist-info/entry_points.txt")
    assert "bake = bake.cli:main" in scripts.read_text(encoding="utf-8")


def documents_in(folder: Path, cwd: Path) -> dict[str, dict[str, str]]:
    script = f"{PLAN}\nprint(json.dumps({{s.name: dict(s.document) for s in plan({{}}).steps}}))"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    documents: dict[str, dict[str, str]] = json.loads(ended.stdout)
    return documents


def test_keys_are_the_same_from_a_wheel_and_from_a_checkout(unpacked: Path, tmp_path: Path) -> None:
    from_wheel = documents_in(unpacked, tmp_path)
    assert from_wheel["base"]["context"], "the base is built from the wheel's own locks"
    assert from_wheel == documents_in(ROOT, tmp_path)


def test_the_version_is_written_in_one_place() -> None:
    text = (ROOT / "bake" / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{__version__}"' in text
    assert "version = " not in (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace(
        "python_version = ", ""
    ).replace("target-version = ", "")


def test_everything_that_bake_imports_is_installed_with_it() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
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
    # packages_distributions() of Python 3.10 knows only what top_level.txt names
    where: dict[str, set[str]] = {}
    for each in distributions():
        for file in each.files or ():
            where.setdefault(file.parts[0].removesuffix(".py"), set()).add(each.name)
    foreign = {
        module: path.relative_to(ROOT).as_posix()
        for path in (ROOT / "bake").rglob("*.py")
        for module in imported(path)
        if module not in {*sys.stdlib_module_names, "bake", "runtime"}
    }
    assert "requests" in foreign
    missing = {
        module: path
        for module, path in foreign.items()
        if not installed.intersection(normalised(each) for each in where.get(module, ()))
    }
    assert missing == {}, "name it under `dependencies` in pyproject.toml"


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
