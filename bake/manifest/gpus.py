"""The cards that an image can be compiled for, from `gpus.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DATA_FILE = Path(__file__).with_name("gpus.json")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card."""

    name: str
    cuda_architecture: str
    """As TORCH_CUDA_ARCH_LIST wants it, such as 8.9."""


@cache
def _table() -> dict[str, Gpu]:
    data = json.loads(DATA_FILE.read_text(encoding="utf-8"))
    cards = data["gpus"]
    return {
        name: Gpu(name=name, cuda_architecture=card["cuda_architecture"])
        for name, card in sorted(cards.items())
    }


def gpu_names() -> list[str]:
    """The names that a manifest may use."""
    return list(_table())


def find_gpu(name: str) -> Gpu:
    """The card of that name; the manifest's check has seen to it that it exists."""
    return _table()[name]
