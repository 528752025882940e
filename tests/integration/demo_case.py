"""The stand-in webui as a process, for the tests that talk to it over HTTP."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "demo" / "weights"
PROMPT = "a red circle on a white background"
QUICK = {"prompt": PROMPT, "seed": 1, "steps": 2, "width": 64, "height": 64}


class Webui:
    """A running stand-in; ended with its test."""

    def __init__(self, data: Path, *arguments: str, faults: str = "", **environment: str) -> None:
        self.port = free_port()
        self.data = data
        self.log = data / "log"
        data.mkdir(exist_ok=True)
        command = [sys.executable, str(ROOT / "demo/webui/launch.py"), "--api", "--nowebui"]
        command += ["--port", str(self.port), "--data-dir", str(data), *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=data,
            env={**os.environ, "DEMO_FAULT": faults, **environment},
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
        )

    def wait(self, *, timeout_s: float = 120) -> "Webui":
        wait_until(lambda: self.answers() or self.process.poll() is not None, timeout_s=timeout_s)
        assert self.process.poll() is None, self.log.read_text()
        return self

    def answers(self) -> bool:
        try:
            return bool(self.call("GET", "/sdapi/v1/sd-models")[0] == 200)
        except OSError:
            return False

    def call(self, method: str, path: str, body: Any = None, *, timeout_s: float = 300) -> Any:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=data, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def draw(self, **request: Any) -> Any:
        return self.call("POST", "/sdapi/v1/txt2img", {**QUICK, **request})

    def infotext(self, **request: Any) -> str:
        status, answer = self.draw(**request)
        assert status == 200, answer
        return str(json.loads(answer["info"])["infotexts"][0])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def wait_until(condition: Callable[[], object], *, timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


Start = Callable[..., Webui]


@contextmanager
def starting(folder: Path) -> Iterator[Start]:
    """Starts webuis with the demo's weights, each with a data folder of its own unless `data` names one."""
    running = []

    def run(*arguments: str, data: str = "data", **how: str) -> Webui:
        own = folder / data
        models = own / "models"
        if not models.exists():
            for source, target in (("shapes", "Stable-diffusion"), ("outline", "Lora")):
                (models / target).mkdir(parents=True)
                shutil.copy2(WEIGHTS / f"{source}.safetensors", models / target)
        ckpt = str(models / "Stable-diffusion" / "shapes.safetensors")
        running.append(Webui(own, "--ckpt", ckpt, *arguments, **how))
        return running[-1]

    try:
        yield run
    finally:
        for each in running:
            each.stop()
