"""What differs between two bakes, from their reports alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing, before and after; None where it was not there."""

    what: str
    before: str | None
    after: str | None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measure of both, in seconds or bytes; None where it was not taken."""

    what: str
    before: float | None
    after: float | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """All that differs from one bake to another."""

    changes: tuple[Change, ...]
    """What is in the image: names, versions, what was drawn."""
    pins: tuple[Change, ...]
    new_layers: tuple[Mapping[str, Any], ...]
    gone_layers: tuple[Mapping[str, Any], ...]
    sizes: tuple[Measured, ...]
    """Bytes: of the image and of each kind of layer, those that are equal too."""
    times: tuple[Measured, ...]
    """Seconds: of the start, the picture and each step."""

    @property
    def new_bytes(self) -> int:
        """What a registry that has the first image would be sent."""
        return sum(layer["size_bytes"] for layer in self.new_layers)

    def as_json(self) -> dict[str, Any]:
        """For `bake report --compare --json`."""
        return {**asdict(self), "new_bytes": self.new_bytes}


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Difference:
    """What changed from one report to another."""
    had = {layer["digest"] for layer in before["layers"]}
    has = {layer["digest"] for layer in after["layers"]}
    return Difference(
        changes=tuple(_changes(_facts(before), _facts(after))),
        pins=tuple(_changes(_pins(before), _pins(after))),
        new_layers=tuple(layer for layer in after["layers"] if layer["digest"] not in had),
        gone_layers=tuple(layer for layer in before["layers"] if layer["digest"] not in has),
        sizes=tuple(_measured(_sizes(before), _sizes(after))),
        times=tuple(_measured(_times(before), _times(after))),
    )


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for what in dict.fromkeys([*after, *before]):
        if before.get(what) != after.get(what):
            yield Change(what=what, before=before.get(what), after=after.get(what))


def _measured(
    before: Mapping[str, float | None], after: Mapping[str, float | None]
) -> Iterator[Measured]:
    for what in dict.fromkeys([*after, *before]):
        one, other = before.get(what), after.get(what)
        if one is not None or other is not None:
            yield Measured(what=what, before=one, after=other)


def _facts(report: Mapping[str, Any]) -> dict[str, str]:
    webui = report["webui"]
    facts = {
        "name": report["name"],
        "family": report["family"],
        "webui": f"{webui['name']} {webui['version']}",
        "bake": report["bake"],
        "warm-up": report["warmup"]["harvest"],
        "device": report["warmup"].get("device", ""),
    }
    return {**facts, **{f"warmup.{key}": str(value) for key, value in report["request"].items()}}


def _pins(report: Mapping[str, Any]) -> dict[str, str]:
    return {
        pin[
            "key"
        ]: f"{pin['title'] or pin['file_name']} (sha256 {pin['sha256'][:12]}, {pin['licence']})"
        for pin in report["pins"]
    }


def _sizes(report: Mapping[str, Any]) -> dict[str, float | None]:
    sizes: dict[str, float | None] = {"image": report["size_bytes"]}
    for layer in report["layers"]:
        sizes[layer["kind"]] = (sizes.get(layer["kind"]) or 0) + layer["size_bytes"]
    return sizes


def _times(report: Mapping[str, Any]) -> dict[str, float | None]:
    warmup, verify = report["warmup"], report["verify"]
    return {
        "warm-up: model loaded": warmup.get("loaded_s"),
        "warm-up: picture drawn": warmup.get("drawn_s"),
        "worker: ready": (verify.get("worker_start") or {}).get("start_s"),
        "worker: picture drawn": (verify.get("worker_timings") or {}).get("generate_s"),
        **{f"step {step['step']}": step["seconds"] for step in report["steps"]},
    }
