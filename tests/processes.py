"""Whether a process that was ended is gone."""

import time
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether it is there and no zombie that nobody has reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until_gone(pid: int) -> None:
    """A killed process may need a moment to die."""
    end = time.monotonic() + 120
    while is_running(pid):
        assert time.monotonic() < end, f"{pid} does not die"
        time.sleep(0.02)
