"""One command for several manifests: one after the other or side by side, each reported, one exit code.

One after the other, they run in this process. Side by side each is a process of its own, as if it had been called
alone: they share base, wheel and store by the locks that any two bakes share them by, an interrupted one cleans up
as ever, and nothing of one can spoil another.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, TextIO, TypeVar

import click

from bake.cli.failures import State, say_failure
from bake.console import Console
from bake.errors import ManifestError

Outcome = Literal["done", "failed", "ended", "not begun"]
"""`ended`: stopped by us, because another one had failed."""
Subject = TypeVar("Subject", str, Path)
"""A manifest, or whatever else a command is about."""
_END_GRACE_S = 120
"""A bake that is told to end removes its container first, on a busy engine too."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How it went with one manifest."""

    manifest: str
    outcome: Outcome
    exit_code: int | None = None
    seconds: float = 0.0


def run_each(
    manifests: Sequence[Subject],
    action: Callable[[Subject, Console], None],
    *,
    as_json: bool = False,
    quiet: bool = False,
    fail_fast: bool = False,
    jobs: int = 1,
    is_silent: bool = False,
) -> None:
    """Does `action` for each manifest; with several, goes on after a failure and sums up at the end.

    Args:
        manifests: As they were given.
        action: For one of them, with a console whose lines and events name it.
        as_json: Events on stdout.
        quiet: Warnings and errors only.
        fail_fast: After a failure none is begun any more, and those beside it are ended.
        jobs: How many at once. Above 1, each is a process with the options of this command.
        is_silent: The console is for answers alone, which need no line of progress.

    Raises:
        BakeError: the only manifest's.
        click.exceptions.Exit: several manifests, of which some failed; with the code of the first of them.
    """
    if len(manifests) == 1:
        action(manifests[0], Console(as_json=as_json, quiet=quiet or is_silent, manifest=str(manifests[0])))  # fmt: skip
        return
    prefixes = make_prefixes(manifests)
    if jobs == 1:
        results = _one_after_the_other(
            manifests,
            prefixes,
            action,
            as_json=as_json,
            quiet=quiet or is_silent,
            fail_fast=fail_fast,
        )
    else:
        crew = _Crew(as_json=as_json, fail_fast=fail_fast, command=_this_command(), debug=_debug())
        results = crew.run(manifests, prefixes, jobs=jobs)
    _sum_up(results, Console(as_json=as_json, quiet=quiet))
    failed = [result.exit_code for result in results if result.outcome == "failed"]
    if failed:
        click.get_current_context().exit(failed[0] or 1)


def make_prefixes(manifests: Sequence[str | Path]) -> list[str]:
    """What begins each one's lines: its name, or its path where two have one name; all of one width."""
    names = [
        Path(path).stem if Path(path).suffix in (".yaml", ".yml") else str(path)
        for path in manifests
    ]
    if len(set(names)) < len(names):
        names = [str(path) for path in manifests]
    width = max(map(len, names))
    return [f"{name:<{width}} | " for name in names]


def refuse_same_names(manifests: Sequence[Path]) -> None:
    """Two manifests of one name would bake into one folder, the second over the first.

    Raises:
        ManifestError: there are such; those that cannot be read fail for themselves.
    """
    from bake.manifest.load import load_manifest  # noqa: PLC0415  # loaded when a command runs

    known: dict[str, Path] = {}
    for path in manifests if len(manifests) > 1 else []:
        try:
            name = load_manifest(path).name
        except ManifestError:
            continue
        if name in known:
            raise ManifestError(
                f"{known[name]} and {path} have the same name, {name}, and so the same build folder",
                hint="give one of them another `name`, or bake them apart with --build-dir",
            )
        known[name] = path


def _one_after_the_other(
    manifests: Sequence[Subject],
    prefixes: Sequence[str],
    action: Callable[[Subject, Console], None],
    *,
    as_json: bool,
    quiet: bool,
    fail_fast: bool,
) -> list[Result]:
    results: list[Result] = []
    debug = _debug()
    for path, prefix in zip(manifests, prefixes, strict=True):
        if fail_fast and any(result.outcome == "failed" for result in results):
            results.append(Result(manifest=str(path), outcome="not begun"))
            continue
        console = Console(as_json=as_json, quiet=quiet, manifest=str(path), prefix=prefix)
        code, began = 0, time.monotonic()
        try:
            action(path, console)
        except Exception as error:  # noqa: BLE001  # the others are still to be done
            code = say_failure(error, debug=debug, prefix=prefix)
        results.append(
            Result(
                manifest=str(path),
                outcome="failed" if code else "done",
                exit_code=code,
                seconds=round(time.monotonic() - began, 3),
            )
        )
    return results


def _debug() -> bool:
    return click.get_current_context().ensure_object(State).debug


def _this_command() -> list[str]:
    """This command with the options that it was given, for one manifest that is to follow."""
    context = click.get_current_context()
    words = [sys.executable, "-m", "bake", *context.command_path.split()[1:]]
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        if not isinstance(parameter, click.Option) or not given or name in ("jobs", "fail_fast"):
            continue
        value = context.params.get(name)
        if parameter.is_flag:
            words.append(parameter.opts[-1])
        else:
            values = value if parameter.multiple and isinstance(value, tuple) else (value,)
            words += [word for each in values for word in (parameter.opts[0], str(each))]
    return [*words, "--"]


@dataclass(kw_only=True)
class _Crew:
    """Processes side by side, none of which is left when we go."""

    as_json: bool
    fail_fast: bool
    command: Sequence[str]
    debug: bool
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: set[subprocess.Popen[str]] = field(default_factory=set)
    _is_over: bool = False
    _broken: OSError | None = None

    def run(
        self, manifests: Sequence[str | Path], prefixes: Sequence[str], *, jobs: int
    ) -> list[Result]:
        """All of them, `jobs` at once; the results in their order."""
        with ThreadPoolExecutor(jobs) as pool:
            waiting = [pool.submit(self._one, *each) for each in zip(manifests, prefixes, strict=True)]  # fmt: skip
            try:
                results = [each.result() for each in waiting]
            except BaseException:
                self._end()
                raise
        if self._broken:
            raise self._broken
        return results

    def _one(self, manifest: str | Path, prefix: str) -> Result:
        began = time.monotonic()
        process = self._start(manifest)
        if process is None:
            return Result(manifest=str(manifest), outcome="not begun")
        readers = [
            threading.Thread(target=self._relay, args=(process.stdout, sys.stdout, "" if self.as_json else prefix)),
            threading.Thread(target=self._relay, args=(process.stderr, sys.stderr, prefix)),
        ]  # fmt: skip
        for each in readers:
            each.start()
        code = process.wait()
        for each in readers:
            each.join()
        with self._lock:
            self._running.discard(process)
            was_over = self._is_over
        code = code if code >= 0 else 128 - code
        outcome: Outcome = "done" if code == 0 else "ended" if was_over else "failed"
        if outcome == "failed" and self.fail_fast:
            threading.Thread(target=self._end).start()
        seconds = round(time.monotonic() - began, 3)
        return Result(manifest=str(manifest), outcome=outcome, exit_code=code, seconds=seconds)

    def _start(self, manifest: str | Path) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._is_over:
                return None
            process = subprocess.Popen(
                [*self.command, str(manifest)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, **({"BAKE_DEBUG": "1"} if self.debug else {})},
                # A terminal's Ctrl-C is for us, who end each of them once: a second signal would break its cleaning up.
                start_new_session=True,
            )
            self._running.add(process)
            return process

    def _relay(self, source: IO[str] | None, target: TextIO, prefix: str) -> None:
        """Passes lines on whole, so that two processes' do not mix."""
        lines = iter(source or ())
        try:
            for line in lines:
                with self._lock:
                    target.write(prefix + line if line.endswith("\n") else f"{prefix}{line}\n")
                    target.flush()
        except OSError as error:
            # Nobody reads us any more. What nobody reads of a process in turn would hold it up for ever.
            self._broken = error
            threading.Thread(target=self._end).start()
            for _ in lines:
                pass

    def _end(self) -> None:
        """Ends those that run; whoever does not clean up in time is killed."""
        with self._lock:
            running, is_told = list(self._running), self._is_over
            self._is_over = True
        for process in () if is_told else running:
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _END_GRACE_S
        try:
            for process in running:
                process.wait(max(0.0, until - time.monotonic()))
        except BaseException as error:
            for process in running:
                process.kill()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise


def _sum_up(results: Sequence[Result], console: Console) -> None:
    for result in results:
        console.event(
            "manifest.ended",
            manifest=result.manifest,
            outcome=result.outcome,
            exit_code=result.exit_code,
            seconds=result.seconds,
        )
    if console.as_json:
        return
    width = max(len(result.manifest) for result in results)
    for result in results:
        code = f"  exit {result.exit_code}" if result.outcome == "failed" else ""
        time_s = "" if result.outcome == "not begun" else f"{result.seconds:8.1f} s"
        console.say(f"{result.outcome:<9}  {result.manifest:<{width}}  {time_s}{code}".rstrip())
