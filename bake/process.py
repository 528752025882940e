"""The one gateway for subprocesses: list arguments, echoed, output kept in a log, ended with us."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from bake.console import Console
from bake.secrets import mask_secrets

_TERMINATE_GRACE_S = 10
_LAST_LINES = 15


class CommandError(Exception):
    """A command ended with a status other than 0.

    Attributes:
        command: The command as a shell would be given it.
        status: Its exit status, negative for a signal.
        last_lines: The end of what it printed; secrets in it are masked, as errors show it.
    """

    def __init__(self, command: str, status: int, last_lines: Sequence[str]) -> None:
        super().__init__(f"{command} ended with status {status}")
        self.command = command
        self.status = status
        self.last_lines = tuple(map(mask_secrets, last_lines))


def run_command(
    command: Sequence[str],
    *,
    log: Path,
    console: Console,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Runs a command to its end, with stdout and stderr appended to `log`.

    Whatever stops us stops the command too: it is terminated, and killed after 10 s.

    Raises:
        CommandError: it ended with another status than 0.
        FileNotFoundError: there is no such program.
    """
    shown = shlex.join(command)
    console.say(f"+ {shown}")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(f"+ {shown}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
        )
        try:
            status = process.wait()
        except BaseException:
            _end(process)
            raise
    if status != 0:
        raise CommandError(shown, status, last_lines(log))


def capture_command(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdin: bytes = b"",
    timeout_s: float,
    most_bytes: int,
) -> bytes:
    """Runs a command to its end, and gives what it printed; with all that it started it is killed where we stop.

    Raises:
        CommandError: it ended with another status than 0; with the end of its stderr.
        TimeoutError: it did not end in time.
        OverflowError: it printed more than `most_bytes`.
        FileNotFoundError: there is no such program.
    """
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as printed,
        tempfile.TemporaryFile() as said,
    ):
        given.write(stdin)
        given.seek(0)
        process = subprocess.Popen(
            command,
            stdin=given,
            stdout=printed,
            stderr=said,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status != 0:
            said.seek(0)
            lines = said.read().decode("utf-8", "replace").splitlines()
            raise CommandError(shlex.join(command[:1]), status, lines[-_LAST_LINES:])
        if printed.seek(0, os.SEEK_END) > most_bytes:
            raise OverflowError
        printed.seek(0)
        return printed.read()


def last_lines(log: Path, count: int = _LAST_LINES) -> list[str]:
    """The end of a log, without carriage returns and empty lines."""
    with log.open(encoding="utf-8", errors="replace") as text:
        return list(deque((line.rstrip() for line in text if line.strip()), maxlen=count))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_TERMINATE_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
