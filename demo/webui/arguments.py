"""The command line: the webui's own flags, as far as a base image or a manifest may use them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

# Accepted and without effect here: they choose devices, precision and libraries that the demo has not.
_WITHOUT_EFFECT = [
    "-f",
    "--api",
    "--skip-torch-cuda-test",
    "--skip-prepare-environment",
    "--skip-install",
    "--skip-version-check",
    "--skip-python-version-check",
    "--no-download-sd-model",
    "--do-not-download-clip",
    "--xformers",
    "--opt-sdp-attention",
    "--opt-sdp-no-mem-attention",
    "--opt-split-attention",
    "--opt-channelslast",
    "--no-half",
    "--no-half-vae",
    "--upcast-sampling",
    "--medvram",
    "--medvram-sdxl",
    "--lowvram",
    "--lowram",
    "--disable-console-progressbars",
    "--disable-safe-unpickle",
    "--disable-nan-check",
    "--enable-insecure-extension-access",
    "--no-gradio-queue",
    "--disable-all-extensions",
    "--disable-extra-extensions",
    "--api-log",
    "--no-prompt-history",
    "--log-startup",
]


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the flags; one that is unknown ends the process as argparse does."""
    parser = argparse.ArgumentParser(prog="launch.py", allow_abbrev=False)
    for flag in _WITHOUT_EFFECT:
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=["full", "autocast"], default="autocast")
    parser.add_argument("--use-cpu", nargs="+", default=[])
    parser.add_argument("--device-id")
    parser.add_argument("--loglevel")
    parser.add_argument("--timeout-keep-alive", type=int, default=30)
    parser.add_argument("--listen", action="store_true")
    parser.add_argument("--server-name")
    parser.add_argument("--port", type=int)
    parser.add_argument("--nowebui", action="store_true")
    parser.add_argument("--no-hashing", action="store_true")
    parser.add_argument("--data-dir", type=Path, default=Path.cwd())
    parser.add_argument("--ui-settings-file", type=Path)
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--ckpt-dir", type=Path)
    parser.add_argument("--vae-path", type=Path)
    parser.add_argument("--vae-dir", type=Path)
    parser.add_argument("--lora-dir", type=Path)
    parser.add_argument("--embeddings-dir", type=Path)
    parsed = parser.parse_args(arguments)
    models = parsed.data_dir / "models"
    parsed.ckpt_dir = parsed.ckpt_dir or models / "Stable-diffusion"
    parsed.vae_dir = parsed.vae_dir or models / "VAE"
    parsed.lora_dir = parsed.lora_dir or models / "Lora"
    parsed.models_dir = models
    parsed.embeddings_dir = parsed.embeddings_dir or parsed.data_dir / "embeddings"
    parsed.ui_settings_file = parsed.ui_settings_file or parsed.data_dir / "config.json"
    parsed.server_name = parsed.server_name or ("0.0.0.0" if parsed.listen else "127.0.0.1")
    parsed.port = parsed.port or (7861 if parsed.nowebui else 7860)
    return parsed
