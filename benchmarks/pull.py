"""How long `docker pull` takes: raw weights layers beside the gzipped layer of the official worker's layout.

The same base and the same model in the same registry, pulled in turn into an engine that has neither; the
registry's files are warm in both cases.

    eval "$(demo/engine/env)"; .venv/bin/python -m benchmarks.pull [--mebibytes 2048] [--runs 3] [--json FILE]
    … --whole --base REGISTRY/NEW:TAG --old-base REGISTRY/OLD:TAG

The second form pulls whole images (`benchmarks.whole`), with real bases that lie in the registry beside the engine:
today's, and that of commit e6bab55. Figures: our seconds over the others', `whole_before`, `whole_official` and, for
`compression: zstd`, `whole_zstd_before`, `whole_zstd_official`; with `_containerd` for that store; `wire_base` and
`wire_base_zstd` are the bytes of our base over those of the older one.

Figures of the first form: our median over the gzip layout's, `pull_ratio` with the classic store (the engine's own default up to
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
    layer_sizes,
    machine,
    make_base,
    private_engine,
    push_ours,
    push_with_docker,
    test_registry,
    write_weights,
)
from benchmarks.report import environment, write_report
from benchmarks.whole import push_whole_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mebibytes", type=int, default=2048)
    parser.add_argument("--base-mebibytes", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--into", help="the engine that pulls; see above")
    parser.add_argument("--whole", action="store_true", help="pull whole images, with real bases")
    parser.add_argument("--base", help="today's base, in the registry beside the engine")
    parser.add_argument("--old-base", help="that of commit e6bab55, there too")
    parser.add_argument("--images", help="for --whole: what an earlier run has pushed, by its name")
    parser.add_argument("--push-only", action="store_true", help="for --whole: pull nothing yet")
    parser.add_argument("--json", type=Path, dest="out")
    asked = parser.parse_args()
    if asked.whole and not (asked.base and asked.old_base):
        parser.error("--whole needs --base and --old-base")
    tested_on = machine()
    name = asked.images or f"{test_registry()}/bench-pull-{os.getpid()}"
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="pull-") as made:
        folder = Path(made)
        images = (
            make_whole(name, folder, asked) if asked.whole else make_images(name, folder, asked)
        )
        wire = {kind: layer_sizes(image) for kind, image in images.items()}
        runs = {}
        for store, engine in () if asked.push_only else pullers(asked.into, folder).items():
            with engine as os.environ["DOCKER_HOST"]:
                runs[store] = timed_pulls(images, asked.runs)
    print(f"{tested_on}, model of {asked.mebibytes} MiB, {asked.runs} runs, images {name}-…")
    show_runs(runs)
    figures = whole_figures(runs, wire) if asked.whole else usual_figures(runs)
    for figure, ratio in figures.items():
        print(f"{figure} {ratio:.3f}")
    write_report(
        asked.out,
        figures=figures,
        environment=environment(engine=tested_on, mebibytes=asked.mebibytes, rounds=asked.runs),
        runs=runs,
    )


def show_runs(runs: dict[str, dict[str, list[float]]]) -> None:
    """Prints a line for each image and store."""
    for store, seconds in runs.items():
        for kind, values in seconds.items():
            rounded = [round(each, 2) for each in values]
            print(f"  {store:<12}{kind:<10}{statistics.median(values):>8.2f} s  {rounded}")


def usual_figures(runs: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    """Raw weights over gzipped ones, for each store."""
    return {
        "pull_ratio" if store == "classic" else f"pull_ratio_{store}": _ratio(
            seconds, "raw", "gzip"
        )
        for store, seconds in runs.items()
    }


def whole_figures(
    runs: dict[str, dict[str, list[float]]], wire: dict[str, dict[str, int]]
) -> dict[str, float]:
    """Ours over the others', in seconds and in bytes of the base."""
    figures = {}
    for store, seconds in runs.items():
        suffix = "" if store == "classic" else f"_{store}"
        for ours, prefix in (("raw", "whole"), ("zstd", "whole_zstd")):
            for theirs in ("before", "official"):
                figures[f"{prefix}_{theirs}{suffix}"] = _ratio(seconds, ours, theirs)
    old = _base_bytes(wire["before"])
    for ours, figure in (("raw", "wire_base"), ("zstd", "wire_base_zstd")):
        figures[figure] = _base_bytes(wire[ours]) / old
        print(
            f"  {ours}: base of {_base_bytes(wire[ours]) / 1e6:.0f} MB, the older one {old / 1e6:.0f}"
        )
    return figures


def _ratio(seconds: dict[str, list[float]], ours: str, theirs: str) -> float:
    return statistics.median(seconds[ours]) / statistics.median(seconds[theirs])


def _base_bytes(layers: dict[str, int]) -> int:
    """All but the two layers above the base."""
    return sum(list(layers.values())[:-2])


def make_whole(name: str, folder: Path, asked: argparse.Namespace) -> dict[str, str]:
    """Pushes the images of `benchmarks.whole`, or names those that are there."""
    if asked.images:
        return {kind: f"{name}-{kind}:1" for kind in ("raw", "zstd", "before", "official")}
    model = folder / "model.safetensors"
    sha256 = write_weights(model, asked.mebibytes << 20)
    images = push_whole_images(
        name, base=asked.base, old_base=asked.old_base, model=model, sha256=sha256, folder=folder
    )
    model.unlink()
    return images


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
            # A whole image takes minutes, and whoever ends the run early keeps what it has seen.
            print(f"{kind}: {seconds[kind][-1]:.1f} s", file=sys.stderr, flush=True)
    return seconds


def make_images(name: str, folder: Path, asked: argparse.Namespace) -> dict[str, str]:
    """Pushes both, and leaves none in the engine."""
    images = {"raw": f"{name}-ours:1", "gzip": f"{name}-docker:1"}
    base = f"{name}-base:1"
    make_base(base, asked.base_mebibytes << 20, folder)
    model = folder / "model.safetensors"
    sha256 = write_weights(model, asked.mebibytes << 20)
    push_ours(base, images["raw"], model, sha256, "1", folder / "ours")
    push_with_docker(base, images["gzip"], model, "1", folder / "docker")
    docker("rmi", "--force", base, images["gzip"])
    docker("builder", "prune", "--force", "--filter", "type=source.local")
    return images


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
