"""`python -m runtime.boot` as a process: what a warm-up records, and a start that uses it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.demo_case import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, time
import colorsys, part
from modules import sd_models
print("argv", sys.argv[1:], "name", __name__, "part", part.value, flush=True)
print("loaded", sd_models.load_model(), flush=True)
import gc
from http.server import HTTPServer, BaseHTTPRequestHandler
print("collector", gc.isenabled(), flush=True)
class Server(HTTPServer):
    def service_actions(self):  # called in the loop of serve_forever
        print("serving", gc.isenabled(), flush=True)
        self.service_actions = lambda: None
server = Server(("127.0.0.1", 0), BaseHTTPRequestHandler)
if "serve" in sys.argv:
    server.serve_forever()
"""


@pytest.fixture
def webui(tmp_path: Path) -> Path:
    """A script with modules of its own, one named as AUTOMATIC1111's, all compiled."""
    folder = tmp_path / "webui"
    (folder / "modules").mkdir(parents=True)
    (folder / "modules" / "__init__.py").write_text("")
    loads = "def load_model():\n    return 'model'\n\ndef load_model_weights():\n    pass\n"
    (folder / "modules" / "sd_models.py").write_text(loads)
    (folder / "part.py").write_text("value = 3\n")
    (folder / "script.py").write_text(SCRIPT)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(folder)], check=True)
    return folder


def boot(webui: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "runtime.boot", str(webui / "script.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        cwd=webui,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(webui: Path, *arguments: str, **environment: str) -> tuple[str, str]:
    process = boot(webui, *arguments, **environment)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


def events(path: Path) -> list[str]:
    return [json.loads(line)["name"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("choice", "collects"),
    [("plain", True), ("-gc", True), ("all", False), ("proven", False)],
)
def test_the_script_runs_as_upstream_starts_it(
    webui: Path, tmp_path: Path, choice: str, collects: bool
) -> None:
    timeline = tmp_path / "timeline.jsonl"
    out, err = run(webui, "--a", "b", BAKERY_BOOT=choice, BAKERY_TIMELINE=str(timeline))
    assert out.splitlines() == [
        "argv ['--a', 'b'] name __main__ part 3",
        "loaded model",
        f"collector {collects}",
    ]
    assert err == ""
    assert events(timeline) == ["boot", "model-expected", "model"]


def test_a_name_that_is_no_trick(webui: Path, tmp_path: Path) -> None:
    _, err = run(webui, BAKERY_BOOT="-gcc", BAKERY_TIMELINE=str(tmp_path / "t"))
    assert err.startswith("boot: BAKERY_BOOT names no trick: gcc (there are weights, ")


def test_the_checkpoint_is_read_while_the_webui_imports(webui: Path, tmp_path: Path) -> None:
    """On a card, where without a record of a run nothing else reads it before the webui does."""
    checkpoint, timeline = tmp_path / "weights.safetensors", tmp_path / "timeline.jsonl"
    checkpoint.write_bytes(os.urandom(1 << 20))
    process = boot(
        webui, "serve", "--ckpt", str(checkpoint), BAKERY_DEVICE="cuda", BAKERY_TIMELINE=str(timeline)
    )  # fmt: skip
    try:
        wait_until(lambda: timeline.exists() and len(events(timeline)) == 4)
    finally:
        process.kill()
        _, err = process.communicate(timeout=120)
    assert err == ""
    assert set(events(timeline)) == {"boot", "read checkpoint", "model-expected", "model"}


def test_a_model_that_does_not_load_is_an_event(webui: Path, tmp_path: Path) -> None:
    text = "def load_model():\n    raise MemoryError('too large')\n"
    (webui / "modules" / "sd_models.py").write_text(text)
    process = boot(webui, BAKERY_TIMELINE=str(tmp_path / "t"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "MemoryError: too large" in err
    last = json.loads((tmp_path / "t").read_text().splitlines()[-1])
    assert (last["name"], last["error"]) == ("model-failed", "MemoryError('too large')")


def record(webui: Path, folder: Path, tmp_path: Path) -> dict[str, bytes]:
    process = boot(
        webui, "serve", BAKERY_RECORD=str(folder), BAKERY_TIMELINE=str(tmp_path / "timeline.jsonl")
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("serving"):
            assert line == "serving True\n"
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, err
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_record_is_the_same_twice_and_the_next_start_uses_it(webui: Path, tmp_path: Path) -> None:
    first = record(webui, tmp_path / "first", tmp_path)
    second = record(webui, tmp_path / "second", tmp_path)
    assert list(first) == ["hashes.json", "modules.pack"]
    assert first == second
    assert b"colorsys" in first["modules.pack"]
    (webui / "part.py").unlink()
    (webui / "__pycache__").rename(webui / "gone")
    timeline = tmp_path / "next.jsonl"
    with_harvest = {"BAKERY_HARVEST": str(tmp_path / "first"), "BAKERY_TIMELINE": str(timeline)}
    process = boot(webui, **with_harvest)
    _, err = process.communicate(timeout=120)
    # The script's own tree is checked file by file: a module that is gone is not taken from the pack.
    assert "No module named 'part'" in err
    (webui / "part.py").write_text("value = 3\n")
    process = boot(webui, **with_harvest)
    out, err = process.communicate(timeout=120)
    assert {"boot", "model"} <= set(events(timeline))
    assert "part 3" in out
    assert err == ""
