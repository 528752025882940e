"""How a step runs: what is measured is what the events say, and one bake of a machine draws at a time."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from bake.console import Console
from bake.flock import locked
from bake.manifest.load import parse_manifest
from bake.plan.plan import Plan
from bake.plan.state import BuildFolder
from bake.plan.step import Options, Step
from bake.settings import Settings
from bake.steps.run import Context, Run

TEXT = """\
name: a-model
family: demo
checkpoint: file:a.safetensors
warmup:
  prompt: a red circle
image: ghcr.io/you/a-model
"""


def make_run(tmp_path: Path, console: Console) -> Run:
    steps = tuple(
        Step(name=name, document={"a": "1"}, runs=True, why="it has not been done yet")
        for name in ("base", "warmup")
    )
    return Run(
        context=Context(
            manifest=parse_manifest(TEXT, tmp_path / "a-model.yaml"),
            options=Options(build_args={}),
            settings=Settings(cache=tmp_path / "cache"),
            console=console,
            folder=BuildFolder(tmp_path / "build"),
        ),
        lock=cast(Any, None),
        engine=cast(Any, None),
        base=cast(Any, None),
        plan=Plan(steps=steps),
    )


def test_the_seconds_of_a_step_are_those_of_its_event(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, Console(as_json=True))
    assert run.step("base", lambda: {"image": "x"}) == {"image": "x"}
    ended = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ended == {"event": "step.ended", "step": "base", "seconds": run.seconds["base"]}


def test_what_draws_waits_for_another_bake_and_nothing_else_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, drawn = make_run(tmp_path, Console()), threading.Event()

    def draw() -> Mapping[str, Any]:
        drawn.set()
        return {}

    def work() -> None:
        run.step("base", dict)
        run.step("warmup", draw, draws=True)

    worker = threading.Thread(target=work)
    with locked(tmp_path / "cache" / "locks" / "drawing"):
        worker.start()
        assert not drawn.wait(0.3)
    worker.join(120)
    assert drawn.is_set()
    said = capsys.readouterr().err.splitlines()
    assert "warmup: another bake draws; waiting for it" in said
    assert said.index("warmup: another bake draws; waiting for it") < said.index(
        "▶ warmup (it has not been done yet)"
    )
    assert said[1].startswith("✓ base")
