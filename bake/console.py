"""What `bake` says while it works: timed steps for people on stderr, or JSON events on stdout.

A step that is skipped says why. Nothing here ever prints a secret: callers pass text that is
already fit to be read by anybody.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm


def format_bytes(size_bytes: float) -> str:
    """`1536` → `1.5 KiB`; whole bytes below 1 KiB."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


class Progress:
    """Counts bytes of one transfer; a bar on a terminal, nothing elsewhere."""

    def __init__(self, bar: tqdm[Any] | None) -> None:
        self._bar = bar

    def advance(self, size_bytes: int) -> None:
        """Adds `size_bytes` (negative after a restart from an earlier offset)."""
        if self._bar is not None:
            self._bar.update(size_bytes)

    def passing(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks, counted."""
        for chunk in chunks:
            self.advance(len(chunk))
            yield chunk


class Timing:
    """How long a step took, once it has ended."""

    seconds: float = 0.0


class Console:
    """The one place that writes for people (stderr) or machines (`as_json`: one object a line)."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        manifest: str | None = None,
        prefix: str = "",
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.prefix = prefix
        """Begins each line for people, where a command is about several manifests."""
        self._fields = {} if manifest is None else {"manifest": manifest}

    def event(self, kind: str, /, **fields: Any) -> None:
        """Emits a machine-readable event; silent for people."""
        if self.as_json:
            line = json.dumps({"event": kind, **self._fields, **fields}, sort_keys=True)
            # One write, so that the lines of bakes side by side do not mix.
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def answer(self, text: str) -> None:
        """Lines on stdout for people, what the command was asked for; machines have events for that."""
        if not self.as_json:
            self._write(sys.stdout, text)

    def say(self, text: str) -> None:
        """A line for people; in JSON mode an `info` event."""
        if self.as_json:
            self.event("info", text=text)
        elif not self.quiet:
            self._write(sys.stderr, text)

    def warn(self, text: str) -> None:
        """A line that must not be missed, also in quiet mode."""
        if self.as_json:
            self.event("warning", text=text)
        else:
            self._write(sys.stderr, f"warning: {text}")

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write("".join(f"{self.prefix}{line}\n" for line in text.split("\n")))
        stream.flush()

    @contextmanager
    def step(self, name: str, why: str = "") -> Iterator[Timing]:
        """Runs one timed step and says when it began, ended or failed."""
        self.event("step.began", step=name, why=why)
        if not self.as_json:
            self.say(f"▶ {name}" + (f" ({why})" if why else ""))
        timing = Timing()
        began = time.monotonic()
        try:
            yield timing
        except BaseException:
            seconds = round(time.monotonic() - began, 3)
            self.event("step.failed", step=name, seconds=seconds)
            if not self.as_json:
                self.say(f"✗ {name} failed after {seconds:.1f} s")
            raise
        timing.seconds = round(time.monotonic() - began, 3)
        self.event("step.ended", step=name, seconds=timing.seconds)
        if not self.as_json:
            self.say(f"✓ {name} {timing.seconds:.1f} s")

    def skip(self, name: str, why: str) -> None:
        """Says that a step's result exists already, and why that is known."""
        self.event("step.skipped", step=name, why=why)
        if not self.as_json:
            self.say(f"∙ {name}: {why}")

    @contextmanager
    def progress(self, label: str, total_bytes: int | None) -> Iterator[Progress]:
        """A byte bar where there is a terminal; a `transfer` event at both ends for machines."""
        self.event("transfer.began", label=label, bytes=total_bytes)
        bar = None
        if not self.as_json and not self.quiet and sys.stderr.isatty():
            from tqdm import tqdm  # noqa: PLC0415  # costs start time; only here is it used

            bar = tqdm(
                total=total_bytes,
                desc=self.prefix + label,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
            )
        try:
            yield Progress(bar)
        finally:
            if bar is not None:
                bar.close()
            self.event("transfer.ended", label=label)
