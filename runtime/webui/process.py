"""The webui as a child process: start it, know when its model is loaded, notice its end, stop it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from runtime.boot.timeline import DEFAULT_FILE
from runtime.clock import clock
from runtime.webui.client import WebuiAnswerError, WebuiClient, WebuiError

PROBE = {"prompt": "", "steps": 1, "width": 64, "height": 64, "seed": 1, "save_images": False}
"""The smallest picture; it needs the model, so its success proves that the model is loaded."""

_MISSING_MODEL = re.compile(r"(?:unable to load|failed loading)\b.*\bmodel", re.IGNORECASE)
"""What the webui prints where it draws on without an upscaler's or a face restorer's file."""
_POLL_S = 0.02
_TIMELINE_GRACE_S = 2.0
"""How long boot may stay silent about the model of an answering webui before a picture is asked for."""
_PROBE_ATTEMPTS = 3
_KEPT_LINES = 200
_LINE_CHARS = 2000
_LOG_BYTES = 8 * 1024 * 1024
_LAST_WORDS_S = 5.0
"""How long to wait for the end of the output: a child that outlives the webui may hold the pipe open."""


class WebuiProcessError(Exception):
    """The webui ended, or did not load its model in time.

    Args:
        what: One sentence.
        last_lines: What it printed last.
    """

    def __init__(self, what: str, last_lines: Sequence[str]) -> None:
        super().__init__(what)
        self.last_lines = list(last_lines)


class WebuiProcess:
    """One run of the webui after another under the same command.

    Args:
        command: Argument list, see `runtime.worker.Worker.command`.
        cwd: The webui's working directory.
        port: Where its API answers on 127.0.0.1.
        environment: Its whole environment; ours if left out.
        timeline: Where `runtime.boot` writes events; `$BAKERY_TIMELINE` if left out.
        log_file: Where its output goes, two files of at most 8 MiB; only kept in memory if left out.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: str,
        port: int,
        environment: Mapping[str, str] | None = None,
        timeline: Path | None = None,
        log_file: Path | None = None,
    ) -> None:
        self.client = WebuiClient(port)
        self.missing_models = 0
        """How often it has said that it goes on without a model that it could not load."""
        self._command = list(command)
        self._cwd = cwd
        self._timeline = timeline or Path(os.environ.get("BAKERY_TIMELINE") or DEFAULT_FILE)
        self._environment = dict(os.environ if environment is None else environment)
        self._environment["BAKERY_TIMELINE"] = str(self._timeline)
        self._environment["PYTHONUNBUFFERED"] = "1"
        self._log_file = log_file
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._timeline_from = 0

    @property
    def is_plain(self) -> bool:
        """Whether it is started as upstream does, without tricks."""
        return self._environment.get("BAKERY_BOOT", "").strip() == "plain"

    def start(self, *, plain: bool = False) -> None:
        """Starts it in a process group of its own; returns at once. Once `plain`, every start is.

        Raises:
            WebuiProcessError: the interpreter or the script's folder is not there.
        """
        self._timeline.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._timeline_from = self._timeline.stat().st_size
        self._lines.clear()
        if plain:
            self._environment["BAKERY_BOOT"] = "plain"
        try:
            process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise WebuiProcessError(f"the webui cannot be started: {error}", ()) from error
        assert process.stdout is not None  # noqa: S101  # PIPE was asked for
        self._process = process
        self._reader = threading.Thread(
            target=self._keep_output, args=(process.stdout,), daemon=True, name="webui-output"
        )
        self._reader.start()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it; -1 as well before any start."""
        return -1 if self._process is None else self._process.poll()

    @property
    def has_unread_output(self) -> bool:
        """Whether some of what it has printed is still in the pipe."""
        pipe = None if self._process is None else self._process.stdout
        if pipe is None or pipe.closed:
            return False
        return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder) > 0

    def last_lines(self, count: int = 30) -> list[str]:
        """What it printed last; a longer line comes in pieces of 2,000 characters."""
        return list(self._lines)[-count:]

    def wait_until_loaded(self, deadline_s: float, *, began: float | None = None) -> None:
        """Returns when the API answers and the model is loaded, with an eye on the process.

        Loaded means that boot, or the webui itself, reported the event `model` since this start, or that a
        picture of 64x64 in one step succeeded, which is tried where neither says that the event will come.

        Raises:
            WebuiProcessError: it ended, its model failed, or the deadline, from `began` (now) on, passed.
        """
        end = (clock.now() if began is None else began) + deadline_s
        while not self._answers():
            self._check(end, deadline_s)
            time.sleep(_POLL_S)
        has_boot = "runtime.boot" in self._command
        quiet_until = clock.now() + (_TIMELINE_GRACE_S if has_boot else 0)
        while not self._reported("model"):
            self._check(end, deadline_s)
            is_quiet = clock.now() >= quiet_until and not self._reported("model-expected")
            if is_quiet or self._reported("model-failed"):
                self._draw_probe(end, deadline_s)
                return
            time.sleep(_POLL_S)

    def stop(self, grace_s: float = 5.0) -> None:
        """Ends it and all its children: SIGTERM, and SIGKILL after `grace_s`."""
        process = self._process
        if process is None:
            return
        for sig, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
            # The group outlives its leader as long as one child runs.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait_s)
        if self._reader is not None:
            self._reader.join(_LAST_WORDS_S)

    def _draw_probe(self, end: float, deadline_s: float) -> None:
        """Draws the smallest picture. One that takes as long as the model's load is given the time."""
        for _ in range(_PROBE_ATTEMPTS):
            try:
                self.client.draw(PROBE, timeout_s=max(end - clock.now(), 0.1))
            except WebuiError as error:
                failure = error
            else:
                return
            # A connection breaks a moment before the process can be seen to have ended.
            time.sleep(1.0)
            self._check(end, deadline_s)
        what = f"the webui answers but cannot draw: {failure}"
        raise WebuiProcessError(what, self.last_lines())

    def _answers(self) -> bool:
        try:
            self.client.progress(timeout_s=2.0)
        except WebuiAnswerError as refused:
            return refused.status not in {404, 502, 503}
        except WebuiError:
            return False
        return True

    def timeline(self) -> list[dict[str, Any]]:
        """What boot and the webui have reported of this start: `name`, `began` and `ended` (monotonic s)."""
        with contextlib.suppress(FileNotFoundError), self._timeline.open("rb") as file:
            file.seek(self._timeline_from)
            # A line that is being written is read the next time.
            return [json.loads(line) for line in file if line.endswith(b"}\n")]
        return []

    def _reported(self, event_name: str) -> bool:
        return any(event.get("name") == event_name for event in self.timeline())

    def _check(self, end: float, deadline_s: float) -> None:
        if self.exit_code is not None:
            if self._reader is not None:
                self._reader.join(_LAST_WORDS_S)
            raise WebuiProcessError(describe_exit(self.exit_code), self.last_lines())
        if clock.now() > end:
            what = f"the webui's model was not loaded within {deadline_s:.0f} s"
            raise WebuiProcessError(what, self.last_lines())

    def _keep_output(self, pipe: IO[str]) -> None:
        r"""Reads until the end of the pipe; `\r` of progress bars counts as a line's end."""
        keep = _bounded_log(self._log_file)
        with pipe:
            while text := pipe.readline(_LINE_CHARS):
                if line := text.rstrip("\n"):
                    self.missing_models += _MISSING_MODEL.search(line) is not None
                    self._lines.append(line)
                    keep(line)


def describe_exit(exit_code: int) -> str:
    """One sentence about how the process ended."""
    if exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"the webui was killed by {signal.Signals(-exit_code).name}"
    return f"the webui exited with code {exit_code}"


def _bounded_log(path: Path | None) -> Callable[[str], object]:
    """Writes lines to two files of at most 8 MiB; a folder that cannot be written costs the log only."""
    if path is None:
        return lambda _: None
    import logging.handlers  # noqa: PLC0415  # in the reading thread, after the webui has started

    logging.raiseExceptions = False
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=_LOG_BYTES, backupCount=1, delay=True, encoding="utf-8"
    )
    return lambda line: handler.emit(logging.makeLogRecord({"msg": line}))
