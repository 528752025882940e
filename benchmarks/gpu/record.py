"""What a check on a card found, as a file: `docs/records/*.json`, and what it proves.

`{"figures": …, "environment": …, "runs": […]}` as every benchmark writes it (`benchmarks.report`). The environment
holds `device`, `card`, `tricks` (the SHA-256 of each trick's source), `attention` and `failed`; a run is
`benchmarks.cold_start_runs.Run`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runtime.boot.choice import ON_DEVICE, TRICKS

Record = Mapping[str, Any]
BESIDE = {"weights": ("runtime.boot.upload",)}
"""What of a trick lies in other modules."""


def hash_tricks() -> dict[str, str]:
    """The SHA-256 of each trick's source: a record speaks of the code that ran."""
    found = {}
    for name, module in TRICKS.items():
        digest = hashlib.sha256()
        for each in (f"runtime.boot.tricks.{module}", *BESIDE.get(name, ())):
            spec = find_spec(each)
            if spec is not None and spec.origin is not None:  # an image of another release
                digest.update(Path(spec.origin).read_bytes())
        found[name] = digest.hexdigest()
    return found


def pictures(record: Record) -> dict[str, dict[str, list[str]]]:
    """By checkpoint and variant, the picture of each run."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in record["runs"]:
        found.setdefault(run["checkpoint"], {}).setdefault(run["variant"], []).append(
            run["picture"]
        )
    return found


def proven(record: Record) -> list[str]:
    """The tricks that drew upstream's picture, each alone and all together, bit by bit, in every run.

    None where upstream's own start was drawn once only or did not repeat its picture, where all tricks together drew
    another, or where any start failed.
    """
    if record["environment"]["failed"] or not record["runs"]:
        return []
    names = list(TRICKS)
    for drawn in pictures(record).values():
        plain = drawn.get("plain", [])
        if len(plain) < 2 or len(set(plain)) != 1 or set(drawn.get("all", ())) != set(plain):
            return []
        names = [name for name in names if set(drawn.get(name, ())) == set(plain)]
    return names


def recorded_kinds(records: Iterable[Record]) -> frozenset[str]:
    """Kinds of device on which a record proves all that puts something on the device, as its code is today.

    This is what `runtime.boot.choice.RECORDED` must hold.
    """
    today = hash_tricks()
    return frozenset(
        record["environment"]["device"]
        for record in records
        if set(proven(record)) >= ON_DEVICE
        and all(record["environment"]["tricks"].get(name) == today[name] for name in ON_DEVICE)
    )
