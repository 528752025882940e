"""What an image knows of itself: `/opt/bakery/worker.json`, written by `bake`, read by the runtime.

Only the standard library is imported here: `bake`, the runtime and the warm-up all load this file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

HOME = "/opt/bakery"
"""The bakery's own folder in an image: `runtime/`, `venv/`, `worker.json`, `harvest/`."""

WORKER_FILE = f"{HOME}/worker.json"
CONTRACT_VERSION = 1
WEIGHTS_MTIME = 1704067200
"""Seconds since the epoch (2024-01-01) that every baked file bears; the webui's hash cache compares it."""

Device = Literal["cuda", "cpu"]
Role = Literal[
    "checkpoint", "vae", "lora", "config",
    "upscaler", "face_restorer", "embedding", "hypernetwork", "vae_approx", "extension_model",
]  # fmt: skip
"""A config lies beside its checkpoint under the same name (`.yaml`), where the webui looks for it."""


@dataclass(frozen=True, kw_only=True)
class Webui:
    """The base contract: how this base's webui is started and where it looks (see `bake.image.build.contract`)."""

    name: str
    version: str
    revision: str
    directory: str
    """Working directory of the webui."""
    python: str
    """The webui's own interpreter."""
    script: str
    """The script that starts it, absolute."""
    args: Sequence[str] = ()
    """Arguments on every device; includes the port."""
    args_cuda: Sequence[str] = ()
    args_cpu: Sequence[str] = ()
    port: int = 3000
    checkpoint_dir: str = ""
    vae_dir: str = ""
    lora_dir: str = ""
    models_dir: str = ""
    """Of upscalers, face restorers, hypernetworks and previews, each in a folder of its kind; empty: a base that has none."""
    embedding_dir: str = ""
    config_file: str = ""
    harvest_paths: Sequence[str] = ()
    """Files and folders that a warm-up fills and a later start can use."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One baked weights file."""

    role: Role
    name: str
    """The name that a request uses for it; mostly the file's stem in the image as well."""
    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Extension:
    """One baked extension of the webui."""

    name: str
    """Of its folder."""
    path: str
    commit: str
    scripts: Sequence[str] = ()
    """Titles of its scripts to which a request may give arguments (`alwayson_scripts`)."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Everything that differs from one image to the next."""

    name: str
    family: str
    webui: Webui
    weights: Sequence[Weights] = ()
    """The first checkpoint is the one that the webui starts with; `vae` at most once."""
    args: Sequence[str] = ()
    """The manifest's own webui arguments."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Request limits that the image sets, by the names of `runtime.job.request`; the environment may lower them."""
    lock_sha256: str = ""
    extensions: Sequence[Extension] = ()
    contract: int = CONTRACT_VERSION

    @property
    def checkpoint(self) -> Weights:
        """The checkpoint that is loaded at start."""
        return next(each for each in self.weights if each.role == "checkpoint")

    def of_role(self, role: Role) -> list[Weights]:
        """All weights of a role, in the manifest's order."""
        return [each for each in self.weights if each.role == role]

    def command(self, device: Device, *, boot: bool = True) -> list[str]:
        """The argument list that starts the webui, without a shell.

        With `boot` the script runs under `python -m runtime.boot`, which needs `HOME` in PYTHONPATH.
        """
        webui = self.webui
        start = [webui.python, "-m", "runtime.boot"] if boot else [webui.python]
        chosen = webui.args_cuda if device == "cuda" else webui.args_cpu
        model = ["--ckpt", self.checkpoint.path]
        for vae in self.of_role("vae"):
            model += ["--vae-path", vae.path]
        # xformers has no operator for a CPU: every picture would end with its error (seen with 0.0.23.post1).
        own = [each for each in self.args if device == "cuda" or each != "--xformers"]
        return [*start, webui.script, *webui.args, *chosen, *own, *model]

    def to_json(self) -> str:
        """Sorted JSON with a closing newline: the same worker gives the same bytes."""
        data = dataclasses.asdict(self)
        if not self.extensions:
            del data["extensions"]  # an image without any is what it was before there were any
        return json.dumps(data, sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Worker:
        """The inverse of `to_json`. Raises ValueError for another contract version."""
        data: dict[str, Any] = json.loads(text)
        if data.get("contract") != CONTRACT_VERSION:
            raise ValueError(
                f"worker.json has contract {data.get('contract')!r}, this runtime speaks {CONTRACT_VERSION}"
            )
        data["webui"] = Webui(**data["webui"])
        data["weights"] = tuple(Weights(**each) for each in data["weights"])
        data["extensions"] = tuple(Extension(**each) for each in data.get("extensions", ()))
        return cls(**data)

    @classmethod
    def load(cls, path: Path = Path(WORKER_FILE)) -> Worker:
        """Reads the image's own file."""
        return cls.from_json(path.read_text(encoding="utf-8"))
