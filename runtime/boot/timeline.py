"""The start's timeline: one JSON line for what began and ended when, and boot's own log lines.

Times are CLOCK_MONOTONIC seconds, which all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator

DEFAULT_FILE = "/tmp/bakery/timeline.jsonl"  # noqa: S108  # a container's own /tmp


def write(name: str, began: float, ended: float | None = None, **details: object) -> None:
    """Appends an event to `$BAKERY_TIMELINE`; a file that cannot be written costs only the event."""
    event = {"name": name, "began": began, "ended": time.monotonic() if ended is None else ended}
    line = json.dumps({**event, **details}) + "\n"
    path = os.environ.get("BAKERY_TIMELINE") or DEFAULT_FILE
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)  # noqa: PTH103, PTH120  # pathlib costs 4 ms
        # One write to a file opened for appending: lines of several threads do not mix.
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)


@contextlib.contextmanager
def span(name: str) -> Iterator[None]:
    """Writes how long the block took; nothing if it raises."""
    began = time.monotonic()
    yield
    write(name, began)


def log(message: str) -> None:
    """One line in the webui's own log."""
    print(f"boot: {message}", file=sys.stderr, flush=True)
