"""The files that images are made of: Dockerfiles, locks and the runtime's source."""

from __future__ import annotations

from pathlib import Path

PACKAGES = ("bake", "runtime")
"""All of our source."""


def package_folder(package: str) -> Path:
    """Where the source of one of our packages lies: side by side, in a checkout and where they are installed."""
    return Path(__file__).parents[1] / package


def _resources() -> Path:
    """A wheel has them as data of this package (pyproject.toml); in a checkout they lie beside it."""
    installed = Path(__file__).with_name("resources")
    return installed if installed.is_dir() else Path(__file__).parents[1]


DOCKERFILE_BASE = _resources() / "Dockerfile.base"
DOCKERFILE_FINAL = _resources() / "Dockerfile.final"
LOCKS = _resources() / "requirements"
"""The locks, and what the base's build runs; this folder is the build context of Dockerfile.base."""
SLIM = LOCKS / "slim.py"
"""Reads and changes fat binaries; the base's build runs it, and so do we."""
_CARD_CHECK = (
    "benchmarks/cold_start.py",
    "benchmarks/cold_start_client.py",
    "benchmarks/cold_start_comfyui.py",
    "benchmarks/cold_start_runs.py",
    "benchmarks/report.py",
    "benchmarks/gpu/attention.py",
    "benchmarks/gpu/check.py",
    "benchmarks/gpu/record.py",
)
RUNTIME_LOCK = LOCKS / "runtime.txt"
RUNTIME_TRIM = LOCKS / "trim-runtime"
"""Takes out of the installed lock what no worker opens."""


def card_check_files() -> dict[str, Path]:
    """What `bake gpu-check` runs in a container, besides the runtime that is in it: names below its folder, and files."""
    return {name: _resources() / name for name in _CARD_CHECK}
