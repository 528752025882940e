"""What each trick of the start is worth: alone against plain, and left out against all, interleaved.

    python benchmarks/tricks.py --webui FOLDER --python INTERPRETER --hf-home FOLDER \\
        [--handler-python INTERPRETER] [--rounds 5] [--cache cold,warm] [--json FILE] CHECKPOINT…

Takes the arguments of `benchmarks.cold_start`, whose starts these are: every round runs each variant once,
in another order, from a page cache that was dropped and from a warm one. All pictures of a checkpoint must be
the same, bit by bit; else the exit status is 1. A trick earns its place where leaving it out costs at least
3% of the start with all, in seconds or in the webui's CPU seconds, by the median of the rounds'
own differences and beyond their spread (the quarter that gained least still gained).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cold_start
from benchmarks.cold_start import Bench
from benchmarks.cold_start_runs import Run, differ, pictures_of, select
from benchmarks.report import write_report
from runtime.boot.choice import TRICKS

LEAST = 0.03
MEASURES = ("first_picture_s", "webui_cpu_s")


def main() -> int:
    options = cold_start.read_arguments()
    options.variants = ",".join(["plain", "all", *TRICKS, *(f"all/-{name}" for name in TRICKS)])
    runs: list[Run] = []
    with (
        tempfile.TemporaryDirectory(prefix="tricks-") as folder,
        cold_start.read_ahead(options.webui, options.read_ahead_kib),
    ):
        for checkpoint in options.checkpoints:
            runs += Bench(options, checkpoint, Path(folder) / checkpoint.stem).run()
        described = cold_start.describe(options)
    print(table(runs))
    write_report(
        options.json,
        figures=gains(runs),
        environment=described,
        runs=[asdict(run) for run in runs],
    )
    names = {run.checkpoint for run in runs}
    different = [each for each in names if differ(runs, each)]
    for each in different:
        print(f"the pictures of {each} differ: {pictures_of(runs, each)}", file=sys.stderr)
    return 1 if different else 0


def shares(with_it: Sequence[Run], without: Sequence[Run], measure: str) -> list[float]:
    """For each round, what the trick saves as a share of the start without it."""
    pairs = zip(with_it, without, strict=True)
    return [1 - getattr(a, measure) / getattr(b, measure) for a, b in pairs]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower quarter and the median; of one round, both are that round."""
    if len(values) < 2:
        return values[0], values[0]
    lower, middle, _ = statistics.quantiles(values, n=4, method="inclusive")
    return lower, middle


def compare(runs: list[Run], checkpoint: str, cache: str, trick: str) -> dict[str, list[float]]:
    """By the kind of comparison and the measure: the shares of all rounds."""
    of = {
        variant: select(runs, checkpoint, cache, variant)
        for variant in ("plain", "all", trick, f"all/-{trick}")
    }
    return {
        f"{kind}_{measure}": shares(of[with_it], of[without], measure)
        for measure in MEASURES
        for kind, with_it, without in (
            ("alone", trick, "plain"),
            ("left_out", "all", f"all/-{trick}"),
        )
    }


def earns(compared: dict[str, list[float]]) -> bool:
    """Whether leaving it out costs enough, by one of the measures."""
    found = [quartiles(compared[f"left_out_{measure}"]) for measure in MEASURES]
    return any(middle >= LEAST and lower > 0 for lower, middle in found)


def cases(runs: list[Run]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((run.checkpoint, run.cache) for run in runs))


def table(runs: list[Run]) -> str:
    lines = [
        "| checkpoint | page cache | trick | alone: seconds, CPU | left out: seconds, CPU | earns 3% |",
        "|---|---|---|---|---|---|",
    ]
    for checkpoint, cache in cases(runs):
        for trick in TRICKS:
            compared = compare(runs, checkpoint, cache, trick)
            shown = {name: f"{quartiles(each)[1]:+.1%}" for name, each in compared.items()}
            lines.append(
                f"| {checkpoint} | {cache} | {trick} | {shown['alone_first_picture_s']}, "
                f"{shown['alone_webui_cpu_s']} | {shown['left_out_first_picture_s']}, "
                f"{shown['left_out_webui_cpu_s']} | {'yes' if earns(compared) else 'no'} |"
            )
    return "\n".join(lines)


def gains(runs: list[Run]) -> dict[str, float]:
    """The medians, by checkpoint, page cache, trick, comparison and measure."""
    return {
        f"{checkpoint}_{cache}_{trick}_{name}": round(quartiles(each)[1], 4)
        for checkpoint, cache in cases(runs)
        for trick in TRICKS
        for name, each in compare(runs, checkpoint, cache, trick).items()
    }


if __name__ == "__main__":
    sys.exit(main())
