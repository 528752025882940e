"""A worker and a webui's names, as the runtime's tests need them."""

from __future__ import annotations

from typing import Any

from runtime.job.fields import LIMITS
from runtime.job.names import Names
from runtime.worker import Webui, Weights, Worker

NAMES = Names(
    samplers=(
        "DPM++ 2M",
        "DPM++ 2M SDE",
        "DPM++ SDE",
        "Euler a",
        "Euler",
        "LMS",
        "DPM2 a",
        "DDIM",
        "UniPC",
    ),
    schedulers={
        text: label
        for name, label in {
            "automatic": "Automatic",
            "uniform": "Uniform",
            "karras": "Karras",
            "exponential": "Exponential",
            "polyexponential": "Polyexponential",
            "sgm_uniform": "SGM Uniform",
        }.items()
        for text in (name, label)
    },
    upscalers=("Latent", "Latent (nearest)", "None", "Lanczos", "R-ESRGAN 4x+"),
    latent_modes=("Latent", "Latent (nearest)"),
    styles={"cinematic": ("{prompt}, film still", "cartoon")},
    has_comments=True,
)
DEFAULT_LIMITS = {name: default for name, (default, _) in LIMITS.items()}


def make_weights(role: Any, name: str, *, digit: str = "a") -> Weights:
    path = f"/webui/{role}/{name}.safetensors"
    return Weights(role=role, name=name, path=path, sha256=digit * 64, size_bytes=1)


def make_worker(**changes: Any) -> Worker:
    webui = Webui(
        name="webui",
        version="1.9.3",
        revision="0" * 40,
        directory="/webui",
        python="/webui/python",
        script="/webui/launch.py",
        port=3000,
        lora_dir="/webui/lora",
        embedding_dir="/webui/embedding",
    )
    values: dict[str, Any] = {
        "name": "sample",
        "family": "demo",
        "webui": webui,
        "weights": (
            make_weights("checkpoint", "base"),
            make_weights("checkpoint", "second", digit="b"),
            make_weights("vae", "soft", digit="c"),
            make_weights("lora", "detail", digit="d"),
            make_weights("lora", "blue-pencil", digit="e"),
            make_weights("face_restorer", "CodeFormer", digit="1"),
            make_weights("embedding", "EasyNegative", digit="2"),
            make_weights("hypernetwork", "style", digit="3"),
        ),
        "lock_sha256": "f" * 64,
    }
    return Worker(**{**values, **changes})
