"""The store: admission, leases, locks, and what garbage collection may take."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from bake.console import Console
from bake.errors import MachineError
from bake.flock import locked, take_lock, try_lock
from bake.weights.store import (
    Store,
    StoredFile,
    collect_garbage,
    hash_file,
    plan_garbage,
)
from runtime.worker import WEIGHTS_MTIME


def put(store: Store, data: bytes, *, used_at: float = 1e9) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    part = store.partial_path(sha256)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    store.admit(part, sha256)
    os.utime(store.root / "leases" / sha256, (used_at, used_at))
    return sha256


def test_an_admitted_file_is_where_its_digest_says(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.files() == []
    assert not (tmp_path / "store").exists()
    sha256 = put(store, b"abc")
    path = store.path_of(sha256)
    assert path == tmp_path / "store" / "sha256" / sha256[:2] / sha256
    assert store.has(sha256)
    assert store.size_of(sha256) == 3
    assert (path.stat().st_mode & 0o777, path.stat().st_mtime) == (0o644, WEIGHTS_MTIME)
    assert store.partials() == []
    assert hash_file(path) == sha256


def stored(name: str, size_bytes: int, used_at: float) -> StoredFile:
    return StoredFile(sha256=name, path=Path(name), size_bytes=size_bytes, used_at=used_at)


FILES = [stored("old", 10, 100), stored("middle", 20, 200), stored("new", 30, 300)]


@pytest.mark.parametrize(
    ("older_than_s", "keep_bytes", "expected"),
    [
        (None, None, []),
        (250, None, ["old"]),
        (50, None, ["old", "middle", "new"]),
        (None, 60, []),
        (None, 59, ["old"]),
        (None, 30, ["old", "middle"]),
        (None, 0, ["old", "middle", "new"]),
        (250, 49, ["old", "middle"]),
    ],
)
def test_garbage_is_planned_by_age_then_size(
    older_than_s: float | None, keep_bytes: int | None, expected: list[str]
) -> None:
    chosen = plan_garbage(FILES, now=400, older_than_s=older_than_s, keep_bytes=keep_bytes)
    assert [file.sha256 for file in chosen] == expected


def test_a_leased_file_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    used, unused = put(store, b"used"), put(store, b"unused")
    with store.lease([used, used, "f" * 64]), store.lease([used]):
        done = collect_garbage(store, older_than_s=None, keep_bytes=0)
        assert [file.sha256 for file in done.removed] == [unused]
        assert [file.sha256 for file in done.in_use] == [used]
        assert store.has(used)
    assert done.freed_bytes == 6
    assert len(collect_garbage(store, older_than_s=None, keep_bytes=0).removed) == 1
    assert not store.has(used)


def test_a_lease_counts_as_a_use(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sha256 = put(store, b"x")
    assert store.files()[0].used_at == 1e9
    with store.lease([sha256]):
        pass
    assert store.files()[0].used_at > 1e9
    assert collect_garbage(store, older_than_s=3600, keep_bytes=None).removed == ()


def test_an_unfinished_download_goes_with_its_age_unless_it_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    part = store.partial_path("k")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 5000)
    part.with_suffix(".json").write_text("{}")
    os.utime(part, (1e9, 1e9))
    assert collect_garbage(store, older_than_s=None, keep_bytes=0).partials == ()
    with store.lock("k", console=Console(quiet=True), label="k"):
        assert collect_garbage(store, older_than_s=60, keep_bytes=None).partials == ()
    assert [
        each.key for each in collect_garbage(store, older_than_s=60, keep_bytes=None).partials
    ] == ["k"]
    assert not part.exists()
    assert not part.with_suffix(".json").exists()


def test_a_full_disk_is_said_before_a_fetch(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"x needs 1024.0 TiB, the disk has") as raised:
        Store(tmp_path).check_space(1 << 50, what="x")
    assert "bake store gc" in (raised.value.hint or "")
    Store(tmp_path).check_space(1, what="x")


def test_a_lock_is_waited_for_and_won(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "k"
    waited, entered = threading.Event(), threading.Event()

    def other() -> None:
        with locked(path, on_wait=waited.set):
            entered.set()

    with locked(path):
        assert try_lock(path) is None
        thread = threading.Thread(target=other)
        thread.start()
        assert waited.wait(60)
        assert not entered.is_set()
    thread.join(60)
    assert entered.is_set()


def test_a_lock_on_an_unlinked_file_is_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "k"
    handle = take_lock(path)
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(take_lock(path)))
    thread.start()
    path.unlink()
    os.close(handle)
    thread.join(60)
    assert path.exists()
    assert try_lock(path) is None
    os.close(got[0])


def test_what_others_put_into_the_store_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "sha256" / "ab" / "folder").mkdir(parents=True)
    stray = tmp_path / "sha256" / "ab" / ".DS_Store"
    stray.write_text("x")
    assert store.files() == []
    collect_garbage(store, older_than_s=0, keep_bytes=0)
    assert stray.exists()
