"""Tars and gzip read from streams of chunks, so that no layer or archive is ever held or written down."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

from bake.errors import BuildError

CHUNK_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


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


def is_gzip(first: bytes) -> bool:
    """Whether a stream is gzipped (a media type may be wrong, the bytes are not).

    Raises:
        UnsoundLayer: it is compressed with zstd, which engines before 23 cannot pull either.
    """
    if first.startswith(_ZSTD_MAGIC):
        raise UnsoundLayer(
            "the layer is compressed with zstd, which bake cannot read",
            hint="build the image with gzip or uncompressed layers",
        )
    return first.startswith(_GZIP_MAGIC)


def unpacked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The stream without its gzip, where it has one."""
    first, whole = peek(chunks)
    return gunzipped(whole) if is_gzip(first) else whole


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
