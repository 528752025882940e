"""One start of `benchmarks.cold_start`, in a process of its own, as a worker is one.

Its argument is a JSON object of what to start and to ask for; it prints one JSON line of what it saw.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import cold_start_comfyui as comfyui
from runtime.webui.client import WebuiClient, WebuiError
from runtime.webui.process import WebuiProcess


def main() -> int:
    client = json.loads(sys.argv[1])
    start = {"official": start_official, "ours": start_ours, "comfyui": start_comfyui}
    pid, image, stop = start[client["way"]](client)
    ended = time.monotonic()
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    read = "0"
    with contextlib.suppress(OSError):  # not every sandbox has it
        read = Path(f"/proc/{pid}/io").read_text().split("read_bytes: ")[1].split()[0]
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    cpu_s = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    pairs = zip(client["used_bytes"], used_memory(), strict=False)
    seen = stop()
    answer = {
        "first_picture_s": round(ended - client["began"], 3),
        "webui_cpu_s": round(cpu_s, 2),
        "read_bytes": int(read),
        "anonymous_bytes": int(rollup.split("Anonymous:")[1].split()[0]) << 10,
        "picture": hashlib.sha256(image_data(base64.b64decode(image))).hexdigest(),
        "smi_bytes": max((after - before for before, after in pairs), default=None),
        **seen,
    }
    print(json.dumps(answer), flush=True)
    return 0


def start_official(client: dict[str, Any]) -> tuple[int, str, Any]:
    return start_beside(client, draw_as_official)


def start_comfyui(client: dict[str, Any]) -> tuple[int, str, Any]:
    def draw(client: dict[str, Any], server: subprocess.Popen[bytes]) -> str:
        import_sdk()
        image = comfyui.draw(client["port"], client["payload"], lambda: server.poll() is None)
        return base64.b64encode(image).decode()

    return start_beside(client, draw)


def start_beside(
    client: dict[str, Any], draw: Callable[[dict[str, Any], subprocess.Popen[bytes]], str]
) -> tuple[int, str, Any]:
    """Starts the server as a start script does, and asks it for a picture meanwhile."""
    with Path(client["log"]).open("wb") as log:
        webui = subprocess.Popen(
            client["command"],
            cwd=client["cwd"],
            env={**os.environ, "PYTHONUNBUFFERED": "true"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        image = draw(client, webui)
    except BaseException:
        os.killpg(webui.pid, signal.SIGKILL)
        raise

    def stop() -> dict[str, Any]:
        os.killpg(webui.pid, signal.SIGKILL)
        webui.wait()
        return {}

    return webui.pid, image, stop


def draw_as_official(client: dict[str, Any], webui: subprocess.Popen[bytes]) -> str:
    """As src/handler.py waits and asks."""
    import_sdk()
    import requests  # noqa: PLC0415

    url = f"http://127.0.0.1:{client['port']}/sdapi/v1"
    while True:
        with contextlib.suppress(requests.exceptions.RequestException):
            requests.get(f"{url}/sd-models", timeout=120)
            break
        if webui.poll() is not None:
            raise SystemExit(1)
        time.sleep(0.2)
    answer = requests.post(f"{url}/txt2img", json=client["payload"], timeout=600)
    image: str = answer.json()["images"][0]
    return image


def start_ours(client: dict[str, Any]) -> tuple[int, str, Any]:
    began = client["began"]
    webui = WebuiProcess(
        client["command"],
        cwd=client["cwd"],
        port=client["port"],
        environment=os.environ,
        log_file=Path(client["log"]),
    )
    webui.start()
    try:
        import_sdk()
        webui.wait_until_loaded(client["start_timeout_s"])
        loaded = time.monotonic()
        answer = WebuiClient(client["port"]).draw(client["payload"], timeout_s=600)
        drawn = time.monotonic()
    except BaseException:
        webui.stop(0.0)
        raise

    def stop() -> dict[str, Any]:
        phases = {each["name"]: (each["began"], each["ended"]) for each in webui.timeline()}
        phases.pop("jobs", None)  # that the hooks are in place; it has no time
        phases.update({"until loaded": (began, loaded), "first picture": (loaded, drawn)})
        seen = {
            "phases": {
                name: [round(at - began, 3) for at in each] for name, each in phases.items()
            },
            "attention": attention_of(webui.last_lines(200)),
            "torch_bytes": torch_memory(webui.client),
        }
        webui.stop(60.0 if client["record"] else 0.0)
        return seen

    return child_of(os.getpid()), answer["images"][0], stop


def attention_of(lines: list[str]) -> str:
    """The webui's last word on what it applied to attention; empty where it said none."""
    said = ""
    for line in lines:
        if found := re.search(r"Applying attention optimization: (.+?)\.\.\.", line):
            said = found[1]
        elif "Disabling attention optimization" in line:
            said = "none"
    return said


def torch_memory(webui: WebuiClient) -> dict[str, int]:
    """Bytes of the card by torch's allocator; empty on a CPU."""
    try:
        cuda = webui.get("memory").get("cuda", {})
    except WebuiError:  # a webui without this
        return {}
    return {
        name if when == "current" else f"{name}_{when}": int(cuda[name][when])
        for name in ("allocated", "reserved")
        for when in ("current", "peak")
        if name in cuda
    }


def used_memory() -> list[int]:
    """Bytes that are used on each card, whoever uses them; empty where there is no nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return [int(line) << 20 for line in done.stdout.splitlines()]
    return []


def child_of(parent: int) -> int:
    """The process that this one started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    assert len(children) == 1, children
    return int(children[0])


def import_sdk() -> None:
    with contextlib.suppress(ImportError):
        import runpod  # noqa: F401, PLC0415


def image_data(png: bytes) -> bytes:
    """The IDAT chunks: the infotext may name a hash that upstream leaves out."""
    parts, at = [], 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        if kind == b"IDAT":
            parts.append(png[at + 8 : at + 8 + length])
        at += 12 + length
    return b"".join(parts)


if __name__ == "__main__":
    sys.exit(main())
