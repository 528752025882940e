"""Reading files ahead, as a user who may write them and as one who may not; which ranges a record has."""

import os
from pathlib import Path

import pytest

from runtime.boot import read_ahead
from runtime.boot.tricks import pages
from runtime.worker import WEIGHTS_MTIME


def test_read_ahead_reads_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(3 << 20))
    read_ahead.read_ahead([(str(path), 0, 3 << 20), (str(tmp_path / "missing"), 0, 10)])
    assert all(read_ahead.resident_pages(str(path), 0, 3 << 20))


def test_read_ahead_without_a_right_to_write(tmp_path: Path) -> None:
    """As the kernel has it: mincore tells such a process that all pages are there."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(4 << 20))
    path.chmod(0o644)
    tmp_path.chmod(0o755)
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)
    if any(read_ahead.resident_pages(str(path), 0, 4 << 20)):
        pytest.skip("this file system keeps its pages in memory")
    if (child := os.fork()) == 0:
        os.chdir(tmp_path)  # the folders above it are root's alone
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        read_ahead.read_ahead([(path.name, 0, 4 << 20)])
        os._exit(read_ahead.tells_residency(path.name))
    assert os.waitpid(child, 0)[1] == 0
    assert all(read_ahead.resident_pages(str(path), 0, 4 << 20))


def test_every_chunk_is_read_where_residency_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "there"
    path.write_bytes(bytes(3 << 20))
    assert read_ahead._missing_chunks(str(path), 5000, 1 << 20) == []
    monkeypatch.setattr(read_ahead, "tells_residency", lambda _: False)
    assert read_ahead._missing_chunks(str(path), 5000, 1 << 20) == [
        (str(path), 4096, (1 << 20) + 5000 - 4096)
    ]


def test_list_of_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, new = tmp_path / "small", tmp_path / "new"
    small.write_text("content")
    new.write_text("content")
    os.utime(small, (WEIGHTS_MTIME, WEIGHTS_MTIME))
    opened = [str(small), str(new), str(tmp_path / "gone")]
    before = WEIGHTS_MTIME + 10
    monkeypatch.setattr(pages, "NO_INPUTS", ("/dev/",))  # pytest's own folder may be below one
    found = pages.make_list(opened, leave_out=[], before=before)["files"]
    assert found[str(small)] == [[0, 7]]
    assert str(new) not in found
    assert str(small) not in pages.make_list(opened, leave_out=[str(small)], before=before)["files"]
    monkeypatch.setattr(pages, "NO_INPUTS", (f"{tmp_path}/",))
    assert str(small) not in pages.make_list(opened, leave_out=[], before=before)["files"]
    assert pages._merge({0, 1, 5}, (5 << 20) + 3) == [[0, 2 << 20], [5 << 20, 3]]
    assert list(found) == sorted(found)
