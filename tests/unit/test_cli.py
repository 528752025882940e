"""The command line as a user runs it: exit codes, and never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_bake(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bake", *args],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("args", "code", "shown"),
    [
        (["--help"], 0, "Usage: bake"),
        (["--version"], 0, "0.1.0"),
        (["schema"], 0, '"checkpoint"'),
        (["check", "manifests/jib-mix-illustrious-realistic.yaml"], 0, "ok"),
        (["check", "no-such.yaml"], 2, "there is no such manifest"),
        (["check", "manifests"], 2, "cannot be read"),
        (["nonsense"], 2, "No such command"),
        (["check"], 2, "Missing argument"),
    ],
)
def test_exit_codes_and_messages(args: list[str], code: int, shown: str) -> None:
    ended = run_bake(*args)
    assert ended.returncode == code, ended.stderr
    assert shown in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_that_cannot_be_written_is_a_fault_of_the_machine() -> None:
    ended = run_bake("fetch", "manifests/demo.yaml", BAKE_STORE="/dev/null/store")
    assert ended.returncode == 3, ended.stderr
    assert "error: /dev/null/store/leases: cannot be used: Not a directory" in ended.stderr
    assert "→ give bake a folder that it can write: BAKE_STORE" in ended.stderr
    assert "Traceback" not in ended.stderr
