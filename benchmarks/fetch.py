"""How fast `bake fetch` is beside curl and `aria2c -x4`, each with a SHA256 check, in one run.

A file is served over loopback by the tests' storage, first as it should be, then with 5% of the
connections cut at a random byte. Every contestant downloads it in turn, several times, as a process
of its own: wall time, CPU time and peak memory are the kernel's own figures for that process.

    .venv/bin/python -m benchmarks.fetch [--mebibytes 2048] [--runs 5] [--folder DIR] [--json FILE]

Needs curl and aria2c (Debian: apt-get install curl aria2). `fetch_time_ratio` is our median over that of
`aria2c -x4` followed by `sha256sum`, `fetch_time_ratio_own_check` over that of aria2c with its own check
(`--checksum`); below 1 we are faster. aria2c gets no preallocation, which is its quickest way; ours reserves the room and flushes the file to
the disk before it counts as there. A peak of about 40 MiB is this process's own, which the kernel
counts for every child.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import environment, need_programs, write_report
from tests.standins import models
from tests.standins.storage import Blob, Storage, no_fault, random_cuts

NAME = "x.safetensors"
CUT_SHARE = 0.05
OURS = "bake fetch, 4 connections"
CHECKED_BY_ARIA = "aria2c -x4 --checksum"
CHECKED_AFTER = "aria2c -x4, sha256sum"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One run of one contestant."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def write_model(path: Path, size_bytes: int) -> str:
    """A valid SDXL-like file of about `size_bytes`; gives its SHA256."""
    head = models.safetensors(models.SDXL)
    (length,) = struct.unpack("<Q", head[:8])
    header = json.loads(head[8 : 8 + length])
    at = max(each["data_offsets"][1] for each in header.values())
    end = at + size_bytes // 2 * 2
    name = "model.diffusion_model.out.2.weight"
    header[name] = {"dtype": "F16", "shape": [(end - at) // 2], "data_offsets": [at, end]}
    text = json.dumps(header).encode()
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in (struct.pack("<Q", len(text)), text, head[8 + length :]):
            digest.update(piece)
            file.write(piece)
        left = end - at
        while left:
            piece = os.urandom(min(left, 8 << 20))
            digest.update(piece)
            file.write(piece)
            left -= len(piece)
    return digest.hexdigest()


def serve(path: Path, cuts: bool, channel: Connection) -> None:
    """Serves the file from a process of its own until the channel closes."""
    storage = Storage(blobs={NAME: Blob(path=path)})
    size = path.stat().st_size
    if cuts:
        storage.fault = random_cuts(seed=1, share=CUT_SHARE, most_bytes=size // 4)
    else:
        storage.fault = no_fault
    channel.send(f"{storage.server.url}/plain/{NAME}")
    channel.recv()
    storage.close()


def run(command: list[str], environment: dict[str, str] | None = None) -> Cost:
    """Runs a command and waits; `wait4` gives what it and its own children used."""
    began = time.monotonic()
    quiet = os.open(os.devnull, os.O_WRONLY)
    pid = os.posix_spawnp(
        command[0],
        command,
        {**os.environ, **(environment or {})},
        file_actions=[(os.POSIX_SPAWN_DUP2, quiet, 1)],
    )
    os.close(quiet)
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed with {os.waitstatus_to_exitcode(status)}")
    return Cost(
        wall_s=time.monotonic() - began,
        cpu_s=used.ru_utime + used.ru_stime,
        peak_mib=used.ru_maxrss / 1024,
    )


def add(first: Cost, second: Cost) -> Cost:
    """One after the other."""
    return Cost(
        wall_s=first.wall_s + second.wall_s,
        cpu_s=first.cpu_s + second.cpu_s,
        peak_mib=max(first.peak_mib, second.peak_mib),
    )


def contestants(
    folder: Path, url: str, sha256: str, size: int
) -> list[Callable[[], dict[str, Cost]]]:
    """Each downloads into an empty folder; curl and aria2c with and without sha256sum after it."""
    target = folder / "target"
    file = target / NAME
    sums = folder / "sums"
    sums.write_text(f"{sha256}  {file}\n")
    check = ["sha256sum", "--check", "--status", str(sums)]
    curl = ["curl", "--silent", "--fail", "--retry", "20", "--retry-all-errors", "--retry-delay"]
    curl += ["0", "--continue-at", "-", "--output", str(file), url]
    aria = ["aria2c", "-x4", "-s4", "--quiet", "--file-allocation=none", "--max-tries=20"]
    aria += ["--retry-wait=0", "--dir", str(target), "--out", NAME, url]
    manifest = folder / "bench.yaml"
    manifest.write_text(
        f"name: bench\nfamily: sdxl\ncheckpoint: {url}\n"
        "warmup:\n  prompt: a cat\nimage: example.com/bench\n"
    )
    pin = {
        "key": "checkpoint",
        "role": "checkpoint",
        "name": "x",
        "source": url,
        "file_name": NAME,
        "size_bytes": size,
        "sha256": sha256,
        "url": url,
    }
    lock = {"format": 1, "manifest": "bench", "family": "sdxl", "pins": [pin]}
    manifest.with_suffix(".lock.json").write_text(json.dumps(lock))
    bake = [sys.executable, "-m", "bake", "fetch", "--quiet", str(manifest)]

    def emptied(action: Callable[[], dict[str, Cost]]) -> Callable[[], dict[str, Cost]]:
        def clean_and_run() -> dict[str, Cost]:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            return action()

        return clean_and_run

    def fetch(connections: int) -> Cost:
        environment = {"BAKE_STORE": str(target), "BAKE_CONNECTIONS": str(connections)}
        return run(bake, environment)

    def download_and_check(name: str, command: list[str]) -> dict[str, Cost]:
        alone = run(command)
        return {name: alone, f"{name}, sha256sum": add(alone, run(check))}

    return [
        emptied(lambda: {OURS: fetch(4)}),
        emptied(lambda: {"bake fetch, 1 connection": fetch(1)}),
        emptied(lambda: {CHECKED_BY_ARIA: run([*aria, f"--checksum=sha-256={sha256}"])}),
        emptied(lambda: download_and_check("aria2c -x4", aria)),
        emptied(lambda: download_and_check("curl", curl)),
    ]


def measure(
    folder: Path, model: Path, sha256: str, *, cuts: bool, runs: int
) -> dict[str, dict[str, float]]:
    """All contestants in turn, `runs` times."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(model, cuts, theirs), daemon=True)
    server.start()
    costs: dict[str, list[Cost]] = {}
    runners = contestants(folder, ours.recv(), sha256, model.stat().st_size)
    for _ in range(runs):
        for action in runners:
            for name, cost in action().items():
                costs.setdefault(name, []).append(cost)
    ours.send("done")
    server.join()
    return {name: summarise(each) for name, each in costs.items()}


def summarise(costs: list[Cost]) -> dict[str, float]:
    """Median and spread."""
    walls = sorted(each.wall_s for each in costs)
    return {
        "wall_s": round(statistics.median(walls), 3),
        "wall_min_s": round(walls[0], 3),
        "wall_max_s": round(walls[-1], 3),
        "cpu_s": round(statistics.median(each.cpu_s for each in costs), 3),
        "peak_mib": round(max(each.peak_mib for each in costs), 1),
    }


def ratio(table: dict[str, dict[str, float]], theirs: str) -> float:
    """Our median over theirs."""
    return round(table[OURS]["wall_s"] / table[theirs]["wall_s"], 3)


def show(title: str, table: dict[str, dict[str, float]]) -> None:
    """A Markdown table on stdout."""
    print(f"\n{title}\n\n| | wall (s) | min to max | CPU (s) | peak (MiB) |\n|---|---|---|---|---|")
    for name, row in table.items():
        print(
            f"| {name} | {row['wall_s']:.2f} | {row['wall_min_s']:.2f} to {row['wall_max_s']:.2f} "
            f"| {row['cpu_s']:.2f} | {row['peak_mib']:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="where the files are (default: a temporary one)"
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    need_programs(aria2c="aria2", curl="curl", sha256sum="coreutils")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        model = folder / "served"
        sha256 = write_model(model, given.mebibytes << 20)
        tables = {
            "clean": measure(folder, model, sha256, cuts=False, runs=given.runs),
            "cut": measure(folder, model, sha256, cuts=True, runs=given.runs),
        }
    figures = {
        "fetch_time_ratio": ratio(tables["clean"], CHECKED_AFTER),
        "fetch_time_ratio_cut": ratio(tables["cut"], CHECKED_AFTER),
        "fetch_time_ratio_own_check": ratio(tables["clean"], CHECKED_BY_ARIA),
        "fetch_peak_mib": max(each[OURS]["peak_mib"] for each in tables.values()),
    }
    show(f"{given.mebibytes} MiB over loopback, {given.runs} runs", tables["clean"])
    show(f"the same, {CUT_SHARE:.0%} of the connections cut", tables["cut"])
    print()
    for figure, value in figures.items():
        print(f"{figure} {value}")
    write_report(
        given.json,
        figures=figures,
        environment=environment(mebibytes=given.mebibytes, rounds=given.runs),
        runs=tables,
    )


if __name__ == "__main__":
    main()
