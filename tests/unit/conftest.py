"""What is set before any test module is imported, and `bake` as a function."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
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
) -> Iterator[Callable[..., Ended]]:
    """Runs `main` in this process, where the modules of a command are imported only once."""
    from bake.cli import main  # noqa: PLC0415  # after the environment is set

    before = signal.getsignal(signal.SIGTERM)

    def run(*args: str, folder: Path = ROOT, **variables: str) -> Ended:
        monkeypatch.chdir(folder)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as raised:
            main(list(args))
        said = capsys.readouterr()
        return Ended(returncode=raised.value.code, stdout=said.out, stderr=said.err)

    yield run
    signal.signal(signal.SIGTERM, before)
