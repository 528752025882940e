"""The loaded model: loaded beside the running server, changed and retried as the webui does it."""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from demo.webui.catalogue import Catalogue, Checkpoint
from demo.webui.faults import Faults
from demo.webui.network import Network, load_network
from demo.webui.options import Options
from demo.webui.safetensors import read_tensors

_SOFTNESS = 1.2


@dataclass(frozen=True, kw_only=True)
class Model:
    """A checkpoint in memory, and the VAE that goes with it, if any."""

    checkpoint: Checkpoint
    network: Network
    vae: Path | None
    vae_hash: str | None
    softness: float
    """Pixels that an edge takes; what a VAE of the demo sets."""


class Loader:
    """Holds at most one model."""

    def __init__(
        self, *, catalogue: Catalogue, options: Options, vae_path: Path | None, faults: Faults
    ) -> None:
        self._catalogue = catalogue
        self._options = options
        self._vae_path = vae_path
        self._faults = faults
        self._lock = threading.Lock()
        self._model: Model | None = None

    def load_in_background(self) -> None:
        threading.Thread(target=self.current, name="load-model", daemon=True).start()

    def current(self) -> Model | None:
        """The model that the settings name; waits for it. None, after saying why, if it cannot be loaded."""
        with self._lock:
            try:
                self._load()
            except Exception:  # noqa: BLE001  # the server goes on without a model, as the webui does
                traceback.print_exc()
                print("Stable diffusion model failed to load", flush=True)
            return self._model

    def _load(self) -> None:
        wanted = self._catalogue.choose_checkpoint(self._options.sd_model_checkpoint)
        vae = self._vae_path or self._catalogue.vaes.get(str(self._options.sd_vae))
        held = self._model
        if held and held.checkpoint.path == wanted.path and held.vae == vae:
            return
        began = time.monotonic()
        self._faults.at_load()
        self._catalogue.read_hash(wanted)
        print(f"Loading weights [{wanted.short_hash}] from {wanted.path}", flush=True)
        softness = _SOFTNESS
        if vae is not None:
            softness = float(read_tensors(vae).get("demo.decoder.softness", softness))
        self._model = Model(
            checkpoint=wanted,
            network=load_network(wanted.path),
            vae=vae,
            vae_hash=self._catalogue.vae_hash(vae) if vae else None,
            softness=softness,
        )
        self._options.data["sd_model_checkpoint"] = wanted.title
        self._options.data["sd_checkpoint_hash"] = wanted.sha256
        print(f"Model loaded in {time.monotonic() - began:.1f}s.", flush=True)
        _report(began)


def _report(began: float) -> None:
    """Says in the timeline that the model is there, as `runtime.boot` does for the real webui."""
    if path := os.environ.get("BAKERY_TIMELINE"):
        event = {"name": "model", "began": began, "ended": time.monotonic()}
        with Path(path).open("a", encoding="utf-8") as timeline:
            timeline.write(json.dumps(event) + "\n")
