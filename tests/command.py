"""`bake` as a function: in the process of the tests, whose modules are imported already."""

import signal

import pytest

from bake.cli import main


def call_bake(*arguments: str) -> object:
    """Runs a command and gives its exit code; the signals are the caller's again afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
    finally:
        signal.signal(signal.SIGTERM, before)
    return ended.value.code
