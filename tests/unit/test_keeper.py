"""The webui's life: a start with tricks that fails is tried once more as upstream starts, in the same time."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.log import Counters
from runtime.settings import Settings
from runtime.webui.keeper import Keeper
from runtime.webui.process import WebuiProcess, WebuiProcessError
from tests.unit.test_webui_process import Answers

ONLY_PLAIN = (
    "import os, time\nif os.environ.get('BAKERY_BOOT') != 'plain': {fails}\ntime.sleep(600)"
)
DIES = "print('a trick broke'); raise SystemExit(4)"
HANGS = "time.sleep(600)"
"""Its API does not answer."""


class Case:
    """A keeper on a real process whose API answers, or not, as told."""

    def __init__(self, folder: Path, code: str, *, boot: str = "", timeout_s: float = 90) -> None:
        self.webui = WebuiProcess(
            [sys.executable, "-c", code],
            cwd=str(folder),
            port=1,
            environment={"BAKERY_BOOT": boot},
            timeline=folder / "timeline",
        )
        self.counters = Counters()
        self.keeper = Keeper(self.webui, Settings(start_timeout_s=timeout_s), self.counters)

    def answers_when_plain(self) -> None:
        case = self

        class Client(Answers):
            def progress(self, *, timeout_s: float) -> dict[str, Any]:
                if not case.webui.is_plain:
                    from runtime.webui.client import WebuiUnreachableError  # noqa: PLC0415

                    raise WebuiUnreachableError("not yet")
                return {}

        self.webui.client = Client(0)  # type: ignore[assignment]


@pytest.fixture
def cases(tmp_path: Path) -> Iterator[Any]:
    made: list[Case] = []

    def make(code: str, **more: Any) -> Case:
        made.append(Case(tmp_path, code, **more))
        return made[-1]

    yield make
    for each in made:
        each.keeper.stop()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("fails", "why", "timeout_s"),
    [(DIES, "the webui exited with code 4", 90), (HANGS, "was not loaded within 1 s", 1.5)],
)
def test_a_start_with_tricks_that_fails_is_tried_once_more_without(
    cases: Any, capsys: pytest.CaptureFixture[str], fails: str, why: str, timeout_s: float
) -> None:
    case = cases(ONLY_PLAIN.format(fails=fails), timeout_s=timeout_s)
    case.answers_when_plain()
    case.keeper.start()
    case.keeper.wait_until_loaded()
    assert case.webui.is_plain
    assert not case.keeper.has_ended
    case.counters.write()
    (warning, end) = lines(capsys)
    assert warning["message"] == "the start with tricks failed; tried once more without"
    assert why in warning["why"]
    assert warning["last_lines"] == (["a trick broke"] if fails is DIES else [])
    assert end["counts"] == {"plain_starts": 1}


def test_it_is_tried_once_only_and_a_plain_start_not_at_all(
    cases: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for boot, warnings in (("all", 1), ("plain", 0)):
        case = cases(DIES, boot=boot)
        case.keeper.start()
        with pytest.raises(WebuiProcessError, match="the webui exited with code 4"):
            case.keeper.wait_until_loaded()
        assert len(lines(capsys)) == warnings


def test_both_share_one_deadline(cases: Any) -> None:
    case = cases("import time; time.sleep(600)", timeout_s=1.5)
    case.keeper.start()
    with pytest.raises(WebuiProcessError, match="was not loaded within 2 s"):
        case.keeper.wait_until_loaded()


def test_a_restart_stays_plain(cases: Any) -> None:
    case = cases(ONLY_PLAIN.format(fails=DIES))
    case.answers_when_plain()
    case.keeper.start()
    case.keeper.wait_until_loaded()
    case.webui.stop(0.0)
    asyncio.run(case.keeper.ensure_running(float("inf")))
    assert not case.keeper.has_ended
    case.counters.add("x")
    assert case.counters._counts == {"plain_starts": 1, "webui_restarts": 1, "x": 1}
