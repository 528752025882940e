"""Streams of chunks: read as a file, told apart by their first bytes, unpacked in bounded pieces."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zlib

import pytest

from bake.image.oci.streams import (
    CHUNK_BYTES,
    ChunkReader,
    UnsoundLayer,
    gunzipped,
    open_tar,
    packing_of,
    peek,
    unpacked,
    unpacked_as,
    unzstd,
    zstd_packed,
)

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
TEXT = bytes(range(256)) * 100


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def test_chunks_are_read_as_a_file_of_exact_reads() -> None:
    reader = ChunkReader([b"abc", b"", b"defg", b"h"])
    assert (reader.readable(), reader.seekable(), reader.tell()) == (True, True, 0)
    assert (reader.read(2), reader.tell()) == (b"ab", 2)
    assert (reader.read(3), reader.tell()) == (b"cde", 5)
    assert (reader.read(0), reader.tell()) == (b"", 5)
    assert (reader.read(), reader.tell()) == (b"fgh", 8)
    assert (reader.read(5), reader.read(), reader.tell()) == (b"", b"", 8)
    assert ChunkReader([b"abc"]).read(9) == b"abc"


def test_a_stream_is_sought_forwards_only() -> None:
    reader = ChunkReader([b"abc", b"defg"])
    assert (reader.seek(5), reader.tell(), reader.read(1)) == (5, 5, b"f")
    assert (reader.seek(6), reader.read()) == (6, b"g")
    assert reader.seek(100) == 7, "short of it only where the stream ends"
    for where in ((6,), (8, io.SEEK_CUR), (0, io.SEEK_END)):
        with pytest.raises(io.UnsupportedOperation, match=r"^a stream is read forwards only$"):
            reader.seek(*where)


def test_a_seek_holds_no_more_than_a_chunk() -> None:
    asked: list[int] = []

    class Watched(ChunkReader):
        def read(self, size: int = -1) -> bytes:
            asked.append(size)
            return super().read(size)

    reader = Watched(b"x" * 1000 for _ in range(2200))
    assert reader.seek(2 * CHUNK_BYTES + 5) == 2 * CHUNK_BYTES + 5
    assert asked == [CHUNK_BYTES, CHUNK_BYTES, 5]


@pytest.mark.parametrize("size", [1, 700, 100_000])
def test_a_tar_is_read_out_of_chunks_or_a_reader(size: int) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("a", "b"):
            entry = tarfile.TarInfo(name)
            entry.size = len(TEXT)
            tar.addfile(entry, io.BytesIO(TEXT))
    chunks = pieces(packed.getvalue(), size)
    for given in (chunks, ChunkReader(chunks)):
        found = []
        with open_tar(given) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                found.append((member.name, content.read()))
        assert found == [("a", TEXT), ("b", TEXT)]
    with pytest.raises(tarfile.ReadError):
        open_tar([gzip.compress(packed.getvalue())])


@pytest.mark.parametrize(
    ("chunks", "first"),
    [([], b""), ([b"ab"], b"ab"), ([b"a", b"b", b"", b"cd", b"ef"], b"abcd"), ([b"abcdef"], b"abcd")],
)  # fmt: skip
def test_the_first_bytes_are_seen_and_not_lost(chunks: list[bytes], first: bytes) -> None:
    seen, whole = peek(chunks)
    assert seen == first
    assert b"".join(whole) == b"".join(chunks)


def test_no_more_of_a_stream_is_read_to_know_it_than_needed() -> None:
    chunks = iter([b"ab", b"cd", b"ef"])
    _, whole = peek(chunks)
    assert next(chunks) == b"ef"
    assert list(whole) == [b"abcd"]


@pytest.mark.parametrize(
    ("first", "packing"),
    [(b"", ""), (GZIP, "gzip"), (GZIP[:1], ""), (b"\x8b\x1f", ""), (ZSTD, "zstd"), (ZSTD[:3], ""),
     *((bytes([form]) + b"\x2a\x4d\x18", "zstd") for form in (0x50, 0x57, 0x5F)),
     (b"\x4f\x2a\x4d\x18", ""), (b"\x60\x2a\x4d\x18", ""), (b"\x50\x2a\x4d\x19", ""),
     (b"\x2a\x4d\x18\x50", ""), (b"ustar", "")],
)  # fmt: skip
def test_a_packing_is_known_by_its_magic(first: bytes, packing: str) -> None:
    assert packing_of(first) == packing


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_every_packing_is_taken_off(size: int) -> None:
    for packed in (TEXT, gzip.compress(TEXT), b"".join(zstd_packed([TEXT], 1))):
        assert b"".join(unpacked(pieces(packed, size))) == TEXT
    # eStargz and pigz write many members
    several = gzip.compress(TEXT[:100]) + gzip.compress(b"") + gzip.compress(TEXT[100:])
    assert b"".join(unpacked(pieces(several, size))) == TEXT
    assert list(unpacked([])) == []


def test_what_is_known_of_a_packing_is_believed() -> None:
    packed = gzip.compress(TEXT)
    assert b"".join(unpacked_as("", iter([packed]))) == packed
    assert b"".join(unpacked_as("gzip", iter([packed]))) == TEXT
    assert b"".join(unpacked_as("zstd", zstd_packed([TEXT], 3))) == TEXT


def test_what_expands_is_given_in_pieces_of_4_mib_at_most() -> None:
    plain = bytes(9 << 20)
    under_zstd = b"".join(zstd_packed([plain], 1))
    for chunks in (gunzipped(iter([gzip.compress(plain)])), unzstd(iter([under_zstd]))):
        sizes = [len(each) for each in chunks]
        assert sum(sizes) == len(plain)
        assert max(sizes) == 4 << 20


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (b"", "a gzipped layer ends in the middle"),
        (gzip.compress(TEXT)[:-1], "a gzipped layer ends in the middle"),
        (gzip.compress(TEXT) + GZIP, "a gzipped layer ends in the middle"),
        (gzip.compress(TEXT) + b"more", "a gzipped layer is damaged: Error -3 while decompressing data: incorrect header check"),
        (gzip.compress(TEXT)[:-8] + bytes(8), "a gzipped layer is damaged: Error -3 while decompressing data: incorrect data check"),
        (zlib.compress(TEXT), "a gzipped layer is damaged: Error -3 while decompressing data: incorrect header check"),
    ],
)  # fmt: skip
def test_gzip_that_does_not_unpack_is_said(packed: bytes, message: str) -> None:
    with pytest.raises(UnsoundLayer) as caught:
        list(gunzipped(iter([packed] * bool(packed))))
    assert str(caught.value) == message


def test_zstd_packs_at_the_level_asked_for_whatever_the_chunks() -> None:
    words = random.Random(1)
    text = b" ".join(b"%d" % words.randrange(500) for _ in range(300_000))
    weak, strong = (b"".join(zstd_packed([text], level)) for level in (1, 9))
    assert len(strong) < len(weak)
    assert b"".join(zstd_packed(pieces(text, 70_001), 9)) == strong
    assert b"".join(unzstd(zstd_packed([], 3))) == b""
