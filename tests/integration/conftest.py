"""The engine and the registry that the integration tests talk to."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "demo" / "engine"


def run(
    *command: str | Path, env: Mapping[str, str] | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, whatever its exit status."""
    arguments = [str(each) for each in command]
    return subprocess.run(
        arguments, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def engine_environment() -> dict[str, str]:
    """This process's environment with what `demo/engine/env` prints."""
    shown = run("bash", "-c", f'eval "$({SCRIPTS}/env)" && env -0')
    assert shown.returncode == 0, shown.stderr
    return dict(line.split("=", 1) for line in shown.stdout.split("\0") if "=" in line)


@pytest.fixture(scope="session")
def engine() -> dict[str, str]:
    """The environment in which `docker` reaches a running engine."""
    started = run(SCRIPTS / "start", env=os.environ)
    assert started.returncode == 0, started.stderr
    return engine_environment()
