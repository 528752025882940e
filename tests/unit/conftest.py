"""What is set before any test module is imported, and `bake` as a function."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

# One thread, as demo/webui/launch.py sets it: more of them make the demo's small products slow on a busy
# machine, and change their sums.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a run of `bake` left."""

    returncode: object
    stdout: str
    stderr: str


@pytest.fixture
def run_bake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs a command in a folder, with variables of its own."""
    from tests.command import call_bake  # noqa: PLC0415  # after the environment is set

    def run(*args: str, folder: Path = ROOT, **variables: str) -> Ended:
        monkeypatch.chdir(folder)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        code = call_bake(*args)
        said = capsys.readouterr()
        return Ended(returncode=code, stdout=said.out, stderr=said.err)

    return run
