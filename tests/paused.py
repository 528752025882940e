"""Runs pytest while the machine seems to stand still: random processes of the tests are stopped again and again.

`make test-paused TESTS=…`. Pytest itself is one of them, and now and then all are stopped at once. What fails
then and not otherwise waits for a clock in place of what it speaks of, in a test or in the product.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType


def processes_of(root: int) -> dict[int, str]:
    """`root` and all that descend from it, with their states as /proc has them (`T` is stopped)."""
    children: dict[int, list[int]] = {}
    states = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended
            continue
        states[int(entry.name)] = state
        children.setdefault(int(parent), []).append(int(entry.name))
    found, waiting = {}, [root]
    while waiting:
        pid = waiting.pop()
        if pid in states:
            found[pid] = states[pid]
            waiting += children.get(pid, [])
    return found


def name_of(pid: int) -> str:
    """The end of its command line, which is where processes of one interpreter differ."""
    try:
        words = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "(ended)"
    return b" ".join(words).decode(errors="replace").strip()[-60:]


@dataclass(kw_only=True)
class Pauser:
    """Stops some processes of a tree for a while, after each pause others."""

    root: int
    noise: random.Random
    pauses_s: tuple[float, float] = (1, 20)
    runs_s: tuple[float, float] = (0.5, 6)
    """How long they are let alone between two pauses."""
    stopped: list[int] = field(default_factory=list)

    def stop_some(self) -> None:
        """What stands already was stopped by a test, which will continue it or kill it."""
        there = sorted(pid for pid, state in processes_of(self.root).items() if state not in "TtZX")
        if not there:
            return
        count = len(there) if self.noise.random() < 0.2 else self.noise.randint(1, len(there))
        for pid in self.noise.sample(there, count):
            try:
                os.kill(pid, signal.SIGSTOP)
            except ProcessLookupError:
                continue
            self.stopped.append(pid)

    def go_on(self) -> None:
        """Continues all that was stopped."""
        while self.stopped:
            try:
                os.kill(self.stopped.pop(), signal.SIGCONT)
            except ProcessLookupError:
                continue

    def watch(self, process: subprocess.Popen[bytes]) -> int:
        """Until the process has ended. Returns its status; nothing is left stopped."""
        began = time.monotonic()
        try:
            while True:
                try:
                    return process.wait(self.noise.uniform(*self.runs_s))
                except subprocess.TimeoutExpired:
                    self.stop_some()
                pause_s = self.noise.uniform(*self.pauses_s)
                names = ", ".join(f"{pid} {name_of(pid)}" for pid in self.stopped)
                say(f"{time.monotonic() - began:.1f} s: for {pause_s:.1f} s: {names}")
                time.sleep(pause_s)
                self.go_on()
        finally:
            self.go_on()


def say(text: str) -> None:
    print(f"paused: {text}", file=sys.stderr, flush=True)


def interrupted(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.paused", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    parser.add_argument("--pauses", type=float, nargs=2, default=Pauser.pauses_s, metavar="S")
    parser.add_argument("--runs", type=float, nargs=2, default=Pauser.runs_s, metavar="S")
    options, for_pytest = parser.parse_known_args(arguments)
    for each in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # which a shell's background job would ignore, and so pytest
        signal.signal(each, interrupted)
    say(f"--seed {options.seed}")
    with subprocess.Popen([sys.executable, "-m", "pytest", *for_pytest]) as process:
        pauser = Pauser(
            root=process.pid,
            noise=random.Random(options.seed),
            pauses_s=tuple(options.pauses),
            runs_s=tuple(options.runs),
        )
        try:
            return pauser.watch(process)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            raise


if __name__ == "__main__":
    sys.exit(main())
