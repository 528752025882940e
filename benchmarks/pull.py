"""How long `docker pull` takes: raw weights layers beside the gzipped layer of the official worker's layout.

The same base and the same model in the same registry, pulled in turn into an engine that has neither; the
registry's files are warm in both cases.

    eval "$(demo/engine/env)"; .venv/bin/python -m benchmarks.pull [--mebibytes 2048] [--runs 3] [--json FILE]

Figures: our median over the gzip layout's, `pull_ratio` with the classic store (the engine's own default up to
28), `pull_ratio_containerd` with the containerd store. The engine that built pulls, and where it has the containerd
store and we may start engines a private one with the classic store, too; `--into unix:///…/docker.sock` names another.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.images import (
    can_start_engines,
    classic_engine,
    docker,
    has_containerd_store,
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
    parser.add_argument("--into", help="the engine that pulls; see above")
    parser.add_argument("--json", type=Path, dest="out")
    asked = parser.parse_args()
    name = f"{test_registry()}/bench-pull-{os.getpid()}"
    images = {"raw": f"{name}-ours:1", "gzip": f"{name}-docker:1"}
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="pull-") as folder:
        make_images(name, images, Path(folder), asked.mebibytes << 20, asked.base_mebibytes << 20)
        with pullers(asked.into, Path(folder)) as hosts:
            runs = {each: timed_pulls(host, images, asked.runs) for each, host in hosts.items()}
    print(f"{machine()}, model of {asked.mebibytes} MiB, {asked.runs} runs")
    figures = {}
    for store, seconds in runs.items():
        for kind, values in seconds.items():
            rounded = [round(each, 2) for each in values]
            print(f"  {store:<12}{kind:<6}{statistics.median(values):>8.2f} s  {rounded}")
        ratio = statistics.median(seconds["raw"]) / statistics.median(seconds["gzip"])
        figures["pull_ratio" if store == "classic" else f"pull_ratio_{store}"] = ratio
    for name, ratio in figures.items():
        print(f"{name} {ratio:.3f}")
    write_report(
        asked.out,
        figures=figures,
        environment=environment(engine=machine(), mebibytes=asked.mebibytes, rounds=asked.runs),
        runs=runs,
    )


@contextmanager
def pullers(into: str | None, folder: Path) -> Iterator[dict[str, str]]:
    """The DOCKER_HOST of each engine that pulls, by the name of its store."""
    if into:
        os.environ["DOCKER_HOST"] = into
    host = os.environ.get("DOCKER_HOST", "")
    if not has_containerd_store():
        yield {"classic": host}
    elif into or not can_start_engines():
        yield {"containerd": host}
    else:
        (folder / "engine").mkdir()
        with classic_engine(folder / "engine") as classic:
            yield {"classic": classic, "containerd": host}


def timed_pulls(host: str, images: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each image's pulls into one engine, taken in turn."""
    os.environ["DOCKER_HOST"] = host
    seconds: dict[str, list[float]] = {kind: [] for kind in images}
    for _ in range(rounds):
        for kind, image in images.items():
            seconds[kind].append(pull(image))
    return seconds


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
