"""The worker's log: one JSON object a line on stdout, with the keys that RunPod's own log lines have.

`phase` says what the worker was doing: start, job, lora, generate, output, webui, stop.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from contextvars import ContextVar
from typing import Any

_job_id: ContextVar[str | None] = ContextVar("job_id", default=None)
_lock = threading.Lock()
_TEXT_CHARS = 4000


def bind_job(job_id: str) -> None:
    """Every line of this task, and of threads started with its context, bears the id from now on."""
    _job_id.set(job_id)


def log(level: str, phase: str, message: str, /, **fields: Any) -> None:
    """Writes one line; `level` is INFO, WARN or ERROR. Never raises, never writes a line in two."""
    entry: dict[str, Any] = {
        "requestId": _job_id.get(),
        "message": message[:_TEXT_CHARS],
        "level": level,
        "phase": phase,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **fields,
    }
    line = json.dumps(entry, default=str) + "\n"
    with _lock, contextlib.suppress(OSError, ValueError):
        sys.stdout.write(line)
        sys.stdout.flush()


class Counters:
    """What happened in the worker's life; one line when it ends."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._counts: dict[str, float] = {}

    def add(self, name: str, amount: float = 1) -> None:
        self._counts[name] = round(self._counts.get(name, 0) + amount, 3)

    def write(self) -> None:
        """Writes the one line."""
        life_s = round(time.monotonic() - self._began, 3)
        log("INFO", "stop", "worker ends", life_s=life_s, counts=dict(sorted(self._counts.items())))
