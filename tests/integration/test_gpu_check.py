"""The check on a card, with a webui and an nvidia-smi that stand in for a machine with one; and from packed pieces."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ROOT
from tests.ports import free_port
from tests.unit.test_wheel import fatbin

WEBUI = """
import base64, json, os, struct, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port = int(sys.argv[sys.argv.index("--port") + 1])
boot = os.environ["BAKERY_BOOT"]
if boot == os.environ.get("DIES_WITH"):
    sys.exit("it is all over")
data = b"other" if boot == os.environ.get("DIFFERS_WITH") else b"upstream"
picture = b"\\x89PNG\\r\\n\\x1a\\n" + struct.pack(">I4s", len(data), b"IDAT") + data + bytes(4)
with open(os.environ["BAKERY_TIMELINE"], "a") as file:
    now = time.monotonic()
    file.write(json.dumps({"name": "model", "began": now, "ended": now}) + "\\n")
print("Applying attention optimization: xformers... done.", flush=True)
memory = {"cuda": {"allocated": {"current": 5, "peak": 7}, "reserved": {"current": 8, "peak": 9}}}

class Handler(BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        drawn = {"images": [base64.b64encode(picture).decode()], "info": "{}"}
        if "txt2img" in self.path and "attention.py" in " ".join(sys.orig_argv):
            with open(os.environ["PROBE_FILE"], "w") as file:
                json.dump({"flshattF@v2": 3}, file)
        body = json.dumps(memory if "memory" in self.path else drawn).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer

    def log_message(self, *args):
        pass

ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
SMI = """#!/bin/sh
case "$1" in
  *name*) echo 'NVIDIA RTX 6000 Ada Generation, 550.54, 8.9, 49140 MiB, 4' ;;
  *) echo 300 ;;
esac
"""


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text(SMI)
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def make_webui(folder: Path) -> Path:
    (folder / "models" / "Stable-diffusion").mkdir(parents=True)
    (folder / "webui.py").write_text(WEBUI)
    return folder


def run_check(
    tmp_path: Path, *arguments: str, **environment: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    checkpoint = tmp_path / "some.safetensors"
    checkpoint.write_bytes(b"weights")
    command = [sys.executable, "-m", "benchmarks.gpu.check", "--rounds", "2"]
    command += ["--webui", str(make_webui(tmp_path / "webui")), "--python", sys.executable]
    command += ["--port", str(free_port()), "--json", str(tmp_path / "record.json")]
    ended = subprocess.run(
        [*command, *arguments, str(checkpoint)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended, json.loads((tmp_path / "record.json").read_text())


@pytest.mark.usefixtures("card")
def test_a_good_card(tmp_path: Path) -> None:
    ended, record = run_check(tmp_path, "--tricks", "gpu,place")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("NVIDIA RTX 6000 Ada Generation, driver 550.54, ")
    rows = [line.split(" | ") for line in lines if line.startswith("| some ")]
    assert [(row[2], row[3]) for row in rows] == [
        (name, "the same") for name in ("plain", "all", "gpu", "place")
    ]
    assert "some: attention was computed by flshattF@v2 (3 calls)" in lines
    assert "proven on this cuda: gpu, place" in lines
    assert record["environment"]["card"]["compute_cap"] == "8.9"
    assert len(record["runs"]) == 8
    first = record["runs"][0]
    assert first["attention"] == "xformers"
    assert first["smi_bytes"] == 0
    assert first["torch_bytes"]["reserved_peak"] == 9
    begun, ended_at = first["phases"]["first picture"]
    assert 0 < begun <= ended_at <= first["first_picture_s"]
    assert first["phases"]["boot"][0] > 0


@pytest.mark.usefixtures("card")
def test_a_trick_that_draws_otherwise_and_one_that_dies(tmp_path: Path) -> None:
    ended, record = run_check(
        tmp_path, "--tricks", "gpu,place,gc", DIFFERS_WITH="place", DIES_WITH="gpu"
    )
    assert ended.returncode == 1, ended.stderr
    rows = [line.split(" | ") for line in ended.stdout.splitlines() if line.startswith("| some ")]
    assert {row[2]: row[3] for row in rows} == {
        "plain": "the same",
        "all": "the same",
        "place": "DIFFERS",
        "gc": "the same",
    }
    assert "it is all over" in record["environment"]["failed"]["some: gpu"]
    assert "proven on this cuda: nothing" in ended.stdout


def test_it_runs_from_its_pieces_without_an_environment(tmp_path: Path) -> None:
    """Another folder, no variable, and of programs only what a bare system has."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    [packages] = (environment / "lib").glob("python*/site-packages")
    (packages / "torch" / "lib").mkdir(parents=True)
    (packages / "torch" / "lib" / "a.so").write_bytes(fatbin((2, 80), (2, 90)))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "version.txt").write_text("1")
    webui = make_webui(tmp_path / "webui")
    (webui / "models" / "Stable-diffusion" / "mine.safetensors").write_bytes(b"mine")
    packed = tmp_path / "packed"
    pack = [ROOT / "benchmarks" / "gpu" / "pack", "--webui", webui, "--hf-home", tmp_path / "hf"]
    pack += ["--python", environment / "bin" / "python", "--card", "8.9", "--out", packed]
    pack += ["--preset", "0", "--piece-mb", "60"]
    subprocess.run(list(map(str, pack)), env={**os.environ, "PYTHON": sys.executable}, check=True)
    assert max(path.stat().st_size for path in packed.iterdir()) <= 60e6
    moved = tmp_path / "moved"
    packed.rename(moved)
    for gone in (environment, webui, tmp_path / "hf"):
        gone.rename(gone.with_name(f"{gone.name}-gone"))
    bare = ["env", "-i", "bash", str(moved / "run")]
    subprocess.run([*bare, "prepare"], check=True)
    unpacked = moved / "unpacked"
    assert not list(unpacked.rglob("mine.safetensors"))
    (unpacked / "made").mkdir()
    (unpacked / "made" / "sd15.safetensors").write_bytes(b"made")  # else by numpy, by a seed
    arguments = ["--device", "cpu", "--rounds", "2", "--tricks", "gc", "--port", str(free_port())]
    ended = subprocess.run([*bare, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "proven on this cpu: gc" in ended.stdout
    record = json.loads((moved / "result.json").read_text())
    assert record["environment"]["card"] is None

    piece = moved / "piece-01"
    piece.write_bytes(piece.read_bytes()[:-1] + b"?")
    (unpacked / "ready").unlink()
    ended = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert ended.returncode == 4
    assert "piece-01: FAILED" in ended.stderr
    assert "missing or damaged: bring them again" in ended.stderr
