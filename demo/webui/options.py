"""The webui's settings, as far as the demo knows them, with the webui's way of keeping them.

`data` holds what config.json holds; a key that it lacks has its default, and is therefore not put back after
a request's `override_settings` have set it.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

DEFAULTS: dict[str, Any] = {
    "CLIP_stop_at_last_layers": 1,
    "add_model_hash_to_info": True,
    "add_model_name_to_info": True,
    "add_vae_hash_to_info": True,
    "add_vae_name_to_info": True,
    "add_version_to_infotext": True,
    "comma_padding_backtrack": 20,
    "enable_pnginfo": True,
    "enable_prompt_comments": True,
    "eta_ddim": 0.0,
    "eta_noise_seed_delta": 0,
    "face_restoration": False,
    "face_restoration_model": "CodeFormer",
    "grid_save": True,
    "jpeg_quality": 80,
    "live_previews_enable": True,
    "lora_add_hashes_to_infotext": True,
    "lora_functional": False,
    "lora_in_memory_limit": 0,
    "outdir_txt2img_samples": "output/txt2img-images",
    "randn_source": "GPU",
    "return_grid": True,
    "s_churn": 0.0,
    "s_min_uncond": 0.0,
    "s_noise": 1.0,
    "s_tmin": 0.0,
    "samples_format": "png",
    "samples_save": True,
    "sd_checkpoint_cache": 0,
    "sd_checkpoint_hash": "",
    "sd_checkpoints_limit": 1,
    "sd_lora": "None",
    "sd_model_checkpoint": None,
    "sd_vae": "Automatic",
    "sd_vae_checkpoint_cache": 0,
    "show_progress_every_n_steps": 10,
    "show_progress_type": "Approx NN",
    "tiling": False,
    "token_merging_ratio": 0.0,
    "upcast_attn": False,
}


class Options:
    """Settings; an attribute for each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.data_labels = {key: SimpleNamespace(default=DEFAULTS[key]) for key in DEFAULTS}
        self.data: dict[str, Any] = {}
        try:
            self.data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            print(f"Could not load settings from {path}: {error}; reverting config to default")

    def __getattr__(self, key: str) -> Any:
        if key not in DEFAULTS:
            raise AttributeError(key)
        return self.data.get(key, DEFAULTS[key])

    def set(self, key: str, value: Any) -> None:
        """Sets one setting. Raises KeyError for one that there is not; any value is taken, as in the webui."""
        if key not in DEFAULTS:
            raise KeyError(key)
        self.data[key] = value

    def everything(self) -> dict[str, Any]:
        return {**DEFAULTS, **self.data}

    def save(self) -> None:
        """Writes what has been set (not the defaults of the rest)."""
        draft = self._path.with_suffix(".part")
        draft.write_text(json.dumps(self.data, indent=4, ensure_ascii=False), encoding="utf-8")
        draft.replace(self._path)
