"""A webui in memory: what the handler's tests need of its process and its client, under their control."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from runtime.webui.client import WebuiAnswerError, WebuiError, WebuiUnreachableError
from runtime.webui.process import WebuiProcessError

_TAG = re.compile(r"<lora:([^:>]+)")
PNG = b"\x89PNG\r\n\x1a\n"


class FakeWebui:
    """Stands for `WebuiProcess` and its client at once.

    `script` holds what happens in each drawing, in order: an exception to raise, a function to
    call with the payload, or a dict of changes to the answer's info. After its end every call succeeds.
    As the real one under boot it says how many layers of each LoRA were applied; `counts` in a dict
    changes that by the LoRA's name, and `"bakery": None` makes it a webui that boot does not know. `failures`
    are scripts that failed, `maps` the pictures that scripts add.
    """

    def __init__(self, *script: Any) -> None:
        self.client = self
        self.script = list(script)
        self.payloads: list[dict[str, Any]] = []
        self.endpoints: list[str] = []
        self.exit_code: int | None = None
        self.settings: list[dict[str, Any]] = []
        self.starts = 1
        self.stops = 0
        self.interrupts = 0
        self.interrupts_answered = 0
        self.interrupt_takes_s = 0.0
        self.interrupted = threading.Event()
        self.asked = threading.Event()
        """Set by each question for the progress."""
        self.state: dict[str, Any] = {
            "job": "scripts_txt2img", "job_no": 0, "sampling_step": 0, "sampling_steps": 20,
        }  # fmt: skip
        self.preview: str | None = None
        self.fails_to_start = False
        self.missing_models = 0
        self.has_unread_output = False
        self.answers_progress = True
        self.heeds_interrupts = True

    is_plain = True

    def start(self, *, plain: bool = False) -> None:
        self.starts += 1
        self.exit_code = None

    def stop(self, _grace_s: float = 5.0) -> None:
        self.stops += 1
        self.exit_code = -9
        self.interrupted.set()

    def wait_until_loaded(self, _deadline_s: float) -> None:
        if self.fails_to_start:
            raise WebuiProcessError("the webui exited with code 1", ["last words"])

    def last_lines(self, _count: int = 30) -> list[str]:
        return ["/webui/secret/path.py: last words"]

    def get(self, name: str) -> list[dict[str, Any]]:
        offered: dict[str, list[dict[str, Any]]] = {
            "samplers": [{"name": "Euler"}, {"name": "DPM++ 2M"}],
            "schedulers": [{"name": "karras", "label": "Karras"}],
            "upscalers": [{"name": "None"}, {"name": "Lanczos"}],
            "latent-upscale-modes": [{"name": "Latent"}],
            "prompt-styles": [],
            "script-info": [
                {"name": "tint", "is_alwayson": True, "is_img2img": False, "args": [{}, {}, {}]},
                {"name": "tint", "is_alwayson": True, "is_img2img": True, "args": [{}, {}]},
                {"name": "x/y/z plot", "is_alwayson": False, "is_img2img": False, "args": [{}]},
            ],
        }
        return offered[name]

    def options(self) -> dict[str, Any]:
        return {
            "live_previews_enable": True,
            "CLIP_stop_at_last_layers": 1,
            "samples_format": "png",
            "samples_save": True,
            "enable_prompt_comments": True,
        }

    def call(self, method: str, path: str, payload: Any) -> None:
        assert (method, path) == ("POST", "/sdapi/v1/options")
        self.settings.append(dict(payload))

    def progress(self, *, with_picture: bool = False) -> dict[str, Any]:
        self.asked.set()
        if not self.answers_progress:
            raise WebuiUnreachableError("no answer")
        shown = {"current_image": self.preview} if with_picture else {}
        return {"progress": 0.5, "eta_relative": 1.25, "state": dict(self.state), **shown}

    def interrupt(self, *, timeout_s: float = 1.0) -> None:
        self.interrupts += 1
        if self.heeds_interrupts:
            self.interrupted.set()
        time.sleep(self.interrupt_takes_s)
        self.interrupts_answered += 1

    def draw(
        self, payload: Mapping[str, Any], *, endpoint: str = "txt2img", timeout_s: float
    ) -> dict[str, Any]:
        self.endpoints.append(endpoint)
        self.payloads.append(dict(payload))
        self.interrupted.clear()
        step = self.script.pop(0) if self.script else {}
        if isinstance(step, WebuiError):
            raise step
        changes = (step(payload) if callable(step) else step) or {}
        if endpoint == "extra-single-image":
            image = base64.b64encode(changes.get("image", PNG)).decode()
            return {"images": [image], "html_info": "<p>Postprocess upscale by: 2</p>"}
        return make_answer(payload, changes)

    def dies(self, *, drawing: bool = False) -> Callable[[Mapping[str, Any]], None]:
        """A step in which the process ends, after it began to draw or before."""

        def step(_payload: Mapping[str, Any]) -> None:
            if drawing:
                self.state["sampling_step"] = 3
                # The second question comes after the first one's answer was taken note of.
                for _ in range(2):
                    self.asked.clear()
                    assert self.asked.wait(60)
            self.exit_code = -9
            raise WebuiUnreachableError("the connection broke")

        return step

    def draws_until_interrupted(self, _payload: Mapping[str, Any]) -> None:
        self.interrupted.wait(120)
        if self.exit_code is not None:
            raise WebuiUnreachableError("the connection broke")


def make_answer(payload: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    count = payload.get("batch_size", 1) * payload.get("n_iter", 1)
    seed = payload.get("seed", 7)
    overrides = payload.get("override_settings", {})
    passes = [payload.get("prompt", "")]
    if payload.get("enable_hr"):
        passes.append(payload.get("hr_prompt") or passes[0])
    tags = [_TAG.findall(prompt) for prompt in passes]
    # The webui's own list is that of the last pass, and has whatever it could load.
    listed = {"Lora hashes": ", ".join(f"{name}: abc" for name in tags[-1])} if tags[-1] else {}
    if "mask" in payload:
        listed["Inpaint area"] = "Only masked"
    applied = {"layers": 10, "matched": 10, "applied": 10, "failed": 0, "has_effect": True}
    counts = changes.get("counts", {})
    names = dict.fromkeys(name for each in tags for name in each)
    shows_comments = overrides.get("enable_prompt_comments", True) is False
    prompt = str(payload.get("prompt", ""))
    info = {
        "prompt": prompt if shows_comments else prompt.split("#", maxsplit=1)[0],
        "all_seeds": [seed + number for number in range(count)],
        "infotexts": [f"picture {number}" for number in range(count)],
        "sd_model_name": overrides.get("sd_model_checkpoint", "base"),
        "extra_generation_params": listed,
        "bakery": {
            "loras": [{"name": name, **applied, **counts.get(name, {})} for name in names],
            "scripts": changes.get("failures", []),
            "interrupted": False,
        },
        **{key: changes[key] for key in changes if key not in ("counts", "failures", "maps")},
    }
    images = [base64.b64encode(PNG + bytes(100)).decode()] * count
    images += [base64.b64encode(PNG + bytes(50)).decode()] * changes.get("maps", 0)
    return {"images": images, "parameters": dict(payload), "info": json.dumps(info)}


def out_of_memory(_payload: Mapping[str, Any] | None = None) -> WebuiAnswerError:
    detail = "CUDA out of memory. Tried to allocate 4.50 GiB in /webui/modules/x.py"
    return WebuiAnswerError(status=500, kind="OutOfMemoryError", detail=detail)
