"""The half of `tests.mutate` that runs within pytest: what a mutant costs is a fork, and the tests that reach it.

The tests are collected once. A first child runs them all, and says which function each of them reaches and how
long it takes. Then this process, in which no test ever ran, forks for each mutant; that child runs the tests
that reach the mutated function, the quickest first, until one fails.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.utils.format_utils import mangled_name_from_mutant_name

FOLDER = "BAKE_MUTANTS"
"""The environment variable that names the folder with `task.json`; `results.jsonl` is written there."""
_MEMORY_BYTES, _FILE_BYTES = 8 << 30, 10 << 30
_POLL_S = 0.005
_FAILED, _BROKEN = 1, 4
"""How a child ends in which a test failed, or which could not begin."""


@dataclass(kw_only=True)
class Reached:
    """What the tests reach, and what they cost."""

    tests: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of the tests, by the function's name."""
    wall_s: dict[int, float] = field(default_factory=dict)
    processor_s: dict[int, float] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)
    """All that was imported in the end."""
    failed: str = ""
    """What failed although nothing was changed."""

    def quickest_first(self, mutant: str) -> list[int]:
        """The tests that a mutant may fail; of no mutant, all."""
        found = self.tests.get(mangled_name_from_mutant_name(mutant), []) if mutant else self.wall_s
        return sorted(found, key=lambda test: self.wall_s[test])


@dataclass(kw_only=True)
class Running:
    """A child with a mutant in its place."""

    mutant: str
    began: float
    limit_s: float


_by_fixture: defaultdict[int, set[str]] = defaultdict(set)
"""The functions that setting up a fixture reaches, which all its tests rely on, not the first alone."""


def pytest_runtestloop(session: pytest.Session) -> bool:
    folder = Path(os.environ[FOLDER])
    task = json.loads((folder / "task.json").read_text())
    reached = _look_what_they_reach(session, folder)
    for name in reached.modules:
        with contextlib.suppress(BaseException):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    costs_s = {
        each: sum(reached.wall_s[test] for test in reached.quickest_first(each))
        for each in ["", *task["mutants"]]
    }
    mutants = sorted(costs_s, key=lambda each: costs_s[each])
    with (folder / "results.jsonl").open("w") as out:

        def tell(mutant: str, status: str, seconds: float) -> None:
            print(json.dumps([mutant, status, round(seconds, 2)]), file=out, flush=True)

        # That a machine stood still is no fault that was noticed.
        late = _try(session, folder, mutants, reached, task["processes"], 1, tell)
        for mutant in _try(session, folder, late, reached, task["processes"], 2, tell):
            tell(mutant, "timeout", 0)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Generator[None, Any, Any]:
    hits = state()._stats
    before = set(hits)
    hits.clear()
    try:
        return (yield)
    finally:
        _by_fixture[id(fixturedef)] |= hits
        hits |= before


def _look_what_they_reach(session: pytest.Session, folder: Path) -> Reached:
    answer = folder / "reached.json"

    def look() -> int:
        set_mutant_under_test("stats")
        reached = Reached()
        tests: defaultdict[str, list[int]] = defaultdict(list)
        for number, item in enumerate(session.items):
            _forget_what_is_kept()
            state()._stats.clear()
            wall, processor = time.monotonic(), time.process_time()
            # The same neighbours as in a run without mutants, for the sake of what modules share.
            following = session.items[number + 1 :][:1]
            failed = _failure(item, following[0] if following else None)
            reached.wall_s[number] = time.monotonic() - wall
            reached.processor_s[number] = time.process_time() - processor
            for function in state()._stats | _reached_by_fixtures(item):
                tests[function].append(number)
            if failed:
                reached.failed += f"{item.nodeid}\n{failed}\n"
        reached.tests = dict(tests)
        reached.modules = list(sys.modules)
        answer.write_text(json.dumps(vars(reached)))
        return 0

    _, status = os.waitpid(_start(look, folder), 0)
    _clear(folder)
    if status:
        raise pytest.UsageError("the run without mutants ended early")
    said = json.loads(answer.read_text())
    for name in ("wall_s", "processor_s"):
        said[name] = {int(number): seconds for number, seconds in said[name].items()}
    reached = Reached(**said)
    if reached.failed:
        raise pytest.UsageError(f"without mutants these fail:\n{reached.failed}")
    print(
        f"\n{len(session.items)} tests, {sum(reached.wall_s.values()):.0f} s", file=sys.__stderr__
    )
    return reached


def _reached_by_fixtures(item: Any) -> set[str]:
    used = item._fixtureinfo.name2fixturedefs.values()
    return {function for defs in used for each in defs for function in _by_fixture[id(each)]}


def _forget_what_is_kept() -> None:
    """A function whose answer is kept would be reached by the first test only."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in {"bake", "runtime", "tests"}:
            for value in list(vars(module).values()):
                if callable(clear := getattr(value, "cache_clear", None)):
                    clear()


def _failure(item: pytest.Item, following: pytest.Item | None) -> str:
    reports = runtestprotocol(item, log=False, nextitem=following)
    return "\n".join(each.longreprtext for each in reports if each.failed)


def _start(work: Callable[[], int], folder: Path, processor_s: int = 0) -> int:
    """Runs it in a child, in a process group and with temporary files of its own."""
    child = os.fork()
    if child:
        return child
    code = _BROKEN
    try:
        os.setpgid(0, 0)
        temporary = folder / f"tmp-{os.getpid()}"
        temporary.mkdir()
        os.environ.update(TMPDIR=str(temporary), PYTEST_DEBUG_TEMPROOT=str(temporary))
        tempfile.tempdir = None
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
        if processor_s:
            limit = processor_s + int(time.process_time()) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        code = _FAILED
        code = work()
    finally:
        os._exit(code)


def _try(
    session: pytest.Session,
    folder: Path,
    mutants: Iterable[str],
    reached: Reached,
    processes: int,
    patience: int,
    tell: Callable[[str, str, float], None],
) -> list[str]:
    """Those of them that did not end in time."""
    running: dict[int, Running] = {}
    late: list[str] = []
    waiting = iter(mutants)
    while True:
        while len(running) < processes and (mutant := next(waiting, None)) is not None:
            numbers = reached.quickest_first(mutant)
            if not numbers:
                tell(mutant, "no tests", 0)
                continue
            items = [session.items[number] for number in numbers]
            processor_s = 10 + 10 * sum(reached.processor_s[number] for number in numbers)
            child = _start(lambda: _run(mutant, items), folder, round(patience * processor_s))  # noqa: B023
            limit_s = patience * (30 + 3 * sum(reached.wall_s[number] for number in numbers))
            running[child] = Running(mutant=mutant, began=time.monotonic(), limit_s=limit_s)
        if not running:
            return late
        for child, status in _ended(running):
            one = running.pop(child)
            if status == -signal.SIGALRM:
                late.append(one.mutant)
            else:
                tell(one.mutant, _word(status), time.monotonic() - one.began)


def _run(mutant: str, items: list[pytest.Item]) -> int:
    set_mutant_under_test(mutant)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    for item, following in zip(items, [*items[1:], None], strict=True):
        if _failure(item, following):
            return _FAILED
    return 0


def _word(status: int) -> str:
    if status == _BROKEN:
        raise pytest.UsageError("a child could not begin")
    if status == 0:
        return "survived"
    return "timeout" if status == -signal.SIGXCPU else "killed"


def _ended(running: Mapping[int, Running]) -> list[tuple[int, int]]:
    """Children that have ended, or whose time is over, as at least one will; and how."""
    while True:
        found = []
        for child, one in running.items():
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                found.append((child, os.waitstatus_to_exitcode(status)))
            elif time.monotonic() - one.began > one.limit_s:
                found.append((child, -signal.SIGALRM))
        for child, _ in found:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)
            _clear(Path(os.environ[FOLDER]), child)
        if found:
            return found
        time.sleep(_POLL_S)


def _clear(folder: Path, child: int | None = None) -> None:
    for each in folder.glob(f"tmp-{child or '*'}"):
        shutil.rmtree(each, ignore_errors=True)
