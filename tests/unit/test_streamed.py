"""A stream gives the very layer that the store would give, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

from bake.errors import SourceError
from bake.image.oci.layers import PlacedFile, make_weights_layer
from bake.image.oci.model import Descriptor
from bake.image.oci.streamed import StreamedFile, StreamedLayer
from bake.image.verify.scan import facts_of_weights, scan_layer
from bake.image.verify.secrets import SecretScanner

CONTENT = bytes(range(256)) * 20 + b"end"
PATH = PurePosixPath("/models/a.safetensors")


def stream(content: bytes = CONTENT, *, sha256: str = "") -> StreamedLayer:
    def open_at(offset: int) -> Iterator[bytes]:
        yield from (content[at : at + 100] for at in range(offset, len(content), 100))

    file = StreamedFile(
        path=PATH,
        size_bytes=len(CONTENT),
        sha256=sha256 or hashlib.sha256(CONTENT).hexdigest(),
        open_at=open_at,
        where="civitai:1",
    )
    return StreamedLayer(files=[file])


def stored(folder: Path) -> tuple[str, bytes]:
    source = folder / "a"
    source.write_bytes(CONTENT)
    placed = PlacedFile(path=PATH, source=source, size_bytes=len(CONTENT), sha256="0" * 64)
    layer = make_weights_layer([placed])
    return layer.digest, b"".join(layer.content.chunks())


def test_a_stream_is_the_layer_of_the_store(tmp_path: Path) -> None:
    digest, content = stored(tmp_path)
    streamed = stream()
    assert streamed.size_bytes == len(content)
    known = r"^the digest of a stream is known when all of it was read$"
    with pytest.raises(RuntimeError, match=known):
        streamed.digest()
    assert b"".join(streamed.chunks()) == content
    assert streamed.digest() == digest


def small_files(folder: Path) -> tuple[StreamedLayer, str, bytes]:
    """Several files as one layer, in another order than the store's, and what the store makes of them."""
    contents = {f"/models/{name}": (name * 700).encode() for name in ("c", "a", "b")}

    def opens(content: bytes) -> Callable[[int], Iterator[bytes]]:
        return lambda offset: iter([content[offset:]])

    files = [
        StreamedFile(
            path=PurePosixPath(path),
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            open_at=opens(content),
            where=path,
        )
        for path, content in contents.items()
    ]
    placed = []
    for file in files:
        source = folder / file.path.name
        source.write_bytes(contents[str(file.path)])
        placed.append(
            PlacedFile(
                path=file.path, source=source, size_bytes=file.size_bytes, sha256=file.sha256
            )
        )
    layer = make_weights_layer(placed)
    return StreamedLayer(files=files), layer.digest, b"".join(layer.content.chunks())


def test_several_files_are_the_one_layer_of_the_store(tmp_path: Path) -> None:
    streamed, digest, content = small_files(tmp_path)
    assert streamed.size_bytes == len(content)
    assert b"".join(streamed.chunks()) == content
    assert streamed.digest() == digest
    for offset in (0, 100, 1024, 1500, 2500, 3000, len(content) - 1):
        assert b"".join(streamed.chunks(offset)) == content[offset:]


def test_a_wrong_file_among_several_is_named(tmp_path: Path) -> None:
    streamed, _, _ = small_files(tmp_path)
    wrong = dataclasses.replace(streamed.files[2], open_at=lambda _: iter([b"B" * 700]))
    streamed = StreamedLayer(files=[*streamed.files[:2], wrong])
    with pytest.raises(SourceError, match="/models/b: the file has another SHA256"):
        list(streamed.chunks())


def test_the_facts_of_a_streamed_layer_are_those_of_a_scan(tmp_path: Path) -> None:
    streamed, digest, content = small_files(tmp_path)
    placed = [
        PlacedFile(path=file.path, source=tmp_path, size_bytes=file.size_bytes, sha256=file.sha256)
        for file in streamed.files
    ]
    assert facts_of_weights(placed, digest) == scan_layer([content], SecretScanner())


def test_it_may_be_read_again_from_anywhere(tmp_path: Path) -> None:
    digest, content = stored(tmp_path)
    for cut in (0, 100, 512, 1024, 1050, 3000, len(content) - 1500, len(content) - 1):
        for back in (0, 1, 700):
            streamed = stream()
            read = b""
            for chunk in streamed.chunks():
                read += chunk
                if len(read) >= cut:
                    break
            resumed = max(0, len(read) - back)
            assert b"".join(streamed.chunks(resumed)) == content[resumed:], (cut, back)
            assert streamed.digest() == digest


def test_a_wrong_file_raises_before_the_layer_is_whole(tmp_path: Path) -> None:
    wrong = CONTENT.replace(b"end", b"ond")
    seen: list[int] = []
    with pytest.raises(SourceError) as caught:
        seen.extend(len(chunk) for chunk in stream(wrong).chunks())
    assert sum(seen) < len(stored(tmp_path)[1]) - 1024
    assert str(caught.value) == (
        f"civitai:1: the file has another SHA256 ({hashlib.sha256(wrong).hexdigest()}) than the lock says\n"
        "  → bake lock MANIFEST again, if the source has replaced the file"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [(CONTENT[:-7], "ends 7 bytes early"), (CONTENT + b"x" * 200, "sends more than the lock says")],
)
def test_a_wrong_length_raises(content: bytes, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        list(stream(content).chunks())
    assert str(caught.value) == f"civitai:1: the source {message}"


def test_a_file_is_read_from_an_offset_with_what_is_left_of_its_length() -> None:
    (file,) = stream().files
    assert b"".join(file.chunks(5000)) == CONTENT[5000:]
    assert list(file.chunks(len(CONTENT))) == []
    (short,) = stream(CONTENT[:-7]).files
    with pytest.raises(SourceError, match=r"^civitai:1: the source ends 7 bytes early$"):
        list(short.chunks(5000))


def test_what_the_store_has_proven_is_not_hashed_again() -> None:
    (file,) = stream(sha256="0" * 64).files
    proven = StreamedLayer(files=[dataclasses.replace(file, is_proven=True)])
    plain = stream()
    assert b"".join(proven.chunks()) == b"".join(plain.chunks())
    assert proven.digest() == plain.digest()


def test_a_streamed_layer_in_an_image_has_no_bytes_of_its_own(tmp_path: Path) -> None:
    streamed, digest, content = small_files(tmp_path)
    assert streamed.media_type == "application/vnd.oci.image.layer.v1.tar"
    described = Descriptor(media_type=streamed.media_type, digest=digest, size_bytes=len(content))
    layer = streamed.as_layer(described)
    assert (layer.descriptor, layer.diff_id, layer.kind) == (described, digest, "weights")
    assert layer.comment == "/models/a, /models/b, /models/c"
    assert layer.content is None
    with pytest.raises(
        TypeError, match=r"^a stream is gone when it was read, and cannot be saved$"
    ):
        streamed.describe()
