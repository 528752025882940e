"""A base whose webui does not do what it should fails the bake, with the webui's own last words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bake.plan.state import key_of
from tests.integration.bakery_case import Bakery, make_bakery
from tests.integration.conftest import RUN, run

SHORT = "3"
"""Seconds for what will not happen however long it is waited for."""


@pytest.fixture(scope="module")
def base(engine: dict[str, str], slim_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The demo's base, as a bake tags it."""
    bakery = make_bakery(tmp_path_factory.mktemp("base"), engine, slim_image)
    made = run(*bakery.command("warmup"), env=bakery.environment, timeout_s=600)
    assert made.returncode == 0, made.stderr
    record = json.loads((bakery.build / "demo" / "state" / "base.json").read_text())
    return tag_of(record)


def tag_of(record: Mapping[str, Any]) -> str:
    """The name that a bake gives the base that it has built."""
    return f"bakery.local/base:{key_of(record['document'])[:16]}"


def bake_with_fault(
    fault: str, *, base: str, folder: Path, engine: Mapping[str, str], slim_image: str
) -> tuple[Bakery, str]:
    """Warms up a base that has a fault; returns what bake said."""
    bakery = make_bakery(folder, engine, slim_image)
    (folder / "base").mkdir()
    (folder / "base" / "Dockerfile").write_text(
        f"FROM {base}\nENV DEMO_FAULT={fault}\nLABEL run={RUN}\n"
    )
    text = bakery.manifest.read_text()
    before = next(line for line in text.splitlines() if "dockerfile:" in line)
    indent = before[: len(before) - len(before.lstrip())]
    bakery.manifest.write_text(text.replace(before, f"{indent}dockerfile: base/Dockerfile"))
    environment = {
        **bakery.environment,
        # Long where something is to happen, since the machine may be busy.
        "BAKE_WARMUP_START_TIMEOUT_S": SHORT if fault in ("hang-start", "hang-load") else "120",
        "BAKE_WARMUP_DRAW_TIMEOUT_S": SHORT if fault == "hang-job" else "120",
    }
    ended = run(*bakery.command("warmup"), env=environment, timeout_s=300)
    record = json.loads((bakery.build / "demo" / "state" / "base.json").read_text())
    run("docker", "image", "rm", tag_of(record), env=bakery.environment)
    assert ended.returncode == 5, ended.stderr
    return bakery, ended.stderr


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no-start", ["the warm-up failed", "DEMO_FAULT=no-start"]),
        ("hang-start", ["the warm-up failed", f"{SHORT} s"]),
        ("hang-load", ["the warm-up failed", f"{SHORT} s"]),
        ("die-mid-job", ["the warm-up failed"]),
        ("hang-job", ["the warm-up failed", f"{SHORT} s"]),
        ("oom", ["the warm-up failed", "out of memory"]),
        ("black", ["the warm-up's picture is not good", "black"]),
    ],
)
def test_a_base_with_a_fault_fails_the_bake(
    fault: str, said: list[str], base: str, engine: dict[str, str], slim_image: str, tmp_path: Path
) -> None:
    bakery, error = bake_with_fault(
        fault, base=base, folder=tmp_path, engine=engine, slim_image=slim_image
    )
    for text in said:
        assert text in error
    assert bakery.containers() == ""
    assert not (bakery.build / "demo" / "harvest").exists()
