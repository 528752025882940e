"""A weights layer whose bytes come when they are sent: hashed and verified on the way, kept nowhere.

All of a layer's tar but its files' bytes is known beforehand, so its size is too; the digest is known at the
end. A file that is not what the lock says raises before its last bytes are passed on: the upload is given
up, and what was never closed does not exist in the registry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bake.errors import SourceError
from bake.image.oci.layers import PlacedFile, tar_parts, tar_size
from bake.image.oci.model import RAW_LAYER, Descriptor, Layer

if TYPE_CHECKING:
    from hashlib import _Hash


@dataclass(frozen=True, kw_only=True)
class StreamedFile:
    """One file whose bytes come when they are sent."""

    path: PurePosixPath
    """Absolute in the image."""
    size_bytes: int
    sha256: str
    open_at: Callable[[int], Iterator[bytes]]
    """The file's bytes from an offset on."""
    where: str = ""
    """The source, for messages."""
    is_proven: bool = False
    """The bytes come from the store, whose SHA256 was proven when they came."""

    def chunks(self, offset_bytes: int) -> Iterator[bytes]:
        """The bytes from an offset on.

        Raises:
            SourceError: there are more or fewer than the lock says.
        """
        left = self.size_bytes - offset_bytes
        for chunk in self.open_at(offset_bytes):
            left -= len(chunk)
            if left < 0:
                raise SourceError("the source sends more than the lock says", where=self.where)
            yield chunk
        if left:
            raise SourceError(f"the source ends {left} bytes early", where=self.where)


@dataclass(kw_only=True)
class StreamedLayer:
    """Files as one layer. May be read again, from any offset; every byte is hashed once, in order."""

    files: Sequence[StreamedFile]
    media_type: str = RAW_LAYER
    _tar: _Hash = field(default_factory=hashlib.sha256, init=False, repr=False)
    _hashes: dict[PurePosixPath, _Hash] = field(default_factory=dict, init=False, repr=False)
    _hashed: int = field(default=0, init=False, repr=False)
    """How far the hashes have come, in bytes of the tar."""

    @property
    def size_bytes(self) -> int:
        """Of the layer."""
        return tar_size(self._placed)

    def chunks(self, offset_bytes: int = 0) -> Iterator[bytes]:
        """The layer's bytes.

        Raises:
            SourceError: a file is not what the lock says.
        """
        files = {file.path: file for file in self.files}
        start = 0
        for part in tar_parts(self._placed):
            file = files[part.path] if isinstance(part, PlacedFile) else None
            end = start + (part.size_bytes if isinstance(part, PlacedFile) else len(part))
            if end > offset_bytes:
                position = max(start, offset_bytes)
                within = position - start
                if isinstance(part, PlacedFile):
                    pieces = files[part.path].chunks(within)
                else:
                    pieces = iter([part[within:]])
                for piece in pieces:
                    self._hash(piece, position, file)
                    position += len(piece)
                    if position == end and file is not None:
                        self._check(file)
                    yield piece
            start = end

    def digest(self) -> str:
        """The layer's digest.

        Raises:
            RuntimeError: not all of it was read.
        """
        if self._hashed != self.size_bytes:
            raise RuntimeError("the digest of a stream is known when all of it was read")
        return f"sha256:{self._tar.hexdigest()}"

    def describe(self) -> dict[str, Any]:
        raise TypeError("a stream is gone when it was read, and cannot be saved")

    def as_layer(self, descriptor: Descriptor) -> Layer:
        """The layer for `assemble`, once `push_stream` has given its descriptor."""
        return Layer(
            descriptor=descriptor,
            diff_id=descriptor.digest,
            comment=", ".join(str(file.path) for file in self._placed),
            kind="weights",
        )

    @cached_property
    def _placed(self) -> list[PlacedFile]:
        """In the order of the store's layers, so that the digest is the same."""
        placed = [
            PlacedFile(
                path=file.path, source=Path(), size_bytes=file.size_bytes, sha256=file.sha256
            )
            for file in self.files
        ]
        return sorted(placed, key=lambda file: file.path)

    def _hash(self, piece: bytes, position: int, file: StreamedFile | None) -> None:
        if not position <= self._hashed < position + len(piece):
            return
        fresh = piece[self._hashed - position :]
        self._tar.update(fresh)
        if file is not None and not file.is_proven:
            self._hashes.setdefault(file.path, hashlib.sha256()).update(fresh)
        self._hashed = position + len(piece)

    def _check(self, file: StreamedFile) -> None:
        if file.is_proven:
            return
        found = self._hashes[file.path].hexdigest()
        if found != file.sha256:
            raise SourceError(
                f"the file has another SHA256 ({found}) than the lock says",
                where=file.where,
                hint="bake lock MANIFEST again, if the source has replaced the file",
            )
