"""A worker as a process: the runtime in one of its environments, with the demo's webui on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from runtime.worker import Webui, Weights, Worker
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "demo" / "weights"
Sdk = Literal["runtime", "runtime-latest"]
SDKS: tuple[Sdk, ...] = ("runtime", "runtime-latest")
SMALL = {"prompt": "a red circle", "steps": 4, "width": 64, "height": 64, "seed": 1}


_PUT_THERE = {
    "lora": "models/Lora/*",
    "upscaler": "models/*ESRGAN/*.pth",
    "face_restorer": "models/[CG]*/*.pth",
    "embedding": "embeddings/*.safetensors",
}
"""What a test may have put there, by its role."""
_NAMES = {"RealESRGAN_x4plus": "R-ESRGAN 4x+", "codeformer-v0.1.0": "CodeFormer"}


def make_worker(folder: Path) -> Worker:
    """The demo as it lies in an image, in a folder of its own."""
    models = folder / "models"
    weights = []
    for role, kind, name, file in (
        ("checkpoint", "Stable-diffusion", "shapes", "shapes"),
        ("checkpoint", "Stable-diffusion", "second", "shapes"),
        ("lora", "Lora", "outline", "outline"),
    ):
        path = models / kind / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(WEIGHTS / f"{file}.safetensors", path)
        weights.append(
            Weights(role=role, name=name, path=str(path), sha256="0" * 64, size_bytes=1)  # type: ignore[arg-type]
        )
    for role, pattern in _PUT_THERE.items():
        for extra in sorted(set(folder.glob(pattern)) - {models / "Lora/outline.safetensors"}):
            name = _NAMES.get(extra.stem, extra.stem)
            about = Weights(role=role, name=name, path=str(extra), sha256="2" * 64, size_bytes=1)  # type: ignore[arg-type]
            weights.append(about)
    ghost = str(models / "Lora" / "ghost.safetensors")
    # Said to be baked, but not there: what the webui draws without.
    weights.append(Weights(role="lora", name="ghost", path=ghost, sha256="1" * 64, size_bytes=1))
    port = free_port()
    webui = Webui(
        name="demo",
        version="v1.9.3-demo",
        revision="demo",
        directory=str(folder),
        python=sys.executable,
        script=str(ROOT / "demo/webui/launch.py"),
        args=("--api", "--nowebui", "--port", str(port), "--data-dir", str(folder)),
        port=port,
        lora_dir=str(models / "Lora"),
        models_dir=str(models),
        embedding_dir=str(folder / "embeddings"),
        config_file=str(folder / "config.json"),
    )
    return Worker(name="demo", family="demo", webui=webui, weights=tuple(weights))


class RunningWorker:
    """One worker process; its log is `log`, one line each."""

    def __init__(self, sdk: Sdk, folder: Path, *arguments: str, **environment: str) -> None:
        python = ROOT / f".venv-{sdk}" / "bin" / "python"
        assert python.exists(), "the worker's environments are missing: make runtime-venvs"
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.worker = make_worker(folder)
        (folder / "worker.json").write_text(self.worker.to_json())
        self._log = folder / "log"
        ours = {key: value for key, value in os.environ.items() if not key.startswith("RUNPOD_")}
        self._process = subprocess.Popen(
            [python, "-m", "runtime", *arguments],
            cwd=folder,
            env={
                **ours,
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                "BAKERY_WORKER_FILE": str(folder / "worker.json"),
                "BAKERY_TIMELINE": str(folder / "timeline"),
                "BAKERY_WEBUI_LOG": str(folder / "webui.log"),
                "BAKERY_LORA_CACHE": str(folder / "cache"),
                "BAKERY_RETRY_WAIT_S": "0.05",
                "BAKERY_DEVICE": "cpu",
                # Upstream's own start: the demo has nothing that a trick would speed up.
                "BAKERY_BOOT": "plain",
                **environment,
            },
            stdout=self._log.open("w"),
            stderr=subprocess.STDOUT,
        )

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def entries(self, **fields: Any) -> list[dict[str, Any]]:
        """Our own lines of the log with these fields."""
        found = []
        for line in self.log.splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and fields.items() <= entry.items():
                    found.append(entry)
        return found

    def wait_for_log(self, text: str, timeout_s: float = 120) -> None:
        end = time.monotonic() + timeout_s
        while True:
            has_ended = (
                self.exit_code is not None
            )  # before the log, which may get its last line meanwhile
            if text in self.log:
                return
            assert not has_ended, self.log
            assert time.monotonic() < end, f"{text!r} did not come: {self.log}"
            time.sleep(0.05)

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, timeout_s: float = 120) -> int:
        """The exit code."""
        return self._process.wait(timeout_s)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(60)

    def webui_pid(self) -> int:
        """The webui's process: our child's only child that runs the demo."""
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parent = int(status.read_text().rpartition(")")[2].split()[1])
                command = (status.parent / "cmdline").read_bytes()
                if parent == self._process.pid and b"demo/webui/launch.py" in command:
                    return int(status.parent.name)
        raise AssertionError(f"no webui: {self.log}")

    def stop(self) -> None:
        """Ends it whatever state it is in, its webui too."""
        with contextlib.suppress(AssertionError, ProcessLookupError):
            webui = self.webui_pid()
            if self.exit_code is None:
                self.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.wait(30)
            os.kill(webui, signal.SIGKILL)
        self.kill()


@contextlib.contextmanager
def running(sdk: Sdk, folder: Path, *arguments: str, **environment: str) -> Iterator[RunningWorker]:
    worker = RunningWorker(sdk, folder, *arguments, **environment)
    try:
        yield worker
    finally:
        worker.stop()


class LocalApi:
    """The SDK's own API (`--rp_serve_api`), as a developer uses it."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def wait_until_up(self, worker: RunningWorker, timeout_s: float = 120) -> None:
        worker.wait_for_log("Uvicorn running", timeout_s)

    def post(self, body: bytes) -> tuple[int, Any]:
        """Status and JSON of POST /runsync."""
        request = urllib.request.Request(
            f"{self._url}/runsync", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def run(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """The output of a job that must succeed."""
        status, answer = self.post(json.dumps({"input": value}).encode())
        assert status == 200, answer
        assert answer["status"] == "COMPLETED", answer
        output: dict[str, Any] = answer["output"]
        return output

    def fail(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """The error of a job that must fail."""
        status, answer = self.post(json.dumps({"input": value}).encode())
        assert status == 200, answer
        assert answer["status"] == "FAILED", answer
        error: dict[str, Any] = json.loads(answer["error"])
        return error
