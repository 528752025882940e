"""The two sides of the check: a webui that has just started, and the worker over one that has a history."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from runtime.worker import Webui, Weights, Worker
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = Path(__file__).with_name("launch.py")
START_S = 300.0
CONFIG = {"live_previews_enable": False, "samples_save": False}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where everything is."""

    webui: Path
    """The folder of the webui's webui.py."""
    python: Path
    """Its interpreter."""
    hf_home: Path
    folder: Path
    """Of this run: checkpoints in `models/`, LoRAs in `loras/`, what is around them in `around/`, logs."""

    def environment(self, name: str) -> dict[str, str]:
        """Offline, one thread (sums depend on their number), and nothing of RunPod's."""
        ours = {key: value for key, value in os.environ.items() if not key.startswith("RUNPOD_")}
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GIT_PYTHON_REFRESH": "quiet"}
        mine = {
            "HF_HOME": str(self.hf_home),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "MPLCONFIGDIR": str(self.folder / "matplotlib"),
            "GRADIO_ANALYTICS_ENABLED": "False",
            "PYTHONDONTWRITEBYTECODE": "1",
            "BAKERY_TIMELINE": str(self.folder / name / "timeline"),
        }
        return {**ours, **quiet, **mine}

    def data(self, name: str) -> Path:
        """A data folder of one webui's own, with the least configuration."""
        folder = self.folder / name
        (folder / "models").mkdir(parents=True, exist_ok=True)
        around = self.folder / "around"
        # Of the webui its own small models for previews, if it has any.
        own = [self.webui / "models" / each for each in ("VAE-approx", "karlo")]
        for target in (*own, *around.glob("models/*")):
            link = folder / "models" / target.name
            if target.exists() and not link.exists():
                link.symlink_to(target)
        (folder / "embeddings").mkdir(exist_ok=True)
        for target in around.glob("embeddings/*"):
            (folder / "embeddings" / target.name).unlink(missing_ok=True)
            shutil.copy(target, folder / "embeddings")
        (folder / "config.json").write_text(json.dumps(CONFIG))
        return folder

    def arguments(self, name: str, port: int) -> list[str]:
        models = self.folder / "models"
        return [
            *("--api", "--nowebui", "--server-name", "127.0.0.1", "--port", str(port)),
            "--skip-python-version-check",
            *("--skip-version-check", "--skip-install", "--no-download-sd-model"),
            *("--no-prompt-history", "--skip-torch-cuda-test", "--data-dir", str(self.data(name))),
            *("--ckpt-dir", str(models), "--lora-dir", str(self.folder / "loras")),
            *("--vae-dir", str(self.folder / "vaes"), "--opt-sdp-no-mem-attention"),
            *("--disable-console-progressbars",),
        ]

    @property
    def open_clip(self) -> str:
        return str(self.folder / "models" / "open-clip")


_AROUND = {
    "upscaler": "models/[ERS]*/*.pth",
    "face_restorer": "models/[CG]*/*.pth",
    "embedding": "embeddings/*.safetensors",
    "hypernetwork": "models/hypernetworks/*.pt",
}
_NAMES = {
    "RealESRGAN_x4plus": "R-ESRGAN 4x+",
    "codeformer-v0.1.0": "CodeFormer",
    "GFPGANv1.4": "GFPGAN",
}
"""What requests call them (`bake.manifest.roles`)."""
CPU = ("--use-cpu", "all", "--no-half", "--precision", "full")


class FreshWebui:
    """Each request to a webui that has drawn nothing, by its own API. Upstream's own start."""

    def __init__(self, bench: Bench, checkpoint: str) -> None:
        self._bench = bench
        name = f"fresh-{checkpoint}"
        self._data = bench.folder / name
        self._socket = bench.folder / f"{name}.sock"
        self._socket.unlink(missing_ok=True)
        arguments = [*bench.arguments(name, free_port()), *CPU]
        model = bench.folder / "models" / f"{checkpoint}.safetensors"
        command = [str(bench.python), str(LAUNCH), bench.open_clip, str(self._socket)]
        self._process = subprocess.Popen(
            [*command, str(bench.webui / "webui.py"), *arguments, "--ckpt", str(model)],
            cwd=bench.webui,
            env=bench.environment(name),
            stdout=(bench.folder / f"{name}.log").open("w"),
            stderr=subprocess.STDOUT,
        )
        self._known: dict[str, tuple[int, dict[str, Any]]] = {}

    def wait(self) -> None:
        end = time.monotonic() + START_S
        while not self._socket.exists():
            assert self._process.poll() is None, "the fresh webui ended; see its log"
            assert time.monotonic() < end, "the fresh webui did not start"
            time.sleep(0.2)

    def draw(
        self,
        payload: Mapping[str, Any],
        endpoint: str = "txt2img",
        *,
        embedding: Path | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Status and body of the API's answer; the same request is asked once.

        Args:
            payload: Its fields.
            endpoint: Of the API.
            embedding: A file that is among the webui's embeddings meanwhile.
        """
        if embedding is not None:
            copy = self._data / "embeddings" / embedding.name
            shutil.copy(embedding, copy)
            try:
                return self.draw({**payload, "bakery_embedding": embedding.name}, endpoint)
            finally:
                copy.unlink()
        key = json.dumps({"endpoint": endpoint, "payload": payload}, sort_keys=True)
        if key not in self._known:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(START_S)
                connection.connect(str(self._socket))
                with connection.makefile("rwb") as stream:
                    stream.write(key.encode() + b"\n")
                    stream.flush()
                    answer = json.loads(stream.readline())
            self._known[key] = answer["status"], answer["body"]
        return self._known[key]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(60)


class WorkerOverWebui:
    """The worker as a process, jobs by the SDK's local API."""

    def __init__(self, bench: Bench, checkpoints: Sequence[str], **environment: str) -> None:
        self._bench = bench
        folder = bench.folder / "worker"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        self._port = free_port()
        worker = _worker(bench, checkpoints)
        (folder / "worker.json").write_text(worker.to_json())
        python = ROOT / ".venv-runtime" / "bin" / "python"
        assert python.exists(), "the worker's environment is missing: make runtime-venvs"
        serve = ("--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(self._port))
        self._process = subprocess.Popen(
            [str(python), "-m", "runtime", *serve],
            cwd=folder,
            env={
                **bench.environment("worker"),
                "PYTHONPATH": str(ROOT),
                "BAKERY_WORKER_FILE": str(folder / "worker.json"),
                "BAKERY_WEBUI_LOG": str(folder / "webui.log"),
                "BAKERY_LORA_CACHE": str(folder / "cache"),
                "BAKERY_DEVICE": "cpu",
                "BAKERY_WEBUI_RESTARTS": "9",
                "BAKERY_HANG_TIMEOUT_S": "300",
                "BAKERY_MAX_RESPONSE_MB": "100",
                **environment,
            },
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> None:
        end = time.monotonic() + START_S
        while "Uvicorn running" not in self.log.read_text(errors="replace"):
            assert self._process.poll() is None, f"the worker ended: {self.log}"
            assert time.monotonic() < end, "the worker did not start"
            time.sleep(0.2)

    def run(self, value: Any, timeout_s: float = START_S) -> dict[str, Any]:
        """The job's output, or `{"error": …}`."""
        request = urllib.request.Request(  # loopback
            f"http://127.0.0.1:{self._port}/runsync",
            json.dumps({"input": value}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            return {
                "error": json.dumps({"code": str(error.code), "message": error.read(500).decode()})
            }
        result: dict[str, Any] = answer.get("output") or {}
        return {"error": answer["error"]} if "error" in answer else result

    def kill_webui(self) -> None:
        """As the kernel does for memory."""
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parent = int(status.read_text().rpartition(")")[2].split()[1])
                if (
                    parent == self._process.pid
                    and b"webui.py" in (status.parent / "cmdline").read_bytes()
                ):
                    os.kill(int(status.parent.name), signal.SIGKILL)

    def stop(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        self._process.kill()


def _worker(bench: Bench, checkpoints: Sequence[str]) -> Worker:
    port = free_port()
    paths = [
        ("checkpoint", bench.folder / "models" / f"{name}.safetensors") for name in checkpoints
    ]
    paths += [("lora", path) for path in sorted((bench.folder / "loras").glob("*.safetensors"))]
    data = bench.data("worker")
    for role, pattern in _AROUND.items():
        paths += [(role, path) for path in sorted(data.glob(pattern))]
    weights = [
        Weights(
            role=role,  # type: ignore[arg-type]
            name=_NAMES.get(path.stem, path.stem),
            path=str(path),
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            size_bytes=path.stat().st_size,
        )
        for role, path in paths
    ]
    webui = Webui(
        name="stable-diffusion-webui",
        version="1.9.3",
        revision="0" * 40,
        directory=str(bench.webui),
        python=str(bench.python),
        script=str(LAUNCH),
        args=(
            bench.open_clip,
            "-",
            str(bench.webui / "webui.py"),
            *bench.arguments("worker", port),
        ),
        args_cpu=CPU,
        port=port,
        lora_dir=str(bench.folder / "loras"),
        models_dir=str(data / "models"),
        embedding_dir=str(data / "embeddings"),
        config_file=str(bench.folder / "worker" / "config.json"),
    )
    worker = Worker(name="check", family="sd1", webui=webui, weights=tuple(weights))
    return dataclasses.replace(worker, limits={"loras": 8, "steps": 150})


def pixels(images: Sequence[str]) -> list[str]:
    """A short hash of each picture's pixels: its PNG holds the prompt as well."""
    found = []
    for text in images:
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            data = f"{picture.size}".encode() + picture.convert("RGB").tobytes()
        found.append(hashlib.sha256(data).hexdigest()[:12])
    return found


if sys.version_info < (3, 11):  # pragma: no cover
    raise SystemExit("the check runs in the project's environment, not in the webui's")
