"""What a wheel holds, and that images made with it have the keys of those made in a checkout."""

import json
import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from bake import __version__
from tests.integration.conftest import ROOT

RESOURCES = {
    "Dockerfile.base",
    "Dockerfile.base.dockerignore",
    "Dockerfile.final",
    "benchmarks/cold_start.py",
    "benchmarks/cold_start_client.py",
    "benchmarks/cold_start_comfyui.py",
    "benchmarks/cold_start_runs.py",
    "benchmarks/gpu/attention.py",
    "benchmarks/gpu/check.py",
    "benchmarks/gpu/record.py",
    "benchmarks/report.py",
    "requirements/imports.py",
    "requirements/runtime.txt",
    "requirements/slim.py",
    "requirements/torch.txt",
    "requirements/trim-runtime",
    "requirements/webui.txt",
    "requirements/xformers.txt",
}
DOCUMENTS = """
import json, bake
from tests.a_plan import a_plan
print(json.dumps((bake.__file__, {step.name: dict(step.document) for step in a_plan({}).steps})))
"""


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
    ended = subprocess.run(
        [sys.executable, "-c", DOCUMENTS],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    where, documents = json.loads(ended.stdout)
    assert Path(where).is_relative_to(folder), "it is the `bake` of that folder"
    return dict(documents)


def test_keys_are_the_same_from_a_wheel_and_from_a_checkout(unpacked: Path, tmp_path: Path) -> None:
    from_wheel = documents_in(unpacked, tmp_path)
    assert from_wheel["base"]["context"], "the base is built from the wheel's own locks"
    assert from_wheel == documents_in(ROOT, tmp_path)
