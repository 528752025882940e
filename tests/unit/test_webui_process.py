"""The webui's process: what it printed, when it counts as loaded, how it ends. No port is opened here."""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runtime.webui.client import WebuiAnswerError, WebuiUnreachableError
from runtime.webui.process import WebuiProcess, WebuiProcessError, describe_exit
from tests.processes import wait_until_gone

SLEEP = "import time; print('ready', flush=True); time.sleep(60)"


def make(tmp_path: Path, code: str, **more: Any) -> WebuiProcess:
    return WebuiProcess(
        [sys.executable, "-c", code],
        cwd=str(tmp_path),
        port=1,
        timeline=tmp_path / "t.jsonl",
        **more,
    )


class Answers:
    """A client whose API answers, and whose pictures are as told."""

    def __init__(self, *pictures: Any) -> None:
        self.pictures = list(pictures)
        self.asked = 0

    def progress(self, *, timeout_s: float) -> dict[str, Any]:
        return {}

    def draw(self, payload: Any, *, timeout_s: float) -> dict[str, Any]:
        self.asked += 1
        picture = self.pictures.pop(0) if len(self.pictures) > 1 else self.pictures[0]
        if isinstance(picture, Exception):
            raise picture
        time.sleep(picture)
        return {}


def test_a_webui_that_ends_is_noticed_with_its_last_words(tmp_path: Path) -> None:
    process = make(tmp_path, "print('loading'); print('no CUDA device'); raise SystemExit(3)")
    process.start()
    with pytest.raises(WebuiProcessError, match=r"^the webui exited with code 3$") as caught:
        process.wait_until_loaded(60)
    assert caught.value.last_lines == ["loading", "no CUDA device"]


def test_the_deadline_ends_the_wait(tmp_path: Path) -> None:
    process = make(tmp_path, SLEEP)
    process.start()
    with pytest.raises(WebuiProcessError, match="was not loaded within 0 s"):
        process.wait_until_loaded(0.3)
    assert process.exit_code is None
    process.stop()
    assert process.exit_code == -15


def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    process = WebuiProcess(["/nowhere/python"], cwd=str(tmp_path), port=1)
    with pytest.raises(WebuiProcessError, match="cannot be started"):
        process.start()


def test_boots_event_says_that_the_model_is_loaded(tmp_path: Path) -> None:
    timeline = tmp_path / "t.jsonl"
    timeline.write_text('{"name": "model", "began": 1, "ended": 2}\n')
    process = make(tmp_path, SLEEP)
    process.start()
    client = Answers(0)
    process.client = client  # type: ignore[assignment]
    # An event of an earlier start does not count: the picture decides.
    process.wait_until_loaded(60)
    assert client.asked == 1
    with timeline.open("a") as file:
        file.write("half a li\n[]\n" + json.dumps({"name": "model"}) + "\n")
    process.wait_until_loaded(60)
    assert client.asked == 1
    process.stop()


def test_a_model_that_does_not_load_is_an_error_although_the_api_answers(tmp_path: Path) -> None:
    process = make(tmp_path, SLEEP)
    process.start()
    refusal = WebuiAnswerError(status=500, kind="AttributeError", detail="no model")
    process.client = Answers(refusal)  # type: ignore[assignment]
    with pytest.raises(WebuiProcessError, match=r"answers but cannot draw: .* 500 AttributeError"):
        process.wait_until_loaded(60)
    process.stop()


def test_one_failed_picture_is_not_the_end(tmp_path: Path) -> None:
    process = make(tmp_path, SLEEP)
    process.start()
    client = Answers(WebuiUnreachableError("reset"), 0)
    process.client = client  # type: ignore[assignment]
    process.wait_until_loaded(60)
    assert client.asked == 2
    process.stop()


def test_stop_ends_children_too_and_what_ignores_sigterm(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    process = make(tmp_path, code)
    process.start()
    while not process.last_lines():
        time.sleep(0.01)
    child = int(process.last_lines()[0])
    process.stop(0.2)
    assert process.exit_code == -9
    wait_until_gone(child)


def test_output_is_kept_apart_and_bounded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import sys\nfor n in range(500): print(n)\n"
        "sys.stdout.write('50%\\r100%\\r'); print('x' * 10**5); sys.stdout.buffer.write(b'\\xff end')"
    )
    process = make(tmp_path, code, log_file=tmp_path / "log" / "webui.log")
    process.start()
    with pytest.raises(WebuiProcessError):
        process.wait_until_loaded(60)
    lines = process.last_lines(1000)
    assert len(lines) == 200
    assert lines[-1] == "\ufffd end"
    assert "50%" in lines
    assert "100%" in lines
    assert max(map(len, lines)) == 2000
    text = (tmp_path / "log" / "webui.log").read_text()
    assert text.startswith("0\n1\n")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        # As the real webui v1.9.3 said it.
        ("*** Unable to load RealESRGAN model https://github.com/x.pth", 1),
        ("Failed loading SwinIR model https://github.com/x.pth: <urlopen error>", 1),
        ("ScuNET: Unable to load model from https://github.com/x.pth: ...", 1),
        ("WARNING:modules.face_restoration_utils:Unable to load face-restoration model", 1),
        ("Loading VAE weights specified in settings", 0),
        ("Failed to match LoRA keys", 0),
    ],
)
def test_models_that_it_draws_without_are_counted(tmp_path: Path, line: str, counts: int) -> None:
    process = make(tmp_path, f"print({line!r})")
    process.start()
    while not process.last_lines():
        time.sleep(0.01)
    assert process.missing_models == counts
    process.stop()


def test_what_it_has_printed_and_nobody_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, second = threading.Event(), tmp_path / "second"
    held = lambda _: lambda _line: go_on.wait(120)  # noqa: E731
    monkeypatch.setattr("runtime.webui.process._bounded_log", held)
    process = make(
        tmp_path,
        "import pathlib, time; print('one', flush=True)\n"
        f"while not pathlib.Path({str(second)!r}).exists(): time.sleep(0.01)\n"
        "print('two', flush=True); time.sleep(60)",
    )

    def is_unread() -> bool:
        return process.has_unread_output

    assert not is_unread()
    process.start()
    while process.last_lines() != ["one"]:
        time.sleep(0.01)
    assert not is_unread()
    second.touch()
    while not is_unread():
        time.sleep(0.01)
    assert process.last_lines() == ["one"]
    go_on.set()
    while is_unread():
        time.sleep(0.01)
    while process.last_lines() != ["one", "two"]:
        time.sleep(0.01)
    process.stop()
    assert not is_unread()


def test_the_log_never_grows_beyond_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.webui.process._LOG_BYTES", 1000)
    process = make(tmp_path, "for n in range(1000): print(n)", log_file=tmp_path / "webui.log")
    process.start()
    with pytest.raises(WebuiProcessError):
        process.wait_until_loaded(60)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("webui.log*")}
    assert set(sizes) == {"webui.log", "webui.log.1"}
    assert max(sizes.values()) <= 1000


def test_a_log_that_cannot_be_written_costs_only_the_log(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = make(tmp_path, "print('hello')", log_file=tmp_path / "file" / "webui.log")
    process.start()
    with pytest.raises(WebuiProcessError, match="code 0"):
        process.wait_until_loaded(60)
    assert process.last_lines() == ["hello"]


def test_how_an_end_is_described() -> None:
    assert describe_exit(-9) == "the webui was killed by SIGKILL"
    assert describe_exit(1) == "the webui exited with code 1"
