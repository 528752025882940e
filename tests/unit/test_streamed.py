"""A stream gives the very layer that the store would give, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

from bake.errors import SourceError
from bake.image.oci.layers import PlacedFile, make_weights_layer
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
    with pytest.raises(RuntimeError, match="known when all of it was read"):
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
    with pytest.raises(SourceError, match="civitai:1: the file has another SHA256") as caught:
        seen.extend(len(chunk) for chunk in stream(wrong).chunks())
    assert sum(seen) < len(stored(tmp_path)[1]) - 1024
    assert hashlib.sha256(wrong).hexdigest() in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(CONTENT[:-7], "ends 7 bytes early"), (CONTENT + b"x" * 200, "sends more than the lock says")],
)
def test_a_wrong_length_raises(content: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        list(stream(content).chunks())
