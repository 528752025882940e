"""The cards that an image can be compiled for, from `gpus.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bake.errors import did_you_mean

DATA_FILE = Path(__file__).with_name("gpus.json")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card."""

    name: str
    cuda_architecture: str
    """As TORCH_CUDA_ARCH_LIST wants it, such as 8.9."""
    pool: str = ""
    """RunPod's serverless pool that has it; empty where none has."""
    runpod_type: str = ""
    """RunPod's id of it."""


@cache
def _table() -> dict[str, Gpu]:
    data = json.loads(DATA_FILE.read_text(encoding="utf-8"))
    cards = data["gpus"]
    return {name: Gpu(name=name, **card) for name, card in sorted(cards.items())}


def gpu_names() -> list[str]:
    """The names that a manifest may use."""
    return list(_table())


def gpus_near(word: str) -> str:
    """The end of a message about an unknown card; RunPod's and NVIDIA's own names of it are understood."""
    for card in _table().values():
        if card.runpod_type and word.strip().lower() == card.runpod_type.lower():
            return f"; did you mean {card.name}?"
    return did_you_mean(word, gpu_names())


def find_gpu(name: str) -> Gpu:
    """The card of that name; the manifest's check has seen to it that it exists."""
    return _table()[name]


def unfit_types(gpu: Gpu) -> tuple[str, ...]:
    """RunPod's ids of the cards in this one's pool that code compiled for it does not run on."""
    others = (each for each in _table().values() if gpu.pool and each.pool == gpu.pool)
    return tuple(
        sorted(
            each.runpod_type for each in others if each.cuda_architecture != gpu.cuda_architecture
        )
    )
