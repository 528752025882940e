"""A changed model, and changed code, from file to registry: `bake`'s way beside `docker build` + `docker push`.

Docker's way has the official worker's layout. Both start from the model as a file on this disk and end with
a tag in the same registry; both have the same base there and have pushed the model before this one. Each
run gets a new model, since a registry that has the bytes already is no contest.

    eval "$(demo/engine/env)"; .venv/bin/python -m benchmarks.rebake [--mebibytes 2048] [--runs 3] [--json FILE]

`rebake_speedup` is Docker's median seconds over ours, `rebake_local_mib` what our process wrote to disk,
`rebake_peak_mib` its memory, `runtime_edit_wire_ratio` the bytes that an edit of the code moves over the
image's size.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.images import (
    Cost,
    as_json,
    docker,
    layer_sizes,
    machine,
    make_base,
    push_ours,
    push_with_docker,
    show,
    test_registry,
    write_weights,
)
from benchmarks.report import environment, write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mebibytes", type=int, default=2048)
    parser.add_argument("--base-mebibytes", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path, dest="out")
    asked = parser.parse_args()
    name = f"{test_registry()}/bench-rebake-{os.getpid()}"
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="rebake-") as folder:
        rows = measure(
            name, Path(folder), asked.mebibytes << 20, asked.base_mebibytes << 20, asked.runs
        )
    image_bytes = sum(layer_sizes(f"{name}-ours:1").values())
    figures = {
        "rebake_speedup": median(rows, "docker, model") / median(rows, "ours, model"),
        "rebake_local_mib": max(c.written_mib for n, c in rows if n == "ours, model"),
        "rebake_peak_mib": max(c.peak_mib for n, c in rows if n.startswith("ours")),
        "runtime_edit_wire_ratio": max(c.wire_bytes for n, c in rows if n == "ours, code")
        / image_bytes,
    }
    show(f"{machine()}, model of {asked.mebibytes} MiB, {asked.runs} runs", rows)
    for figure, value in figures.items():
        print(f"{figure} {value:.4g}")
    write_report(
        asked.out,
        figures=figures,
        environment=environment(engine=machine(), mebibytes=asked.mebibytes, rounds=asked.runs),
        runs=as_json(rows),
    )


def measure(
    name: str, folder: Path, model_bytes: int, base_bytes: int, runs: int
) -> list[tuple[str, Cost]]:
    """All runs, in turn; the first of each contestant is not counted: it has no model before it."""
    base, ours, theirs = f"{name}-base:1", f"{name}-ours:1", f"{name}-docker:1"
    make_base(base, base_bytes, folder)
    model = folder / "model.safetensors"
    rows: list[tuple[str, Cost]] = []
    try:
        for number in range(runs + 1):
            model.unlink(missing_ok=True)
            sha256 = write_weights(model, model_bytes if number else 1 << 20)
            kept = rows if number else []
            kept.append(
                ("ours, model", push_ours(base, ours, model, sha256, f"m{number}", folder / "ours"))
            )
            kept.append(
                (
                    "docker, model",
                    push_with_docker(base, theirs, model, f"m{number}", folder / "docker"),
                )
            )
        for number in range(runs):
            rows.append(
                ("ours, code", push_ours(base, ours, model, sha256, f"c{number}", folder / "ours"))
            )
            rows.append(
                (
                    "docker, code",
                    push_with_docker(base, theirs, model, f"c{number}", folder / "docker"),
                )
            )
    finally:
        for image in (base, theirs):
            docker("rmi", "--force", image)
    return rows


def median(rows: list[tuple[str, Cost]], name: str) -> float:
    """Seconds."""
    return statistics.median(cost.seconds for each, cost in rows if each == name)


if __name__ == "__main__":
    main()
