"""How long `docker pull` takes: raw weights layers beside the gzipped layer of the official worker's layout.

The same base and the same model in the same registry, pulled in turn into an engine that has neither; the
registry's files are warm in both cases.

    eval "$(demo/engine/env)"; .venv/bin/python -m benchmarks.pull [--mebibytes 2048] [--runs 3] [--json FILE]

Figures: our median over the gzip layout's, `pull_ratio` with the classic store (the engine's own default up to
28), `pull_ratio_containerd` with the containerd store. Where we may start engines, new ones pull, one after the
other: the engine that built keeps its layers in the build cache, and with the containerd store it would download
nothing. Elsewhere `--into unix:///…/docker.sock` names an engine. A pull that finds a layer in the engine ends the
benchmark.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.images import (
    can_start_engines,
    docker,
    has_containerd_store,
    machine,
    make_base,
    private_engine,
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
    tested_on = machine()
    images = {"raw": f"{name}-ours:1", "gzip": f"{name}-docker:1"}
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="pull-") as folder:
        make_images(name, images, Path(folder), asked.mebibytes << 20, asked.base_mebibytes << 20)
        runs = {}
        for store, engine in pullers(asked.into, Path(folder)).items():
            with engine as os.environ["DOCKER_HOST"]:
                runs[store] = timed_pulls(images, asked.runs)
    print(f"{tested_on}, model of {asked.mebibytes} MiB, {asked.runs} runs")
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
        environment=environment(engine=tested_on, mebibytes=asked.mebibytes, rounds=asked.runs),
        runs=runs,
    )


def pullers(into: str | None, folder: Path) -> dict[str, AbstractContextManager[str]]:
    """The engines that pull, by the name of their store; each, once entered, gives its DOCKER_HOST."""
    if into or not can_start_engines():
        host = os.environ["DOCKER_HOST"] = into or os.environ.get("DOCKER_HOST", "")
        return {"containerd" if has_containerd_store() else "classic": nullcontext(host)}
    return {
        store: private_engine(folder / store, containerd_store=store == "containerd")
        for store in ("classic", "containerd")
    }


def timed_pulls(images: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each image's pulls, taken in turn."""
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
    os.sync()  # what the last pull and its removal left to be written is not this one's
    began = time.monotonic()
    said = docker("pull", image)
    seconds = time.monotonic() - began
    if "Already exists" in said:
        raise SystemExit(
            f"{image}: the engine has a layer already, so that this is no pull;"
            f" name one that has not built the images with --into\n{said}"
        )
    docker("rmi", "--force", image)
    return seconds


if __name__ == "__main__":
    main()
