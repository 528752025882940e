"""The worker's environment: thin, and with all that its path imports. The other tests of the runtime run in it."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.integration.conftest import run
from tests.integration.worker import ROOT

_NOT_THERE = {
    # rp_system_fitness: skipped (runtime/__main__.py)
    "cupy": "serverless/modules/rp_system_fitness.py",
    "psutil": "serverless/modules/rp_system_fitness.py",
    "torch": "serverless/modules/rp_system_fitness.py",
}
"""What modules of the SDK import on paths that a worker does not take, and where."""
_MOST_BYTES = 55 << 20
"""Without bytecode; with it 70 MB, which tests/integration/test_bake.py holds the layer against."""


@pytest.fixture(scope="module")
def packages() -> Path:
    (found,) = (ROOT / ".venv-runtime" / "lib").glob("python*/site-packages")
    return found


@pytest.fixture(scope="module")
def installed(packages: Path) -> dict[str, Distribution]:
    return {canonicalize_name(each.name): each for each in distributions(path=[str(packages)])}


def _lines(name: str) -> list[str]:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _needed(installed: dict[str, Distribution]) -> Iterator[tuple[str, str]]:
    """What is asked for, and by whom, from requirements/runtime.in on, extras included."""
    todo = [(Requirement(line), "runtime.in") for line in _lines("runtime.in")]
    seen: set[str] = set()
    while todo:
        requirement, by = todo.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        name = canonicalize_name(requirement.name)
        yield name, by
        for text in (installed[name].requires or []) if name in installed else []:
            each = Requirement(text)
            extras = requirement.extras or {""}
            if not each.marker or any(each.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append((each, name))


def test_every_requirement_is_there_or_left_out_with_a_reason(
    installed: dict[str, Distribution],
) -> None:
    left_out = set(_lines("runtime-left-out.txt"))
    needed = dict(_needed(installed))
    assert {name: by for name, by in needed.items() if name not in {*installed, *left_out}} == {}
    assert set(installed) <= set(needed), "what nothing asks for"
    assert set(installed) & left_out == set()


_IMPORT_ALL = """
import importlib, pkgutil, sys
import runpod, runtime.serve
failed = {}
for each in pkgutil.walk_packages(runpod.__path__, "runpod."):
    if not each.name.startswith("runpod.cli."):
        try:
            importlib.import_module(each.name)
        except ImportError as error:
            failed[each.name] = str(error)
assert not failed, failed
for name in ("runpod.serverless.modules.rp_fastapi", "boto3.session", "botocore.config", "PIL.Image", "PIL.WebPImagePlugin"):
    importlib.import_module(name)
"""


def test_everything_that_the_sdk_imports_is_there(packages: Path) -> None:
    """All of its modules but its command line's: progress, the local API, the scaler, uploads, the debugger."""
    python = packages.parents[2] / "bin" / "python"
    ended = run(python, "-c", _IMPORT_ALL, env={"PYTHONPATH": str(ROOT)})
    assert ended.returncode == 0, ended.stderr


_IMPORT_WATCHED = """
import sys
begun = []
sys.addaudithook(lambda event, _: begun.append(event) if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system") else None)
import runtime.serve
from runpod.serverless.utils.rp_debugger import get_debugger_output
assert not begun, begun
assert get_debugger_output()["system_info"]["processor"], "its own debugger still answers"
"""


def test_the_import_of_the_sdk_starts_no_other_process(packages: Path) -> None:
    """The SDK alone asks a second Python for the processor's name, while the webui starts on the same cores."""
    python = packages.parents[2] / "bin" / "python"
    ended = run(python, "-c", _IMPORT_WATCHED, env={"PYTHONPATH": str(ROOT)})
    assert ended.returncode == 0, ended.stderr


def _late_imports(path: Path) -> set[str]:
    """The top-level names of what a module's functions import."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names)


def test_late_imports_are_there_or_named(packages: Path) -> None:
    sdk = packages / "runpod"
    missing = {}
    for path in (*sdk.rglob("*.py"), *(ROOT / "runtime").rglob("*.py")):
        if (sdk / "cli") in path.parents or (ROOT / "runtime/boot") in path.parents:
            continue  # its command line; what runs in the webui's interpreter
        for name in _late_imports(path) - {"runtime"}:
            found = [packages / name, packages / f"{name}.py", *packages.glob(f"{name}.*.so")]
            if not any(each.exists() for each in found):
                missing[name] = path.relative_to(sdk if sdk in path.parents else ROOT).as_posix()
    assert missing == _NOT_THERE


def test_the_environment_stays_thin(packages: Path) -> None:
    files = [path for path in packages.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < _MOST_BYTES
    described = {path.name for path in (packages / "botocore/data").iterdir() if path.is_dir()}
    assert described == {"s3"}
    lock = (ROOT / "requirements/runtime.txt").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    assert {canonicalize_name(each.name) for each in distributions(path=[str(packages)])} <= locked
