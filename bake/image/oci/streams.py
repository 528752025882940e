"""Tars, gzip and zstd as streams of chunks, so that no layer or archive is ever held or written down."""

from __future__ import annotations

import io
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Literal, cast

from bake.errors import BuildError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Packing = Literal["", "gzip", "zstd"]
"""How a layer's bytes are packed; empty: not at all."""
CHUNK_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = bytes(range(0x50, 0x60))


class UnsoundLayer(BuildError):  # noqa: N818  # it is the layer's state, whoever reads it
    """A layer's bytes do not unpack, so that no engine would take them."""


class ChunkReader(io.RawIOBase):
    """A readable file over chunks of bytes, which can be sought forwards only."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._left = memoryview(b"")
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        """How many bytes were read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Passes over what lies before `offset`; short of it only where the stream ends.

        Raises:
            UnsupportedOperation: it was passed already.
        """
        if whence != io.SEEK_SET or offset < self._position:
            raise io.UnsupportedOperation("a stream is read forwards only")
        while self._position < offset and self.read(min(CHUNK_BYTES, offset - self._position)):
            pass
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes unless the stream ends (`tarfile` takes a short read for the end)."""
        parts = []
        wanted = size
        while wanted:
            if not self._left:
                following = next(self._chunks, None)
                if following is None:
                    break
                self._left = memoryview(following)
                continue
            part = self._left if wanted < 0 else self._left[:wanted]
            self._left = self._left[len(part) :]
            wanted -= len(part) if wanted > 0 else 0
            self._position += len(part)
            parts.append(part)
        return b"".join(parts)


def open_tar(chunks: Iterable[bytes] | ChunkReader) -> tarfile.TarFile:
    """An uncompressed tar, to be iterated once and in order.

    Not `tarfile`'s own mode for streams: that copies its whole buffer for every header.
    """
    reader = chunks if isinstance(chunks, ChunkReader) else ChunkReader(chunks)
    return tarfile.open(fileobj=cast(BinaryIO, reader), mode="r:")


def peek(chunks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes of a stream, enough to know its compression, and the whole stream."""
    iterator = iter(chunks)
    first = b""
    for chunk in iterator:
        first += chunk
        if len(first) >= len(_ZSTD_MAGIC):
            break
    return first[: len(_ZSTD_MAGIC)], _chain(first, iterator)


def packing_of(first: bytes) -> Packing:
    """How a stream is packed, by its first bytes: a media type may be wrong, they are not."""
    # pzstd begins with a frame that is to be skipped; its magic has sixteen forms
    if first.startswith(_ZSTD_MAGIC) or (first[:1] in _SKIPPABLE and first[1:4] == b"\x2a\x4d\x18"):
        return "zstd"
    return "gzip" if first.startswith(_GZIP_MAGIC) else ""


def unpacked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The stream without its packing, where it has one.

    Raises:
        UnsoundLayer: it is damaged, or ends in the middle.
    """
    first, whole = peek(chunks)
    return unpacked_as(packing_of(first), whole)


def unpacked_as(packing: Packing, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The stream without the packing that it is known to have. Raises as `unpacked`."""
    if packing == "zstd":
        return unzstd(chunks)
    return gunzipped(chunks) if packing == "gzip" else chunks


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def gunzipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """All members of a gzip stream: pigz and eStargz write more than one.

    Raises:
        UnsoundLayer: it is damaged, or ends in the middle.
    """
    inflater = zlib.decompressobj(wbits=31)
    ended = False
    for chunk in chunks:
        data = chunk
        while data:
            if ended:
                inflater, ended = zlib.decompressobj(wbits=31), False
            try:
                plain = inflater.decompress(data, 4 * CHUNK_BYTES)
            except zlib.error as error:
                raise UnsoundLayer(f"a gzipped layer is damaged: {error}") from error
            yield plain
            data = inflater.unconsumed_tail
            if inflater.eof:
                data, ended = inflater.unused_data, True
    if not ended:
        raise UnsoundLayer("a gzipped layer ends in the middle")


def unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """All frames of a zstd stream: pzstd and zstd:chunked write more than one.

    Raises:
        UnsoundLayer: it is damaged, or ends in the middle.
    """
    frame, is_begun = zstd.ZstdDecompressor(), False
    for chunk in chunks:
        data = chunk
        while data or not (frame.needs_input or frame.eof):
            if frame.eof:
                frame = zstd.ZstdDecompressor()
            try:
                plain = frame.decompress(data, 4 * CHUNK_BYTES)
            except (zstd.ZstdError, MemoryError) as error:  # a window larger than any encoder's
                raise UnsoundLayer(f"a layer under zstd is damaged: {error}") from error
            is_begun = True
            yield plain
            data = frame.unused_data if frame.eof else b""
    if is_begun and not frame.eof:
        raise UnsoundLayer("a layer under zstd ends in the middle")


def zstd_packed(chunks: Iterable[bytes], level: int) -> Iterator[bytes]:
    """The stream under zstd, as one frame.

    The same for the same bytes, level and version of zstd, however the chunks are cut: the packer is given
    pieces of one length, and works in one thread.
    """
    packer, plain = zstd.ZstdCompressor(level=level), ChunkReader(chunks)
    while piece := plain.read(CHUNK_BYTES):
        yield packer.compress(piece)
    yield packer.flush()
