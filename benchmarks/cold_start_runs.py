"""Runs of `benchmarks.cold_start`: what was seen of each start, and what they say together."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

MEASURES = {"first_picture": "first_picture_s", "cpu": "webui_cpu_s", "memory": "anonymous_bytes"}
"""Figure: what of a run it is the ratio of."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One start, from the first process to the finished picture."""

    checkpoint: str
    variant: str
    cache: str
    first_picture_s: float
    webui_cpu_s: float
    """User and system time of the webui until the picture."""
    read_bytes: int
    """What the webui's process had the disk read."""
    picture: str
    """SHA-256 of the picture's image data."""
    anonymous_bytes: int = 0
    """Of the webui's memory after the picture, what is no file's: the weights as it uses them, and all beside them."""
    phases: dict[str, tuple[float, float]] = field(default_factory=dict)
    """What boot reported, and what was seen from outside: when it began and ended, s from the first process on."""
    attention: str = ""
    """What the webui says that it applied; `none` for its own plain way."""
    torch_bytes: dict[str, int] = field(default_factory=dict)
    """Of the card, by torch's allocator: `allocated` and `reserved` now, and their peaks."""
    smi_bytes: int | None = None
    """By how much the card's used memory grew since before the start, by nvidia-smi."""


def pictures_of(runs: list[Run], checkpoint: str) -> dict[str, list[str]]:
    """Each picture that was drawn, and by which variants."""
    found: dict[str, set[str]] = {}
    for run in runs:
        if run.checkpoint == checkpoint:
            found.setdefault(run.picture[:16], set()).add(run.variant)
    return {picture: sorted(variants) for picture, variants in found.items()}


def differ(runs: list[Run], checkpoint: str) -> bool:
    """Whether the webui drew more than one picture of a checkpoint, or ComfyUI did."""
    of = [run for run in runs if run.checkpoint == checkpoint]
    theirs = {run.picture for run in of if run.variant == "comfyui"}
    return len({run.picture for run in of} - theirs) > 1 or len(theirs) > 1


def table(runs: list[Run]) -> str:
    lines = [
        "| checkpoint | page cache | variant | first picture, s: median (min to max), n | of official | "
        "webui's CPU, s | read, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for checkpoint, cache, variant in dict.fromkeys(
        (r.checkpoint, r.cache, r.variant) for r in runs
    ):
        of = select(runs, checkpoint, cache, variant)
        seconds = [run.first_picture_s for run in of]
        ratio = ratio_of(runs, checkpoint, cache, variant)
        lines.append(
            f"| {checkpoint} | {cache} | {variant} | {statistics.median(seconds):.2f} "
            f"({min(seconds):.2f} to {max(seconds):.2f}), {len(of)} | "
            f"{'' if ratio is None else f'{ratio:.2f}'} | "
            f"{statistics.median(run.webui_cpu_s for run in of):.1f} | "
            f"{statistics.median(run.read_bytes for run in of) / 1e6:.0f} |"
        )
    return "\n".join(lines)


def select(runs: list[Run], checkpoint: str, cache: str, variant: str) -> list[Run]:
    return [r for r in runs if (r.checkpoint, r.cache, r.variant) == (checkpoint, cache, variant)]


def ratio_of(
    runs: list[Run],
    checkpoint: str,
    cache: str,
    variant: str,
    measure: str = "first_picture_s",
    peer: str = "official",
) -> float | None:
    ours, theirs = (select(runs, checkpoint, cache, each) for each in (variant, peer))
    if not ours or not theirs:
        return None
    medians = [
        float(statistics.median(getattr(run, measure) for run in each)) for each in (ours, theirs)
    ]
    return round(medians[0] / medians[1], 3)


def figures(runs: list[Run]) -> dict[str, float]:
    found = {}
    for checkpoint, cache in dict.fromkeys((run.checkpoint, run.cache) for run in runs):
        for name, measure in MEASURES.items():
            ratio = ratio_of(runs, checkpoint, cache, "all", measure)
            if ratio is not None:
                found[f"{name}_{cache}_ratio_{checkpoint}"] = ratio
        of_comfyui = ratio_of(runs, checkpoint, cache, "all", peer="comfyui")
        if of_comfyui is not None:
            found[f"first_picture_{cache}_of_comfyui_{checkpoint}"] = of_comfyui
    return found
