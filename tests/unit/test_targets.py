"""What `make` says to who leaves out a variable: at once, and with the command as it should be."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`make` in a folder with nothing but the Makefile and an environment that counts as made."""
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "requirements/dev.txt", ".venv/ready"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    return subprocess.run(
        ["make", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("bake", "name a manifest: make bake MANIFEST=manifests/"),
        ("summary SINCE=HEAD", "make summary MANIFEST=FILE SINCE=origin/main|name a manifest: make summary"),
        ("sign", "name a manifest: make sign MANIFEST=manifests/"),
        ("signature", "name a manifest: make signature MANIFEST=manifests/"),
        ("deploy", "name a manifest: make deploy MANIFEST=manifests/"),
        ("mutate", "name a package: make mutate PACKAGE=runtime/job"),
        ("webui-check", "name the folder of webui.py: make webui-check WEBUI=FOLDER"),
        ("webui-check WEBUI=/no/such", "name the folder of webui.py: make webui-check WEBUI=FOLDER"),
        ("gpu-check", "name a worker image, or the folder of webui.py: make gpu-check IMAGE=NAME"),
        ("hub", "give the image by digest: make hub IMAGE=REPOSITORY@sha256:"),
    ],
)  # fmt: skip
def test_a_target_without_its_variable(tmp_path: Path, words: str, message: str) -> None:
    ended = make(tmp_path, *words.split())
    assert ended.returncode == 2
    assert any(each in ended.stderr for each in message.split("|")), ended.stderr
    assert not list(tmp_path.glob(".venv-*")), "no environment is made for nothing"


def test_a_webui_check_without_the_interpreter_is_no_traceback() -> None:
    words = ["-m", "tests.conformance", "--webui", ".", "--python", "/no/such/python"]
    ended = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "--python: /no/such/python is no program" in ended.stderr
    assert "Traceback" not in ended.stderr
