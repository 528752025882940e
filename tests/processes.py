"""Whether a process that was ended is gone; stopping one."""

import os
import signal
import time
from pathlib import Path


def _state(pid: int) -> str:
    """As /proc has it: `T` is stopped, `Z` a zombie that nobody has reaped, `X` is no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def is_running(pid: int) -> bool:
    """Whether it is there and no zombie."""
    return _state(pid) not in "ZX"


def stop(pid: int) -> None:
    """Stops a process until the test continues it: `make test-paused`, which stops some as well, lets it alone then."""
    end = time.monotonic() + 120
    while _state(pid) == "T":
        assert time.monotonic() < end, f"{pid} stands still"
        time.sleep(0.02)
    os.kill(pid, signal.SIGSTOP)


def wait_until_gone(pid: int) -> None:
    """A killed process may need a moment to die."""
    end = time.monotonic() + 120
    while is_running(pid):
        assert time.monotonic() < end, f"{pid} does not die"
        time.sleep(0.02)
