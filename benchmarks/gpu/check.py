"""On a machine with an NVIDIA card: upstream's plain start of the webui against each trick of ours, and all.

    python -m benchmarks.gpu.check --webui FOLDER --python INTERPRETER --hf-home FOLDER --make sd15 [--json FILE]
    python -m benchmarks.gpu.check --webui FOLDER --python INTERPRETER --hf-home FOLDER CHECKPOINT… [--json FILE]
    python -m benchmarks.gpu.check --worker /opt/bakery/worker.json [--json FILE]

The first form makes a checkpoint of random weights (`benchmarks/make_checkpoints.py`), the last one runs in a
worker image (`bake gpu-check IMAGE`). The starts are those of `benchmarks.cold_start`, whose options these are: in
every round each variant once, in another order. For each it says whether the picture is upstream's bit by bit, what
boot's timeline says of the phases, the card's memory by torch and by nvidia-smi, and what the webui applied to
attention; one more start, which is not measured, tells which kernels drew.

Exit status: 0 all pictures are the same; 1 one differs, or a start failed; 2 wrong arguments; 3 no card.
FILE is complete after every start, so a check that was ended early is still worth sending. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from benchmarks import cold_start  # noqa: E402
from benchmarks.cold_start import Bench, StartError  # noqa: E402
from benchmarks.cold_start_runs import Run  # noqa: E402
from benchmarks.gpu.record import hash_tricks, pictures, proven  # noqa: E402
from benchmarks.report import environment, write_report  # noqa: E402
from runtime.boot.choice import TRICKS  # noqa: E402
from runtime.worker import HOME, Worker  # noqa: E402

PROBE = Path(__file__).with_name("attention.py")
VERSIONS = """
import importlib.metadata, json
names = ("torch", "xformers", "nvidia-cudnn-cu12", "nvidia-cublas-cu12")
found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
print(json.dumps({name: found.get(name) for name in names}))
"""
CARD = ("name", "driver_version", "compute_cap", "memory.total", "pcie.link.gen.current")
MEGA = 1e6


def main() -> int:
    options = read_arguments()
    card = read_card()
    if options.device == "cuda" and card is None:
        print("no NVIDIA card: nvidia-smi is not there, or lists none", file=sys.stderr)
        print("  → --device cpu rehearses the check without one", file=sys.stderr)
        return 3
    check = Check(options, card)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        for bench in check.make_benches(Path(folder)):
            check.run(bench)
    print(check.table())
    print(check.verdict())
    return 0 if check.is_good else 1


def read_arguments() -> argparse.Namespace:
    parser = cold_start.make_parser(__doc__, has_worker=True)
    parser.add_argument("--worker", type=Path, help="the worker.json of an image")
    parser.add_argument("--make", choices=("tiny", "small", "smallxl", "sd15", "sdxl"))
    parser.add_argument("--made", type=Path, help="where --make keeps what it made")
    parser.add_argument("--tricks", default=",".join(TRICKS), help="those that are tried alone")
    parser.add_argument("checkpoints", type=Path, nargs="*")
    parser.set_defaults(device="cuda", attention=None, rounds=3, cache="warm", start_timeout=600.0)
    parser.set_defaults(steps=None, size=None)
    options = parser.parse_args()
    on_card = options.device == "cuda"
    # A CPU takes a minute for what a card draws in a second.
    # xformers has no operator for it: the VAE's attention would fail (seen with 0.0.23.post1).
    options.attention = options.attention or ("xformers" if on_card else "sdp")
    options.steps = options.steps or (8 if on_card else 1)
    options.size = options.size or (512 if on_card else 64)
    options.variants = ",".join(["plain", "all", *filter(None, options.tricks.split(","))])
    if unknown := set(options.variants.split(",")) - {"plain", "all", *TRICKS}:
        parser.error(f"no such trick: {', '.join(sorted(unknown))} (there are {', '.join(TRICKS)})")
    if options.worker is None and (options.webui is None or options.python is None):
        parser.error("give --worker, or --webui and --python")
    if options.worker is None and not options.checkpoints and options.make is None:
        parser.error("name a checkpoint, or one to be made: --make sd15")
    return options


def read_card() -> dict[str, str] | None:
    """What nvidia-smi says of the first card; None where there is none."""
    command = ["nvidia-smi", f"--query-gpu={','.join(CARD)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        values = [each.strip() for each in done.stdout.splitlines()[0].split(",")]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None
    return dict(zip(CARD, values, strict=True)) if len(values) == len(CARD) else None


class Check:
    """One check: what it saw so far."""

    def __init__(self, options: argparse.Namespace, card: dict[str, str] | None) -> None:
        self.options = options
        self.card = card
        self.runs: list[Run] = []
        self.failed: dict[str, str] = {}
        """By checkpoint and variant: the end of what the webui said."""
        self.attention: dict[str, dict[str, Any]] = {}
        """By checkpoint: calls of each kernel for one picture, and that picture."""
        self.versions: dict[str, str | None] = {}

    def make_benches(self, folder: Path) -> list[Bench]:
        """One for each checkpoint; what has to be made for it is made."""
        options = self.options
        if options.worker is not None:
            worker = Worker.from_json(options.worker.read_text(encoding="utf-8"))
            options.python = Path(worker.webui.python)
            checkpoint = Path(worker.checkpoint.path)
            bench = Bench(options, checkpoint, folder / checkpoint.stem, worker)
            harvest = Path(HOME) / "harvest"
            bench.harvest = harvest if harvest.is_dir() else bench.harvest
            benches = [bench]
        else:
            paths = [*options.checkpoints]
            if options.make is not None:
                paths.append(make_checkpoint(options, options.made or folder / "made"))
            benches = [Bench(options, path, folder / path.stem) for path in paths]
        asked = [str(options.python), "-c", VERSIONS]
        self.versions = json.loads(subprocess.run(asked, stdout=-1, check=True).stdout)
        return benches

    def run(self, bench: Bench) -> None:
        """Every start with one checkpoint; one that fails is noted, and the next one made."""
        name = bench.checkpoint.stem
        if not bench.harvest.is_dir():
            for variant in ("all", "plain"):  # as a warm-up does
                print(f"{name}: recording a harvest ({variant})", file=sys.stderr)
                if self._try(name, f"recording, {variant}", bench, variant, record=True):
                    break
        if seen := self._try(name, "which kernels draw", bench, "plain", script=PROBE):
            kernels = json.loads((bench.folder / "probe.json").read_text())
            self.attention[name] = {"kernels": kernels, "picture": seen["picture"]}
        for cache, variant in bench.turns():
            try:
                self.runs.append(bench.measure(cache, variant))
            except StartError as error:
                self._note(name, variant, error)
            self.write()

    def _try(
        self, name: str, what: str, bench: Bench, variant: str, **how: Any
    ) -> dict[str, Any] | None:
        try:
            return bench.start(variant, **how)
        except StartError as error:
            self._note(name, what, error)
            self.write()
            return None

    def _note(self, name: str, what: str, error: StartError) -> None:
        print(f"{name} {what}: failed", file=sys.stderr)
        self.failed[f"{name}: {what}"] = str(error)[-3000:]

    def write(self) -> None:
        """The JSON file, whole."""
        write_report(self.options.json, **self.record())

    def record(self) -> dict[str, Any]:
        """As `benchmarks.gpu.record` describes it."""
        options = self.options
        described = environment(
            device=options.device,
            card=self.card,
            versions=self.versions,
            tricks=hash_tricks(),
            attention=self.attention,
            failed=self.failed,
            rounds=options.rounds,
            steps=options.steps,
            size=options.size,
            asked_attention=options.attention if options.worker is None else "the image's",
        )
        return {
            "figures": self.figures(),
            "environment": described,
            "runs": [asdict(run) for run in self.runs],
        }

    def figures(self) -> dict[str, float]:
        """By checkpoint, page cache and variant: median seconds to the first picture, of plain's."""
        found = {}
        for case, of in self._cases().items():
            plain = self._cases().get((*case[:2], "plain"))
            if plain and case[2] != "plain":
                found["_".join(case)] = round(median(of) / median(plain), 3)
        return found

    def _cases(self) -> dict[tuple[str, str, str], list[Run]]:
        """The runs of each checkpoint, page cache and variant, in the order of the options, whatever that of the runs."""
        checkpoints = list(dict.fromkeys(run.checkpoint for run in self.runs))
        caches, variants = self.options.cache.split(","), self.options.variants.split(",")

        def place(run: Run) -> tuple[int, int, int]:
            at = checkpoints.index(run.checkpoint), caches.index(run.cache)
            return *at, variants.index(run.variant)

        cases: dict[tuple[str, str, str], list[Run]] = {}
        for run in sorted(self.runs, key=place):
            cases.setdefault((run.checkpoint, run.cache, run.variant), []).append(run)
        return cases

    def table(self) -> str:
        """Markdown, a row for each checkpoint, page cache and variant."""
        card = self.card or {}
        about = [card.get("name", "no card"), f"driver {card.get('driver_version', '-')}"]
        about += [f"compute capability {card.get('compute_cap', '-')}"]
        about += [f"{name} {version}" for name, version in self.versions.items() if version]
        lines = [
            ", ".join(about),
            "",
            "| checkpoint | page cache | start | picture | first picture, s: median (min to max), n | "
            "torch, MB: now, peak | nvidia-smi, MB | attention | phases, s from the first process |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for (checkpoint, cache, variant), of in self._cases().items():
            seconds = [run.first_picture_s for run in of]
            lines.append(
                f"| {checkpoint} | {cache} | {variant} | {self._judge(checkpoint, of)} | "
                f"{median(of):.2f} ({min(seconds):.2f} to {max(seconds):.2f}), {len(of)} | "
                f"{memory_of(of)} | {of[-1].attention} | {phases_of(of)} |"
            )
        return "\n".join(lines)

    def _judge(self, checkpoint: str, of: list[Run]) -> str:
        plain = set(pictures(self.record()).get(checkpoint, {}).get("plain", ()))
        return "the same" if {run.picture for run in of} == plain and len(plain) == 1 else "DIFFERS"

    @property
    def is_good(self) -> bool:
        same = all(self._judge(case[0], of) == "the same" for case, of in self._cases().items())
        return same and bool(self.runs) and not self.failed

    def verdict(self) -> str:
        """What drew, what is proven, what failed, what to do."""
        lines = [""]
        for name, seen in self.attention.items():
            calls = [f"{each} ({count} calls)" for each, count in seen["kernels"].items()]
            told = ", ".join(calls) or "the webui itself"
            lines.append(f"{name}: attention was computed by {told}")
            plain = pictures(self.record()).get(name, {}).get("plain", [])
            if plain and seen["picture"] not in plain:
                lines.append("  (in a start that drew another picture than the measured ones)")
        lines += [f"failed: {what}\n{text}" for what, text in self.failed.items()]
        names = proven(self.record())
        lines.append(f"proven on this {self.options.device}: {', '.join(names) or 'nothing'}")
        if self.options.json is not None:
            lines.append(f"please send {self.options.json} in (docs/records/README.md)")
        return "\n".join(lines)


def make_checkpoint(options: argparse.Namespace, folder: Path) -> Path:
    """Random weights by a fixed seed; made once."""
    path = folder / f"{options.make}.safetensors"
    if not path.exists():
        script = REPOSITORY / "benchmarks" / "make_checkpoints.py"
        command = [options.python, script, "--webui", options.webui, "--out", folder, options.make]
        subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)
    return path


def median(runs: list[Run]) -> float:
    return float(statistics.median(run.first_picture_s for run in runs))


def memory_of(runs: list[Run]) -> str:
    """Two cells: torch's allocator, and what nvidia-smi saw more than before the start."""
    last = runs[-1]
    by_torch = [last.torch_bytes.get(name) for name in ("allocated", "allocated_peak")]
    shown = ", ".join("-" if each is None else f"{each / MEGA:.0f}" for each in by_torch)
    return f"{shown} | {'-' if last.smi_bytes is None else f'{last.smi_bytes / MEGA:.0f}'}"


def phases_of(runs: list[Run]) -> str:
    """The medians of when each began and ended."""
    names = dict.fromkeys(name for run in runs for name in run.phases)
    shown = []
    for name in names:
        begun, ended = (
            statistics.median(run.phases[name][at] for run in runs if name in run.phases)
            for at in (0, 1)
        )
        shown.append(f"{name} {begun:.2f}-{ended:.2f}" if ended > begun else f"{name} {ended:.2f}")
    return "; ".join(shown)


if __name__ == "__main__":
    sys.exit(main())
