"""How long `docker pull` takes: raw weights layers beside the gzipped layer of the official worker's layout.

The same base and the same model in the same registry, pulled in turn into an engine that has neither; the
registry's files are warm in both cases.

    eval "$(demo/engine/env)"; .venv/bin/python -m benchmarks.pull [--mebibytes 2048] [--runs 3] [--json FILE]

`pull_ratio` is our median over the gzip layout's. With `--into unix:///…/docker.sock` another engine pulls,
such as one with the classic store.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.images import (
    docker,
    machine,
    make_base,
    push_ours,
    push_with_docker,
    test_registry,
    write_weights,
)
from benchmarks.report import environment, write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mebibytes", type=int, default=2048)
    parser.add_argument("--base-mebibytes", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--into", help="the engine that pulls; by default the one that built")
    parser.add_argument("--json", type=Path, dest="out")
    asked = parser.parse_args()
    name = f"{test_registry()}/bench-pull-{os.getpid()}"
    images = {"raw": f"{name}-ours:1", "gzip": f"{name}-docker:1"}
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="pull-") as folder:
        make_images(name, images, Path(folder), asked.mebibytes << 20, asked.base_mebibytes << 20)
    if asked.into:
        os.environ["DOCKER_HOST"] = asked.into
    seconds: dict[str, list[float]] = {kind: [] for kind in images}
    for _ in range(asked.runs):
        for kind, image in images.items():
            seconds[kind].append(pull(image))
    ratio = statistics.median(seconds["raw"]) / statistics.median(seconds["gzip"])
    print(f"{machine()}, model of {asked.mebibytes} MiB, {asked.runs} runs")
    for kind, values in seconds.items():
        print(
            f"  {kind:<6}{statistics.median(values):>8.2f} s  {[round(each, 2) for each in values]}"
        )
    print(f"pull_ratio {ratio:.3f}")
    write_report(
        asked.out,
        figures={"pull_ratio": ratio},
        environment=environment(engine=machine(), mebibytes=asked.mebibytes, rounds=asked.runs),
        runs=seconds,
    )


def make_images(
    name: str, images: dict[str, str], folder: Path, model_bytes: int, base_bytes: int
) -> None:
    """Pushes both, and leaves none in the engine."""
    base = f"{name}-base:1"
    make_base(base, base_bytes, folder)
    model = folder / "model.safetensors"
    sha256 = write_weights(model, model_bytes)
    push_ours(base, images["raw"], model, sha256, "1", folder / "ours")
    push_with_docker(base, images["gzip"], model, "1", folder / "docker")
    docker("rmi", "--force", base, images["gzip"])
    docker("builder", "prune", "--force", "--filter", "type=source.local")


def pull(image: str) -> float:
    """Seconds of one pull into an engine that has none of the image's layers."""
    began = time.monotonic()
    docker("pull", "--quiet", image)
    seconds = time.monotonic() - began
    docker("rmi", "--force", image)
    return seconds


if __name__ == "__main__":
    main()
