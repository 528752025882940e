"""What somebody gets who installs the wheel: the demo, baked with nothing else of this repository."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from bake import __version__
from tests.integration.bakery_case import BAKE, remove_images
from tests.integration.conftest import ROOT, RUN, run


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bake` of a fresh environment."""
    fresh = tmp_path_factory.mktemp("fresh")
    commands: list[list[str | Path]] = [
        [sys.executable, "-m", "venv", "--without-pip", fresh],
        [sys.executable, "-m", "pip", "--python", fresh, "install", "--quiet", wheel],
    ]
    for command in commands:
        ended = run(*command, timeout_s=1200)
        assert ended.returncode == 0, ended.stderr
    return fresh / "bin" / "bake"


@pytest.fixture
def environment(engine: Mapping[str, str], slim_image: str, tmp_path: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in engine.items() if name != "PYTHONPATH"},
        "BAKE_STORE": str(tmp_path / "store"),
        "BAKE_CACHE": str(tmp_path / "cache"),
        "BAKE_BUILD_ARGS": f"PYTHON_IMAGE={slim_image}",
    }


def test_the_wheel_alone_bakes_the_demo_with_the_keys_of_the_checkout(
    installed: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    version = run(installed, "--version", env=environment)
    assert version.stdout.strip() == f"bake, version {__version__}"
    # The demo is its author's: a manifest, weights and a Dockerfile. Nothing else lies in the folder.
    folder = tmp_path / "somewhere"
    ignore = shutil.ignore_patterns("__pycache__", "engine", "train")
    shutil.copytree(ROOT / "demo", folder / "demo", ignore=ignore)
    (folder / "manifests").mkdir()
    manifest = folder / "manifests" / "demo.yaml"
    text = (ROOT / "manifests" / "demo.yaml").read_text()
    assert "/bakery-demo" in text
    name = f"bakery-install-{RUN}"
    manifest.write_text(text.replace("/bakery-demo", f"/{name}"))
    common = [str(manifest), "--build-dir", str(folder / "build")]
    baked = run("env", "-C", folder, installed, "image", *common, env=environment, timeout_s=1200)
    assert baked.returncode == 0, baked.stderr + baked.stdout
    report = json.loads((folder / "build" / "demo" / "report.json").read_text())
    assert report["bake"] == __version__
    assert (folder / "build" / "demo" / "picture.png").stat().st_size > 1000
    planned = run(BAKE, "plan", *common, "--json", env=environment)
    assert planned.returncode == 0, planned.stderr
    assert [step for step in json.loads(planned.stdout)["steps"] if step["runs"]] == []
    remove_images(environment, f"127.0.0.1:5005/{name}")
