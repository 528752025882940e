"""Layers are valid tars with fixed metadata, and the same input gives the same digest."""

import dataclasses
import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from bake.image.oci import layers
from bake.image.oci.layers import PlacedFile, group_files, make_tree_layer, make_weights_layer
from runtime.worker import WEIGHTS_MTIME


def place(folder: Path, name: str, content: bytes) -> PlacedFile:
    folder.mkdir(exist_ok=True)
    source = folder / name
    source.write_bytes(content)
    return PlacedFile(
        path=PurePosixPath("/opt/webui/models") / name,
        source=source,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def test_a_weights_layer_is_a_valid_tar_with_fixed_metadata(tmp_path: Path) -> None:
    files = [place(tmp_path, "b", b"b" * 700), place(tmp_path, "a", b"")]
    layer = make_weights_layer(files)
    content = b"".join(layer.content.chunks())
    assert layer.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert layer.size_bytes == len(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = tar.getmembers()
        assert [(each.name, each.mode, each.isdir()) for each in members] == [
            ("opt", 0o755, True),
            ("opt/webui", 0o755, True),
            ("opt/webui/models", 0o755, True),
            ("opt/webui/models/a", 0o644, False),
            ("opt/webui/models/b", 0o644, False),
        ]
        assert {(each.mtime, each.uid, each.gid, each.uname) for each in members} == {
            (WEIGHTS_MTIME, 0, 0, "")
        }
        extracted = tar.extractfile("opt/webui/models/b")
        assert extracted is not None
        assert extracted.read() == b"b" * 700


def test_the_digest_depends_on_content_and_path_only(tmp_path: Path) -> None:
    first = [place(tmp_path / "1", "a", b"x"), place(tmp_path / "1", "b", b"y")]
    second = [place(tmp_path / "2", "b", b"y"), place(tmp_path / "2", "a", b"x")]
    os.utime(second[0].source, (1, 1))
    assert make_weights_layer(first).digest == make_weights_layer(second).digest
    other = [place(tmp_path / "3", "a", b"x"), place(tmp_path / "3", "b", b"z")]
    assert make_weights_layer(first).digest != make_weights_layer(other).digest


def test_a_file_above_8_gib_has_its_true_size_in_the_header(tmp_path: Path) -> None:
    source = tmp_path / "huge"
    source.touch()
    size_bytes = 9 << 30
    os.truncate(source, size_bytes)  # sparse: only the first chunks are read below
    huge = PlacedFile(
        path=PurePosixPath("/huge"), source=source, size_bytes=size_bytes, sha256="0" * 64
    )
    header = next(layers._tar_chunks([huge]))
    with tarfile.open(fileobj=io.BytesIO(header)) as tar:
        entry = tar.next()
    assert entry is not None
    assert (entry.name, entry.size) == ("huge", size_bytes)


def test_a_large_file_has_its_own_layer_and_small_ones_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "LARGE_FILE_BYTES", 10)
    files = [
        place(tmp_path, name, b"x" * size)
        for name, size in (("d", 10), ("c", 9), ("b", 11), ("a", 1))
    ]
    groups = [[file.path.name for file in group] for group in group_files(files)]
    assert groups == [["a", "c"], ["b"], ["d"]]
    assert group_files([]) == []


@pytest.mark.parametrize("change", [b"", b"longer than before"])
def test_a_file_that_changed_its_length_is_an_error(tmp_path: Path, change: bytes) -> None:
    file = place(tmp_path, "a", b"first")
    file.source.write_bytes(change)
    with pytest.raises(ValueError, match=f"has {len(change)} bytes in the store, 5 were expected"):
        make_weights_layer([file])


def test_two_files_at_one_path_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same path"):
        make_weights_layer([place(tmp_path / "1", "a", b"x"), place(tmp_path / "2", "a", b"y")])


def make_tar(
    path: Path, *, mtime: int, reverse: bool, edit: Callable[[tarfile.TarInfo], None] | None = None
) -> Path:
    entries = []
    for name, kind, mode, link in (
        ("bin", tarfile.DIRTYPE, 0o700, ""),
        ("bin/tool", tarfile.REGTYPE, 0o775, ""),
        ("bin/link", tarfile.SYMTYPE, 0o777, "../bin/tool"),
        ("text", tarfile.REGTYPE, 0o600, ""),
    ):
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.linkname, entry.mtime, entry.uid = (
            kind,
            mode,
            link,
            mtime,
            mtime % 7,
        )
        entry.size = 5 if kind == tarfile.REGTYPE else 0
        entries.append(entry)
    if edit:
        edit(entries[-1])
    with tarfile.open(path, "w") as tar:
        for entry in reversed(entries) if reverse else entries:
            tar.addfile(entry, io.BytesIO(b"hello") if entry.isreg() else None)
    return path


def test_a_tree_layer_is_normalised_and_repeats_byte_for_byte(tmp_path: Path) -> None:
    first = make_tree_layer(
        make_tar(tmp_path / "1.tar", mtime=111, reverse=False), tmp_path / "1.gz"
    )
    second = make_tree_layer(
        make_tar(tmp_path / "2.tar", mtime=999, reverse=True), tmp_path / "2.gz"
    )
    assert first.blob.read_bytes() == second.blob.read_bytes()
    assert first.digest == f"sha256:{hashlib.sha256(first.blob.read_bytes()).hexdigest()}"
    unpacked = gzip.decompress(first.blob.read_bytes())
    assert first.diff_id == f"sha256:{hashlib.sha256(unpacked).hexdigest()}"
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
        assert [(each.name, each.mode, each.linkname) for each in tar] == [
            ("bin", 0o755, ""),
            ("bin/link", 0o755, "../bin/tool"),
            ("bin/tool", 0o755, ""),
            ("text", 0o644, ""),
        ]


def _escape(entry: tarfile.TarInfo) -> None:
    entry.name = "../etc/passwd"


def _device(entry: tarfile.TarInfo) -> None:
    entry.type, entry.size = tarfile.FIFOTYPE, 0


@pytest.mark.parametrize(
    ("edit", "message"),
    [(_escape, "leaves the image's root"), (_device, "neither a file, a folder nor a link")],
)
def test_a_hostile_tree_is_refused_and_leaves_nothing(
    tmp_path: Path, edit: Callable[[tarfile.TarInfo], None], message: str
) -> None:
    source = make_tar(tmp_path / "x.tar", mtime=1, reverse=False, edit=edit)
    with pytest.raises(ValueError, match=message):
        make_tree_layer(source, tmp_path / "out.gz")
    assert [each.name for each in tmp_path.iterdir()] == ["x.tar"]


def test_a_layer_is_read_from_any_offset(tmp_path: Path) -> None:
    files = [
        place(tmp_path, "a", b"a" * 1300),
        place(tmp_path, "b", b""),
        place(tmp_path, "c", b"c"),
    ]
    layer = make_weights_layer(files)
    whole = b"".join(layer.content.chunks())
    for offset in (0, 1, 511, 512, 513, 2048, 2060, 3000, 3400, len(whole) - 1, len(whole)):
        assert b"".join(layer.content.chunks(offset)) == whole[offset:], offset


def test_a_digest_that_is_known_spares_reading_the_file(tmp_path: Path) -> None:
    file = place(tmp_path, "a", b"first")
    cache = tmp_path / "cache"
    layer = make_weights_layer([file], cache=cache)
    assert layer == make_weights_layer([file])
    file.source.unlink()
    assert make_weights_layer([file], cache=cache) == layer
    elsewhere = dataclasses.replace(file, path=PurePosixPath("/other"))
    with pytest.raises(FileNotFoundError):
        make_weights_layer([elsewhere], cache=cache)
    next(cache.iterdir()).write_text("damaged")
    with pytest.raises(FileNotFoundError):
        make_weights_layer([file], cache=cache)
