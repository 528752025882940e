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

from bake.image.final.assemble import assemble
from bake.image.oci import layers
from bake.image.oci.layers import PlacedFile, group_files, make_tree_layer, make_weights_layer
from bake.image.oci.model import Descriptor, FileContent
from bake.image.saved import load_saved_image, save_image
from runtime.worker import WEIGHTS_MTIME
from tests.unit.test_assemble import CONFIG, make_base


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
    large_only = [[file.path.name for file in group] for group in group_files(files[::2])]
    assert large_only == [["b"], ["d"]]
    assert group_files([]) == []


@pytest.mark.parametrize("change", [b"", b"longer than before"])
def test_a_file_that_changed_its_length_is_an_error(tmp_path: Path, change: bytes) -> None:
    file = place(tmp_path, "a", b"first")
    file.source.write_bytes(change)
    said = f"^/opt/webui/models/a has {len(change)} bytes in the store, 5 were expected$"
    with pytest.raises(ValueError, match=said):
        make_weights_layer([file])


def test_a_file_that_is_empty_no_more_is_an_error(tmp_path: Path) -> None:
    file = place(tmp_path, "a", b"")
    file.source.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a has 1 bytes in the store, 0 were expected$"):
        make_weights_layer([file])


def test_two_files_at_one_path_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^two files have the same path in the image$"):
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
    [
        (_escape, r"^\.\./etc/passwd leaves the image's root$"),
        (_device, "^text is neither a file, a folder nor a link$"),
    ],
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


def test_what_is_known_of_a_digest_is_a_digest_or_nothing(tmp_path: Path) -> None:
    files, cache = [place(tmp_path, "a", b"first")], tmp_path / "cache"
    digest = "sha256:" + "0123456789abcdef" * 4
    assert layers.known_digest(files, cache) is None
    layers.keep_digest(files, cache, digest)
    assert layers.known_digest(files, cache) == digest
    (kept,) = cache.iterdir()
    assert (kept.suffix, kept.read_text()) == (".digest", digest + "\n")
    assert layers.known_digest([place(tmp_path, "a", b"other")], cache) is None
    for wrong in (digest + "0", digest[:-1], digest.upper(), "x" + digest):
        kept.write_text(wrong)
        assert layers.known_digest(files, cache) is None


def test_a_weights_layer_in_an_image_is_raw_and_named_by_its_files(tmp_path: Path) -> None:
    made = make_weights_layer([place(tmp_path, "b", b"b"), place(tmp_path, "a", b"a")])
    layer = made.as_layer()
    assert layer.descriptor == Descriptor(
        media_type="application/vnd.oci.image.layer.v1.tar",
        digest=made.digest,
        size_bytes=made.size_bytes,
    )
    assert (layer.diff_id, layer.kind, layer.content) == (made.digest, "weights", made.content)
    assert layer.comment == "/opt/webui/models/a, /opt/webui/models/b"


def test_a_weights_layer_says_where_its_files_are(tmp_path: Path) -> None:
    made = make_weights_layer([place(tmp_path, "b", b"b"), place(tmp_path, "a", b"aa")])
    said = made.content.describe()
    assert said["from"] == "store"
    assert said["files"][0] == {
        "path": "/opt/webui/models/a",
        "source": str(tmp_path / "a"),
        "size_bytes": 2,
        "sha256": hashlib.sha256(b"aa").hexdigest(),
    }
    assert [each["path"] for each in said["files"]] == [
        "/opt/webui/models/a",
        "/opt/webui/models/b",
    ]


def test_a_tree_layer_in_an_image_is_gzip(tmp_path: Path) -> None:
    made = make_tree_layer(make_tar(tmp_path / "x.tar", mtime=1, reverse=False), tmp_path / "x.gz")
    layer = made.as_layer("the documents", kind="documents")
    size_bytes = (tmp_path / "x.gz").stat().st_size
    assert layer.descriptor == Descriptor(
        media_type="application/vnd.oci.image.layer.v1.tar+gzip",
        digest=made.digest,
        size_bytes=size_bytes,
    )
    assert (layer.diff_id, layer.comment, layer.kind) == (
        made.diff_id, "the documents", "documents",
    )  # fmt: skip
    assert layer.content == FileContent(path=tmp_path / "x.gz")
    assert made.as_layer("x").kind == "thin"


def test_a_gzip_header_says_nothing_of_time_or_place(tmp_path: Path) -> None:
    made = make_tree_layer(make_tar(tmp_path / "x.tar", mtime=9, reverse=False), tmp_path / "x.gz")
    assert made.blob.read_bytes()[:9] == b"\x1f\x8b\x08" + b"\0" * 6


def test_links_and_paths_of_a_tree_are_those_of_an_image(tmp_path: Path) -> None:
    """Hard links after what they name, whatever the order; no path is absolute; nothing is set-uid."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind, mode, link in (
            ("./", tarfile.DIRTYPE, 0o755, ""),
            ("/a-link", tarfile.LNKTYPE, 0o644, "./z/file"),
            ("/z/file", tarfile.REGTYPE, 0o4755, ""),
            ("b", tarfile.SYMTYPE, 0o777, "/abs/olute"),
            ("c", tarfile.REGTYPE, 0o611, ""),
            ("d", tarfile.REGTYPE, 0o700, ""),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.linkname = kind, mode, link
            entry.uid = entry.gid = 1000
            entry.uname = entry.gname = "user"
            # Some tars give a hard link its file's size, with no bytes behind it.
            entry.size = 600 if kind in {tarfile.REGTYPE, tarfile.LNKTYPE} else 0
            tar.addfile(entry, io.BytesIO(name.encode() * 600) if entry.isreg() else None)
    made = make_tree_layer(tmp_path / "x.tar", tmp_path / "x.gz")
    content = gzip.decompress(made.blob.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = tar.getmembers()
        assert [(each.name, each.type, each.mode, each.size, each.linkname) for each in members] == [
            ("b", tarfile.SYMTYPE, 0o755, 0, "/abs/olute"),
            ("c", tarfile.REGTYPE, 0o644, 600, ""),
            ("d", tarfile.REGTYPE, 0o755, 600, ""),
            ("z/file", tarfile.REGTYPE, 0o755, 600, ""),
            ("a-link", tarfile.LNKTYPE, 0o644, 0, "z/file"),
        ]  # fmt: skip
        assert {(each.mtime, each.uid, each.gid, each.uname, each.gname) for each in members} == {
            (WEIGHTS_MTIME, 0, 0, "", "")
        }
        file = tar.extractfile("z/file")
        assert file is not None
        assert file.read() == (b"/z/file" * 600)[:600]
    assert len(content) == 512 * (5 + 3 * 2 + 2)
    assert content.endswith(b"\0" * 1024)


def test_an_image_with_weights_of_the_store_is_saved_and_read_back(tmp_path: Path) -> None:
    made = make_weights_layer([place(tmp_path / "store", "a", b"abc")])
    base = make_base()
    base = dataclasses.replace(
        base, layers=tuple(dataclasses.replace(each, content=None) for each in base.layers)
    )
    image = assemble(base, layers=[made.as_layer()], config=CONFIG)
    save_image(image, tmp_path)
    back = load_saved_image(tmp_path).layers[-1]
    assert back == image.layers[-1]
