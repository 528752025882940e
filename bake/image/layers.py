"""Layers as data: deterministic tars, weights raw, everything else gzipped.

Weights layers are `application/vnd.oci.image.layer.v1.tar`: fp16 weights do not shrink below 0.92,
and a raw layer pulls in 0.5 to 0.6 of the gzip layout's time, with every engine (docs/architecture.md).
The same files at the same paths give the same digest, on any machine at any time.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from runtime.worker import WEIGHTS_MTIME

RAW_LAYER = "application/vnd.oci.image.layer.v1.tar"
GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
LARGE_FILE_BYTES = 64 << 20
"""From this size on, a file has a layer to itself, so that an edit of it moves nothing else."""
_CHUNK_BYTES = 1 << 20
_TRAILER = b"\0" * (2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True, kw_only=True)
class PlacedFile:
    """A file of the store and where it belongs in the image."""

    path: PurePosixPath
    """Absolute in the image."""
    source: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class WeightsLayer:
    """A raw tar layer that exists only as the description of its bytes."""

    files: tuple[PlacedFile, ...]
    digest: str
    """`sha256:…` of the tar; of a raw layer this is the diff id as well."""
    size_bytes: int
    media_type: str = RAW_LAYER

    def read_chunks(self) -> Iterator[bytes]:
        """The layer's bytes, never more than a chunk of them in memory."""
        return _tar_chunks(self.files)


@dataclass(frozen=True, kw_only=True)
class TreeLayer:
    """A small gzipped layer on disk."""

    blob: Path
    digest: str
    """`sha256:…` of the gzipped blob."""
    diff_id: str
    """`sha256:…` of the tar in it."""
    size_bytes: int
    media_type: str = GZIP_LAYER


def group_files(files: Iterable[PlacedFile]) -> list[tuple[PlacedFile, ...]]:
    """One group for all small files together, then one for each large file, ordered by path."""
    ordered = sorted(files, key=lambda file: file.path)
    small = tuple(file for file in ordered if file.size_bytes < LARGE_FILE_BYTES)
    large = [(file,) for file in ordered if file.size_bytes >= LARGE_FILE_BYTES]
    return [small, *large] if small else [*large]


def make_weights_layer(files: Sequence[PlacedFile]) -> WeightsLayer:
    """Reads the files once to know the layer's digest.

    Raises:
        ValueError: a file is not as long as it is said to be, or is given twice.
    """
    ordered = tuple(sorted(files, key=lambda file: file.path))
    if len({file.path for file in ordered}) != len(ordered):
        raise ValueError("two files have the same path in the image")
    digest = hashlib.sha256()
    size_bytes = 0
    for chunk in _tar_chunks(ordered):
        digest.update(chunk)
        size_bytes += len(chunk)
    return WeightsLayer(files=ordered, digest=f"sha256:{digest.hexdigest()}", size_bytes=size_bytes)


def make_tree_layer(source: Path, blob: Path) -> TreeLayer:
    """Writes a normalised, gzipped layer of what a tar holds.

    Order, times, owners and modes are fixed, since `COPY` never gives the same layer twice (it keeps
    the parent folder's mtime). Folders, files, symbolic and hard links are kept.

    Args:
        source: A tar, such as `docker buildx build --output type=tar` writes it.
        blob: Where the layer is written, by way of a temporary name.

    Raises:
        ValueError: the tar holds a device, a pipe, or a path that leaves the root.
    """
    diff = hashlib.sha256()
    partial = blob.with_name(blob.name + ".part")
    try:
        # mtime and name are part of a gzip header: both are left empty.
        with (
            partial.open("wb") as raw,
            gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed,
        ):
            for chunk in _normalised_chunks(source):
                diff.update(chunk)
                packed.write(chunk)
        partial.replace(blob)
    finally:
        partial.unlink(missing_ok=True)
    digest = hashlib.sha256()
    with blob.open("rb") as written:
        for chunk in _read_chunks(written):
            digest.update(chunk)
    return TreeLayer(
        blob=blob,
        digest=f"sha256:{digest.hexdigest()}",
        diff_id=f"sha256:{diff.hexdigest()}",
        size_bytes=blob.stat().st_size,
    )


def _read_chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _header(entry: tarfile.TarInfo) -> bytes:
    # PAX adds a header of its own from 8 GiB on, and is the same in every Python.
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _padding(size_bytes: int) -> bytes:
    return b"\0" * (-size_bytes % tarfile.BLOCKSIZE)


def _entry(path: PurePosixPath, *, kind: bytes, mode: int, size_bytes: int = 0) -> tarfile.TarInfo:
    """An entry owned by root; tar paths are relative to the root."""
    entry = tarfile.TarInfo(str(path).lstrip("/"))
    entry.type = kind
    entry.mode = mode
    entry.size = size_bytes
    entry.mtime = WEIGHTS_MTIME
    return entry


def _tar_chunks(files: Sequence[PlacedFile]) -> Iterator[bytes]:
    folders = sorted({parent for file in files for parent in file.path.parents if parent.name})
    for folder in folders:
        yield _header(_entry(folder, kind=tarfile.DIRTYPE, mode=0o755))
    for file in files:
        yield _header(
            _entry(file.path, kind=tarfile.REGTYPE, mode=0o644, size_bytes=file.size_bytes)
        )
        sent = 0
        with file.source.open("rb") as opened:
            for chunk in _read_chunks(opened):
                sent += len(chunk)
                yield chunk
        if sent != file.size_bytes:
            raise ValueError(
                f"{file.path} has {sent} bytes in the store, {file.size_bytes} were expected"
            )
        yield _padding(sent)
    yield _TRAILER


def _normalised_chunks(source: Path) -> Iterator[bytes]:
    with tarfile.open(source) as tar:
        members = {_safe_path(member.name): member for member in tar}
        # Hard links come last, since they must follow the file that they name.
        order = sorted(members, key=lambda path: (members[path].islnk(), path))
        for path in order:
            member = members[path]
            if not path.name:
                continue
            if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                raise ValueError(f"{path} is neither a file, a folder nor a link")
            mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            size_bytes = member.size if member.isreg() else 0
            entry = _entry(path, kind=member.type, mode=mode, size_bytes=size_bytes)
            entry.linkname = str(_safe_path(member.linkname)) if member.islnk() else member.linkname
            yield _header(entry)
            if member.isreg():
                content = tar.extractfile(member) or io.BytesIO()
                while chunk := content.read(_CHUNK_BYTES):
                    yield chunk
                yield _padding(size_bytes)
    yield _TRAILER


def _safe_path(name: str) -> PurePosixPath:
    path = PurePosixPath(name.lstrip("/"))
    if ".." in path.parts:
        raise ValueError(f"{name} leaves the image's root")
    return path
