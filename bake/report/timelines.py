"""A start as bars: the events of `runtime.boot`'s timeline on the clock of their start, one scale for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WORDS = {
    "boot": "boot: hooks and tricks",
    "read checkpoint": "read checkpoint",
    "prepare tensors": "prepare tensors",
    "wait for tensors": "wait for tensors",
    "gpu context": "GPU context",
    "model-expected": "webui imports",
    "model": "load model",
    "SDK": "RunPod SDK",
}
"""How events are called on a page; others by their own names."""
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_MOST_TICKS = 7


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What took how long: seconds since its start began."""

    label: str
    began_s: float
    ended_s: float
    kind: str = "event"
    """`event`, `whole` (the start) or `draw` (the picture)."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended_s - self.began_s


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """One start."""

    title: str
    bars: tuple[Bar, ...]

    @property
    def ended_s(self) -> float:
        """When its last bar ends."""
        return max(bar.ended_s for bar in self.bars)


def read_timelines(report: Mapping[str, Any]) -> tuple[Timeline, ...]:
    """Those of the warm-up and of the verified worker, as far as the report has them."""
    warmup, verify = report["warmup"], report["verify"]
    found = []
    if warmup["harvest"] == "own":
        title = (
            f"The warm-up, on {'the GPU' if warmup['device'] == 'cuda' else 'the CPU'}, recording"
        )
        found.append(
            Timeline(
                title=title,
                bars=tuple(
                    _bars(
                        warmup["timeline"],
                        warmup["loaded_s"],
                        warmup["drawn_s"],
                        whole="until the model is loaded",
                        last="model",
                    )
                ),
            )
        )
    start = verify.get("worker_start")
    if start:
        drawn_s = (verify.get("worker_timings") or {}).get("generate_s")
        bars = tuple(
            _bars(start["timeline"], start["start_s"], drawn_s, whole="until the worker is ready")
        )
        found.append(Timeline(title="The image's own worker, with no network", bars=bars))
    return tuple(found)


def ticks(timelines: Sequence[Timeline]) -> tuple[float, ...]:
    """Round seconds for an axis from 0 past the last end; at least two."""
    ended_s = max(each.ended_s for each in timelines)
    step = next((s for s in _STEPS_S if ended_s / s < _MOST_TICKS), ended_s)
    count = int(ended_s / step) + 1
    return tuple(round(step * each, 3) for each in range(count + 1))


def _bars(
    events: Sequence[Mapping[str, Any]],
    loaded_s: float,
    drawn_s: float | None,
    *,
    whole: str,
    last: str | None = None,
) -> Iterator[Bar]:
    """The whole start first, then its events by their beginning, then the picture.

    Events have the machine's clock, a start its own seconds: they meet where the start ended, which is the end
    of the event `last`, or of whichever ends last. A worker is ready when model and SDK are.
    """
    spans = sorted(
        (event["began"], event["ended"], str(event["name"]))
        for event in events
        if event["ended"] > event["began"] > 0
    )
    yield Bar(label=whole, began_s=0.0, ended_s=loaded_s, kind="whole")
    if spans:
        named = [ended for _, ended, name in spans if name == last]
        met = max(named or [ended for _, ended, _ in spans])
        zero = min(met - loaded_s, spans[0][0])
        for began, ended, name in spans:
            yield Bar(label=WORDS.get(name, name), began_s=began - zero, ended_s=ended - zero)
    if drawn_s is not None:
        yield Bar(label="draw", began_s=loaded_s, ended_s=loaded_s + drawn_s, kind="draw")
