"""The trick `ahead`: which bytes of a checkpoint it reads, as a user who owns the file and as one who does not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.boot import timeline
from runtime.boot.context import Context
from runtime.boot.tricks import ahead

CHUNK = ahead.CHUNK_BYTES
PAGE = os.sysconf("SC_PAGESIZE")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file of two chunks and a bit, that is on the disk."""
    path = tmp_path / "weights.safetensors"
    with path.open("wb") as file:
        file.write(os.urandom(2 * CHUNK + 5000))
        file.flush()
        os.fsync(file.fileno())
    return path


@pytest.fixture
def opened(checkpoint: Path) -> Iterator[int]:
    file = os.open(checkpoint, os.O_RDONLY)
    yield file
    os.close(file)


def forget(file: int) -> None:
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    if any(ahead.resident_pages(file)):
        pytest.skip("this file system keeps its pages in memory")


def test_the_whole_file_is_there_afterwards(checkpoint: Path, opened: int) -> None:
    forget(opened)
    assert ahead.read_ahead(str(checkpoint)) == 2 * CHUNK + 5000
    resident = ahead.resident_pages(opened)
    assert len(resident) == 2 * CHUNK // PAGE + 2
    assert all(resident)


def test_what_is_there_already_is_not_read_again(checkpoint: Path, opened: int) -> None:
    checkpoint.read_bytes()
    assert ahead.read_ahead(str(checkpoint)) == 0
    forget(opened)
    os.pread(opened, 10, CHUNK + PAGE)  # with what the kernel reads around it
    assert ahead.read_ahead(str(checkpoint)) == 2 * CHUNK + 5000


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert ahead.read_ahead(str(tmp_path / "empty")) == 0


def test_everything_is_read_by_one_who_may_not_write_the_file(
    checkpoint: Path, opened: int
) -> None:
    """As the kernel has it: mincore tells such a process that all pages are there."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    checkpoint.chmod(0o644)
    checkpoint.parent.chmod(0o755)
    forget(opened)
    if (child := os.fork()) == 0:
        os.chdir(checkpoint.parent)  # the folders above it are root's alone
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        read = ahead.read_ahead(checkpoint.name)
        os._exit(0 if read == 2 * CHUNK + 5000 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert all(ahead.resident_pages(opened))


def a_start(checkpoint: str, *, prepared: object = None) -> Context:
    made = Context(script="x", arguments=("--ckpt", checkpoint), began=time.monotonic())
    made.prepared = prepared
    return made


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that would be read."""
    paths: list[str] = []

    def read_ahead(path: str) -> int:
        paths.append(path)
        return 7

    monkeypatch.setattr(ahead, "read_ahead", read_ahead)
    monkeypatch.setattr("threading.Thread", _AtOnce)
    return paths


class _AtOnce:
    def __init__(self, *, target: Callable[[], Any], daemon: bool, name: str) -> None:
        assert daemon, name
        self.start = target


def test_only_where_weights_does_not_read_it(
    checkpoint: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, Any]] = []
    monkeypatch.setattr(timeline, "write", lambda name, _, **fields: written.append((name, fields)))
    ahead.install(a_start(str(checkpoint), prepared=object()))
    ahead.install(a_start(str(checkpoint.parent / "none")))
    ahead.install(Context(script="x", arguments=(), began=0.0))
    assert (read, written) == ([], [])
    ahead.install(a_start(str(checkpoint)))
    assert read == [str(checkpoint)]
    assert written == [("read checkpoint", {"size_bytes": 7})]


def test_a_file_that_cannot_be_read_is_the_webuis_to_name(
    checkpoint: Path, read: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fails(_path: str) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(ahead, "read_ahead", fails)
    ahead.install(a_start(str(checkpoint)))
    assert "ahead is off: OSError(5, 'Input/output error')" in capsys.readouterr().err
    assert read == []
