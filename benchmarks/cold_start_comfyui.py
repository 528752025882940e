"""ComfyUI's start as RunPod's worker-comfyui makes it, for `benchmarks.cold_start --comfyui`.

Its src/start.sh starts `main.py --disable-auto-launch --disable-metadata --verbose DEBUG --log-stdout` and then
handler.py, which asks for `/` every 50 ms until the server answers, posts the workflow to `/prompt` and fetches the picture when it is done. Here `/history` is asked every 10 ms for that, where the handler listens to a websocket.
`--cpu` is added, as the webui gets its flags for the CPU.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

FLAGS = ["--disable-auto-launch", "--disable-metadata", "--verbose=DEBUG", "--log-stdout"]
CPU_FLAGS = ["--cpu"]
_ASKED_FOR_EVERY_S = 0.05
_DONE_ASKED_EVERY_S = 0.01


def command(main: Sequence[str], port: int, folder: Path, checkpoint: Path) -> list[str]:
    """The command line that starts it; writes the list of model folders, which names the checkpoint's, to `folder`.

    Args:
        main: Interpreter and script.
        port: To listen on.
        folder: For the list, and for what it writes.
        checkpoint: A safetensors file.
    """
    models = folder / "extra_model_paths.json"  # JSON is YAML
    models.write_text(json.dumps({"benchmark": {"checkpoints": str(checkpoint.parent)}}))
    own = {name: folder / "comfyui" / name for name in ("output", "temp", "user")}
    for path in own.values():
        path.mkdir(parents=True, exist_ok=True)
    places = [f"--port={port}", f"--extra-model-paths-config={models}"]
    places += [f"--{name}-directory={path}" for name, path in own.items()]
    places += [f"--database-url=sqlite:///{own['user'] / 'comfyui.db'}"]
    return [*main, *FLAGS, *CPU_FLAGS, *places]


def workflow(payload: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    """The picture that `payload` asks the webui for, as nodes.

    Args:
        payload: `prompt`, `width`, `height`, `steps`, `cfg_scale` and `seed` of a `/sdapi/v1/txt2img`; Euler.
        checkpoint: The file's name.
    """
    sampler = {
        "model": ["checkpoint", 0],
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "latent_image": ["latent", 0],
        "seed": payload["seed"],
        "steps": payload["steps"],
        "cfg": payload["cfg_scale"],
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    size = {"width": payload["width"], "height": payload["height"], "batch_size": 1}
    nodes = {
        "checkpoint": ("CheckpointLoaderSimple", {"ckpt_name": checkpoint}),
        "positive": ("CLIPTextEncode", {"clip": ["checkpoint", 1], "text": payload["prompt"]}),
        "negative": ("CLIPTextEncode", {"clip": ["checkpoint", 1], "text": ""}),
        "latent": ("EmptyLatentImage", size),
        "sampler": ("KSampler", sampler),
        "decode": ("VAEDecode", {"samples": ["sampler", 0], "vae": ["checkpoint", 2]}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "benchmark"}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def draw(port: int, nodes: Mapping[str, Any], is_running: Callable[[], bool]) -> bytes:
    """Waits for the server as the handler does, has it draw, and fetches the picture (a PNG's bytes).

    Raises:
        SystemExit: It ended, or could not draw; says how.
    """
    url = f"http://127.0.0.1:{port}"
    while True:
        try:
            _get(f"{url}/")
            break
        except urllib.error.URLError:
            if not is_running():
                raise SystemExit("ComfyUI ended before it answered") from None
            time.sleep(_ASKED_FOR_EVERY_S)
    body = json.dumps({"prompt": nodes, "client_id": "benchmark"}).encode()
    asked = urllib.request.Request(
        f"{url}/prompt", data=body, headers={"Content-Type": "application/json"}
    )
    number = json.loads(_get(asked))["prompt_id"]
    while not (done := json.loads(_get(f"{url}/history/{number}")).get(number)):
        if not is_running():
            raise SystemExit("ComfyUI ended while it drew")
        time.sleep(_DONE_ASKED_EVERY_S)
    if done["status"]["status_str"] != "success":
        raise SystemExit(f"ComfyUI did not draw: {done['status']['messages'][-1]}")
    image = done["outputs"]["save"]["images"][0]
    return _get(f"{url}/view?{urllib.parse.urlencode(image)}")


def _get(what: str | urllib.request.Request) -> bytes:
    with urllib.request.urlopen(what, timeout=600) as answer:
        content: bytes = answer.read()
    return content
