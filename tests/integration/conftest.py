"""The engine and the registry that the integration tests talk to, and the demo's image in them."""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import browser  # noqa: F401  # a fixture of all modules here

if TYPE_CHECKING:
    from tests.integration.bakery_case import Bakery, Events

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "demo" / "engine"
RUN = secrets.token_hex(4)
"""In the names of what tests leave in an engine or a registry, which other runs may use at the same time."""


def run(
    *command: str | Path, env: Mapping[str, str] | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, whatever its exit status."""
    arguments = [str(each) for each in command]
    return subprocess.run(
        arguments, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def need_program(name: str) -> None:
    """Skips a test of a program that is not installed: the summary says what was not looked at."""
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed: nothing is held against it")


def engine_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """An environment with what `demo/engine/env` prints in it."""
    shown = run("bash", "-c", f'eval "$({SCRIPTS}/env)" && env -0', env=environment)
    assert shown.returncode == 0, shown.stderr
    return dict(line.split("=", 1) for line in shown.stdout.split("\0") if "=" in line)


@pytest.fixture(scope="session")
def engine() -> dict[str, str]:
    """The environment in which `docker` reaches a running engine."""
    started = run(SCRIPTS / "start", env=os.environ, timeout_s=1200)
    assert started.returncode == 0, started.stderr
    return engine_environment()


@pytest.fixture(scope="session")
def slim_image(engine: dict[str, str]) -> str:
    """The slim Python image that the demo's base stands on."""
    made = run(SCRIPTS / "slim-image", env=engine, timeout_s=1200)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@pytest.fixture(scope="session")
def registry(engine: dict[str, str]) -> Iterator[str]:
    """host:port of the real registry."""
    from tests.integration.registry_case import running_registry  # noqa: PLC0415  # it needs `run`

    with running_registry(engine) as host:
        yield host


@pytest.fixture(scope="session")
def bakery(
    engine: dict[str, str], slim_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bakery]:
    """The demo's, for all modules that look at one bake of it; who edits takes a copy."""
    from tests.integration.bakery_case import making_bakery  # noqa: PLC0415  # it needs `run`

    with making_bakery(tmp_path_factory.mktemp("bakery"), engine, slim_image) as made:
        yield made


@pytest.fixture(scope="session")
def baked(bakery: Bakery) -> Events:
    """What its first bake says."""
    return bakery.bake()


@pytest.fixture(scope="session")
def classic(
    engine: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """A private engine with the classic store, beside the one that the other tests use."""
    from benchmarks.images import private_engine  # noqa: PLC0415  # it needs numpy

    folder = tmp_path_factory.mktemp("classic")
    with private_engine(folder, containerd_store=False) as host:
        path = f"{ROOT / '.engine/root/usr/bin'}:{folder / 'root/usr/bin'}:{engine['PATH']}"
        yield {**engine, "DOCKER_HOST": host, "PATH": path}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of BAKE_TEST_DIST (`make release`), else built now, by way of the source distribution."""
    given = os.environ.get("BAKE_TEST_DIST")
    folder = Path(given) if given else tmp_path_factory.mktemp("dist")
    if not given:
        built = run(
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            "--outdir",
            folder,
            ROOT,
            timeout_s=1200,
        )
        assert built.returncode == 0, built.stderr + built.stdout
    [found] = folder.glob("*.whl")
    return found.absolute()


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository of the test's own, empty at its start."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"img-test/{name}-{RUN}-{random.randrange(10**9)}"
