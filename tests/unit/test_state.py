"""The build folder: records, locks, trees."""

import os
import tarfile
import threading
from pathlib import Path

import pytest

from bake.console import Console
from bake.errors import MachineError
from bake.files import atomic_file, hash_tree, unpack, write_atomically
from bake.plan.state import BuildFolder, key_of

QUIET = Console(quiet=True)


def test_a_record_is_read_back_and_forgotten(tmp_path: Path) -> None:
    folder = BuildFolder(tmp_path)
    folder.write_record("base", {"a": "1"}, {"image": "x"})
    record = folder.record("base")
    assert record is not None
    assert (record.document, record.result) == ({"a": "1"}, {"image": "x"})
    folder.forget("base")
    assert folder.record("base") is None


def test_a_record_is_text_that_a_person_can_read(tmp_path: Path) -> None:
    BuildFolder(tmp_path).write_record("base", {"b": "1", "a": "é"}, {"image": "x"})
    text = '{\n "document": {\n  "a": "\\u00e9",\n  "b": "1"\n },\n "result": {\n  "image": "x"\n }\n}\n'
    assert (tmp_path / "state" / "base.json").read_text() == text


def test_a_folder_is_known_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = BuildFolder(Path("build/shapes"))
    assert folder.identity == f"{tmp_path}/build/shapes"
    assert folder.log("base") == tmp_path / "build/shapes/logs/base.log"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"document": {}}', "\0"])
def test_an_unreadable_record_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "base.json").write_text(content)
    assert BuildFolder(tmp_path).record("base") is None


def test_what_a_killed_bake_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "tmp" / "warmup-1").mkdir(parents=True)
    folder = BuildFolder(tmp_path)
    with folder.locked(QUIET):
        assert not (tmp_path / "tmp").exists()
        with folder.temporary_folder("base"):
            pass
        (tmp_path / "tmp" / "forgotten").touch()
    assert not (tmp_path / "tmp").exists()


def test_temporary_folders_go_with_their_step(tmp_path: Path) -> None:
    build = BuildFolder(tmp_path / "build" / "shapes")
    with build.temporary_folder("base") as folder, build.temporary_folder("base") as other:
        (folder / "file").touch()
        assert folder != other
        assert folder.parent == build.root / "tmp"  # which the next bake empties
        assert folder.name.startswith("base-")
    assert not folder.exists()
    with build.temporary_folder("base") as folder:
        folder.rmdir()  # moved to its place, such as a step's result


def test_a_second_bake_waits_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = []

    def second() -> None:
        with BuildFolder(tmp_path).locked(Console()):
            order.append("second")

    with BuildFolder(tmp_path).locked(QUIET):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]
    assert (tmp_path / "lock").is_file()
    assert f"another bake works in {tmp_path}; waiting for it" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(MachineError, match="cannot be written: Not a directory") as caught,
        BuildFolder(tmp_path / "file" / "below").locked(QUIET),
    ):
        pass
    assert caught.value.where == f"{tmp_path}/file/below"


def test_a_tree_is_its_names_modes_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    before = hash_tree(tmp_path / "a")
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "x.pyc").write_text("1")
    assert hash_tree(tmp_path / "a") == before
    (tmp_path / "a" / "x").chmod(0o755)
    assert hash_tree(tmp_path / "a") != before
    (tmp_path / "a" / "x").chmod(0o644)
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert hash_tree(tmp_path / "a") != before


@pytest.mark.parametrize("name", ["folder", "file.txt"])
def test_what_is_not_there_is_not_hashed_as_empty(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no .*{name} to hash"):
        hash_tree(tmp_path / name)


def test_the_order_of_a_document_does_not_matter() -> None:
    assert key_of({"a": "1", "b": "2"}) == key_of({"b": "2", "a": "1"})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, 5)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_a_file_do_not_mix_and_a_killed_ones_rest_goes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    forgotten, recent = tmp_path / ".file.1-1.part", tmp_path / ".file.2-1.part"
    for each in (forgotten, recent, tmp_path / ".file2.1-1.part"):
        each.write_text("half")
    os.utime(forgotten, (0, 0))
    os.utime(tmp_path / ".file2.1-1.part", (0, 0))
    with atomic_file(path) as mine:
        mine.write(b"mine, ")
        other = threading.Thread(target=write_atomically, args=(path, "theirs"))
        other.start()
        other.join()
        assert path.read_text() == "theirs"
        mine.write(b"whole")
    assert path.read_text() == "mine, whole"
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        ".file.2-1.part", ".file2.1-1.part", "file",
    ]  # fmt: skip


@pytest.mark.parametrize("is_old", [False, True], ids=["this Python", "one without filters"])
def test_a_tar_is_unpacked_into_its_folder_only(
    is_old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_old:
        pytest.importorskip("backports.tarfile", reason="only Pythons before 3.12 have it")
        monkeypatch.delattr(tarfile, "data_filter", raising=False)

    def pack(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.uid, entry.mode = kind, link, 4242, 0o755
            tar.addfile(entry)
        return tmp_path / "x.tar"

    folder = tmp_path / "into" / "here"
    unpack(pack("a/b"), folder)
    assert (folder / "a" / "b").stat().st_mode & 0o777 == 0o755
    assert (folder / "a" / "b").stat().st_uid == os.getuid()
    unpack(pack("/c"), folder)
    assert (folder / "c").is_file()
    for name, kind, link in (
        ("../evil", tarfile.REGTYPE, ""),
        ("evil", tarfile.SYMTYPE, "../../evil"),
        ("evil", tarfile.FIFOTYPE, ""),
    ):
        with pytest.raises(Exception, match="evil"):
            unpack(pack(name, kind, link), folder)
    assert not (tmp_path / "into" / "evil").exists()
