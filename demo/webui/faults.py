"""Faults on purpose, for tests of what talks to the webui. Set by the environment only, never by default.

DEMO_FAULT is a list with commas of:

    no-start       end with a traceback and status 1 before the server answers
    hang-start     never answer
    hang-load      answer, but never load the model
    slow-load=N    load the model N milliseconds later
    die-mid-job    kill the process by SIGKILL in the middle of a job, as the kernel does for memory
    hang-job       never end a job; an interrupt does not help
    slow=N         N milliseconds more for each step
    oom            every job fails as torch does without memory on the card
    oom>N          a job fails so if batch_size x width x height is more than N
    black          pictures are black, as a VAE in half precision makes them
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLE = "DEMO_FAULT"
_PLAIN = ("no-start", "hang-start", "hang-load", "die-mid-job", "hang-job", "oom", "black")
_NUMBERED = {"slow": "=", "slow-load": "=", "oom": ">"}


class OutOfMemoryError(RuntimeError):
    """Named as torch.cuda.OutOfMemoryError is in the webui's answers."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Which faults are on, with their numbers."""

    plain: frozenset[str] = frozenset()
    slow_ms: int = 0
    slow_load_ms: int = 0
    oom_above: int | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Faults:
        """Raises ValueError for a fault that there is not."""
        plain, numbers = set(), {}
        for text in filter(
            None, (part.strip() for part in environment.get(VARIABLE, "").split(","))
        ):
            found = re.fullmatch(r"([a-z-]+)([=>])(\d+)", text)
            if text in _PLAIN:
                plain.add(text)
            elif found and _NUMBERED.get(found[1]) == found[2]:
                numbers[found[1]] = int(found[3])
            else:
                raise ValueError(
                    f"{VARIABLE} names {text!r}; demo/webui/faults.py lists the faults"
                )
        return cls(
            plain=frozenset(plain),
            slow_ms=numbers.get("slow", 0),
            slow_load_ms=numbers.get("slow-load", 0),
            oom_above=numbers.get("oom"),
        )

    @property
    def black(self) -> bool:
        return "black" in self.plain

    def at_start(self) -> None:
        if "no-start" in self.plain:
            raise RuntimeError("Couldn't start: DEMO_FAULT=no-start")
        if "hang-start" in self.plain:
            _hang()

    def at_load(self) -> None:
        time.sleep(self.slow_load_ms / 1000)
        if "hang-load" in self.plain:
            _hang()

    def at_job(self, *, pixels: int) -> None:
        """Raises OutOfMemoryError with torch 2.1's words."""
        limit = 0 if "oom" in self.plain else self.oom_above
        if limit is not None and pixels > limit:
            raise OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 4.50 GiB. GPU 0 has a total capacty of 23.65 GiB"
                " of which 1.20 GiB is free. Process 1 has 22.44 GiB memory in use. Of the allocated memory"
                " 21.02 GiB is allocated by PyTorch, and 974.00 MiB is reserved by PyTorch but unallocated."
                " If reserved but unallocated memory is large try setting max_split_size_mb to avoid"
                " fragmentation.  See documentation for Memory Management and PYTORCH_CUDA_ALLOC_CONF"
            )

    def at_step(self, step: int, steps: int) -> None:
        time.sleep(self.slow_ms / 1000)
        if step == steps // 2:
            if "die-mid-job" in self.plain:
                os.kill(os.getpid(), signal.SIGKILL)
            if "hang-job" in self.plain:
                _hang()


def _hang() -> None:
    threading.Event().wait()
