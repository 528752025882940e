"""Several manifests in one command: each is reported, a failure stops the others only where that is asked for."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bake.cli.several import make_prefixes, refuse_same_names
from bake.errors import ManifestError
from tests.unit.conftest import Ended

ROOT = Path(__file__).parents[2]
GOOD = """\
name: {name}
family: demo
checkpoint: file:a.safetensors
warmup:
  prompt: a red circle
image: ghcr.io/you/{name}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three manifests, of which the second is wrong."""
    for name in ("first", "third"):
        (tmp_path / f"{name}.yaml").write_text(GOOD.format(name=name))
    (tmp_path / "second.yaml").write_text("nonsense: true\n")
    return tmp_path


@pytest.fixture
def bake(
    folder: Path, run_bake: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """`run_bake` where the manifests are; what runs side by side is a process each all the same."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return functools.partial(run_bake, folder=folder)


NAMES = ["first.yaml", "second.yaml", "third.yaml"]


def outcomes(stdout: str) -> dict[str, tuple[str, int | None]]:
    events = [json.loads(line) for line in stdout.splitlines()]
    return {
        event["manifest"]: (event["outcome"], event["exit_code"])
        for event in events
        if event["event"] == "manifest.ended"
    }


def test_each_is_reported_and_the_first_failure_s_code_is_the_command_s(
    bake: Callable[..., Ended],
) -> None:
    ended = bake("check", *NAMES)
    assert ended.returncode == 2
    assert ended.stdout.splitlines() == [
        "first  | first.yaml: ok, first with 1 file of weights",
        "third  | third.yaml: ok, third with 1 file of weights",
    ]
    lines = ended.stderr.splitlines()
    assert lines[0].startswith("second | error: the manifest has")
    assert all(line.startswith("second | ") for line in lines[:-3]), "of every line"
    assert [re.sub(r" +\d+\.\d s", " …", line) for line in lines[-3:]] == [
        "done       first.yaml …",
        "failed     second.yaml …  exit 2",
        "done       third.yaml …",
    ]


def test_one_manifest_is_as_ever(bake: Callable[..., Ended]) -> None:
    ended = bake("check", "first.yaml")
    assert ended.returncode == 0
    assert ended.stdout == "first.yaml: ok, first with 1 file of weights\n"
    assert ended.stderr == ""


def test_fail_fast_begins_no_further_one(bake: Callable[..., Ended]) -> None:
    ended = bake("check", "--fail-fast", *NAMES)
    assert ended.returncode == 2
    assert "third with" not in ended.stdout
    assert ended.stderr.splitlines()[-1] == "not begun  third.yaml"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_code_is_that_of_a_failure(bake: Callable[..., Ended], jobs: str) -> None:
    """There is no lock."""
    ended = bake("fetch", "--json", "--jobs", jobs, *NAMES)
    assert ended.returncode == 2
    assert outcomes(ended.stdout) == dict.fromkeys(NAMES, ("failed", 2))
    for name in ("first", "third"):
        said = rf"^{name} +\| error: {name}\.yaml: the manifest is not locked yet$"
        assert re.search(said, ended.stderr, re.MULTILINE)


def test_the_code_is_that_of_the_first_in_the_order_given(bake: Callable[..., Ended]) -> None:
    """Without a file to pin locking ends with 4, and with 2 where the manifest is wrong."""
    locked = bake("lock", "--json", *NAMES)
    assert locked.returncode == 4
    assert outcomes(locked.stdout) == dict(
        zip(NAMES, [("failed", 4), ("failed", 2), ("failed", 4)], strict=True)
    )


def test_events_name_their_manifest_side_by_side_too(
    folder: Path, bake: Callable[..., Ended]
) -> None:
    (folder / "a.safetensors").write_bytes(_weights())
    assert bake("lock", "first.yaml", "third.yaml").returncode == 0
    store = {"BAKE_STORE": str(folder / "store")}
    ended = bake("fetch", "--json", "-j", "2", "first.yaml", "third.yaml", **store)
    assert ended.returncode == 0, ended.stderr
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    weights = [event["manifest"] for event in events if event["event"] == "weights"]
    assert sorted(weights) == ["first.yaml", "third.yaml"]
    assert all(event["manifest"] in NAMES for event in events)
    assert len(list((folder / "store" / "sha256").rglob("*"))) == 2, "one folder, one file"


def test_the_options_of_the_command_are_those_of_each(bake: Callable[..., Ended]) -> None:
    """Of an option that takes a value and may be repeated, of a choice, and of a flag."""
    options = ["--build-arg", "A=1", "--build-arg", "NO-NAME", "--device", "cpu", "--no-load", "-q"]
    ended = bake("image", "-j", "2", *options, "first.yaml", "third.yaml")
    assert ended.returncode == 2
    for name in ("first", "third"):
        assert f"{name} | error: --build-arg: 'NO-NAME' is not NAME=VALUE" in ended.stderr


def test_debug_is_for_each(bake: Callable[..., Ended]) -> None:
    ended = bake("--debug", "fetch", "-j", "2", "first.yaml", "third.yaml")
    for name in ("first", "third"):
        assert f"{name} | Traceback" in ended.stderr


def test_two_of_one_name_are_refused_before_anything_is_done(
    folder: Path, bake: Callable[..., Ended]
) -> None:
    (folder / "other.yaml").write_text(GOOD.format(name="first"))
    with pytest.raises(ManifestError, match=r"first\.yaml and .*other\.yaml have the same name"):
        refuse_same_names([folder / "second.yaml", folder / "first.yaml", folder / "other.yaml"])
    ended = bake("image", "first.yaml", "first.yaml")
    assert ended.returncode == 2
    assert "first.yaml and first.yaml have the same name, first" in ended.stderr
    assert not (folder / "build").exists()


def test_prefixes_tell_apart() -> None:
    assert make_prefixes([Path("a/x.yaml"), Path("a/long.yml")]) == ["x    | ", "long | "]
    assert make_prefixes([Path("a/x.yaml"), Path("b/x.yaml")]) == ["a/x.yaml | ", "b/x.yaml | "]
    assert make_prefixes(["host/a:1", "host/b:1"]) == ["host/a:1 | ", "host/b:1 | "]


def test_a_lock_is_for_one_image(bake: Callable[..., Ended]) -> None:
    ended = bake("verify", "--lock", "x.lock.json", "a:1", "b:1")
    assert ended.returncode == 2
    assert "a lock is for one image" in ended.stderr


WAITS = """
import sys, time, types
from pathlib import Path
import click
from bake.cli import main
from bake.cli.options import fail_fast_option, jobs_option, json_option, manifests_argument
from bake.cli.several import run_each
from bake.errors import SourceError
def wait(path, console):
    if path.stem == "second":
        while not Path("first.began").exists() or not Path("third.began").exists():
            time.sleep(0.02)
        raise SourceError("gone")
    try:
        Path(f"{path.stem}.began").write_text("")
        time.sleep(600)
    finally:
        time.sleep(0.5)
        Path(f"{path.stem}.cleaned").write_text("")
@click.command()
@manifests_argument
@fail_fast_option
@jobs_option
@json_option
def command(manifests, *, fail_fast, jobs, as_json):
    run_each(manifests, wait, as_json=as_json, fail_fast=fail_fast, jobs=jobs)
sys.modules["bake.cli.commands.fetch"] = types.SimpleNamespace(command=command)
main()
"""
"""A `bake fetch` that waits, and imports nothing for a download that there is none of."""


@pytest.fixture
def waiting(folder: Path) -> list[str]:
    """A command whose fetches of `first` and `third` last for ever."""
    package = folder / "stub" / "bake_stub"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    # A process side by side is `python -m bake`: of this one, its `bake.__main__` is ours.
    (folder / "stub" / "sitecustomize.py").write_text(
        "import sys\n"
        "import importlib.abc, importlib.util\n"
        f"WAITS = {WAITS!r}\n"
        "class Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'bake.__main__':\n"
        "            return importlib.util.spec_from_loader(name, self)\n"
        "    def get_source(self, name):\n"
        "        return WAITS\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    return [sys.executable, "-m", "bake", "fetch", "--json", "-j", "3"]


def start(folder: Path, command: list[str]) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(folder / "stub"), str(ROOT)])
    # A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
    return subprocess.Popen(
        ["env", "--default-signal=INT", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(*paths: Path) -> None:
    until = time.monotonic() + 120
    while not all(path.exists() for path in paths):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "ctrl-c"]
)
def test_an_interrupt_ends_all_and_lets_them_clean_up(
    folder: Path, waiting: list[str], number: signal.Signals, status: int
) -> None:
    process = start(folder, [*waiting, "first.yaml", "third.yaml"])
    wait_for(folder / "first.began", folder / "third.began")
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    assert (folder / "first.cleaned").exists()
    assert (folder / "third.cleaned").exists()


def test_when_nobody_reads_it_any_more_all_are_ended(folder: Path, waiting: list[str]) -> None:
    process = start(folder, [*waiting, "first.yaml", "second.yaml", "third.yaml"])
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()  # the second one's error is the first line
    assert process.wait(120) == 1
    assert (folder / "first.cleaned").exists()
    assert (folder / "third.cleaned").exists()


def test_fail_fast_ends_those_beside_it(folder: Path, waiting: list[str]) -> None:
    process = start(folder, [*waiting, "--fail-fast", *NAMES])
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 4, errors
    assert outcomes(out) == {
        "first.yaml": ("ended", 143),
        "second.yaml": ("failed", 4),
        "third.yaml": ("ended", 143),
    }
    assert (folder / "first.cleaned").exists()
    assert (folder / "third.cleaned").exists()


def _weights() -> bytes:
    return (ROOT / "demo" / "weights" / "shapes.safetensors").read_bytes()
