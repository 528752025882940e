"""Layers as data: deterministic tars, weights raw, everything else gzipped.

Weights layers are `application/vnd.oci.image.layer.v1.tar`: fp16 weights do not shrink below 0.92,
and an engine pulls a raw layer in less than half of a gzipped one's time (docs/benchmarks.md).
The same files at the same paths give the same digest, on any machine at any time.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from bake.files import atomic_file, write_atomically
from bake.image.oci.model import GZIP_LAYER, RAW_LAYER, Descriptor, FileContent, Layer, LayerKind
from runtime.worker import WEIGHTS_MTIME

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

    @property
    def content(self) -> WeightsContent:
        """Its bytes."""
        return WeightsContent(files=self.files)

    def as_layer(self) -> Layer:
        """The layer for `assemble`, named by its files."""
        return Layer(
            descriptor=Descriptor(
                media_type=self.media_type, digest=self.digest, size_bytes=self.size_bytes
            ),
            diff_id=self.digest,
            comment=", ".join(str(file.path) for file in self.files),
            kind="weights",
            content=self.content,
        )


@dataclass(frozen=True, kw_only=True)
class WeightsContent:
    """A weights layer's bytes, read from the store."""

    files: tuple[PlacedFile, ...]

    def chunks(self, offset_bytes: int = 0) -> Iterator[bytes]:
        """The tar from an offset on, never more than a chunk of it in memory.

        Raises:
            ValueError: a file of the store is not as long as it is said to be.
        """
        return _tar_chunks(self.files, offset_bytes)

    def describe(self) -> dict[str, Any]:
        """Where the files are, for `bake.image.saved`."""
        return {
            "from": "store",
            "files": [
                {
                    "path": str(file.path),
                    "source": str(file.source),
                    "size_bytes": file.size_bytes,
                    "sha256": file.sha256,
                }
                for file in self.files
            ],
        }


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

    def as_layer(self, comment: str, *, kind: LayerKind = "thin") -> Layer:
        """The layer for `assemble`; `comment` says what it is."""
        return Layer(
            descriptor=Descriptor(
                media_type=self.media_type, digest=self.digest, size_bytes=self.size_bytes
            ),
            diff_id=self.diff_id,
            comment=comment,
            kind=kind,
            content=FileContent(path=self.blob),
        )


def group_files(files: Iterable[PlacedFile]) -> list[tuple[PlacedFile, ...]]:
    """One group for all small files together, then one for each large file, ordered by path."""
    ordered = sorted(files, key=lambda file: file.path)
    small = tuple(file for file in ordered if file.size_bytes < LARGE_FILE_BYTES)
    large = [(file,) for file in ordered if file.size_bytes >= LARGE_FILE_BYTES]
    return [small, *large] if small else [*large]


def make_weights_layer(files: Sequence[PlacedFile], *, cache: Path | None = None) -> WeightsLayer:
    """Reads the files once to know the layer's digest, or not at all where it is known already.

    Args:
        files: Of the store, whose SHA256 is proven.
        cache: A folder in which digests are kept by the tar around the files, and their hashes. Should a file
            have changed since, a push or load finds that its bytes are not those of the digest.

    Raises:
        ValueError: a file is not as long as it is said to be, or is given twice.
    """
    ordered = tuple(sorted(files, key=lambda file: file.path))
    if len({file.path for file in ordered}) != len(ordered):
        raise ValueError("two files have the same path in the image")
    known = known_digest(ordered, cache) if cache else None
    if known is None:
        digest = hashlib.sha256()
        for chunk in _tar_chunks(ordered):
            digest.update(chunk)
        known = f"sha256:{digest.hexdigest()}"
        if cache:
            keep_digest(ordered, cache, known)
    return WeightsLayer(files=ordered, digest=known, size_bytes=tar_size(ordered))


def _digest_file(files: Sequence[PlacedFile], cache: Path) -> Path:
    # The tar's own bytes, with each file's SHA256 in its place: whatever changes a layer is in the key.
    parts = [
        part.sha256 if isinstance(part, PlacedFile) else part.hex() for part in tar_parts(files)
    ]
    return cache / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.digest"


def known_digest(files: Sequence[PlacedFile], cache: Path) -> str | None:
    """The digest of a layer of these files in their order, if an earlier one was kept."""
    try:
        text = _digest_file(files, cache).read_text().strip()
    except OSError:
        return None
    return text if re.fullmatch(r"sha256:[0-9a-f]{64}", text) else None


def keep_digest(files: Sequence[PlacedFile], cache: Path, digest: str) -> None:
    """Keeps a layer's digest, by what decides it."""
    write_atomically(_digest_file(files, cache), digest + "\n")


def make_tree_layer(source: Path, blob: Path) -> TreeLayer:
    """Writes a normalised, gzipped layer of what a tar holds.

    Order, times, owners and modes are fixed, since `COPY` never gives the same layer twice (it keeps
    the parent folder's mtime). Folders, files, symbolic and hard links are kept.

    Args:
        source: A tar, such as `docker buildx build --output type=tar` writes it.
        blob: Where the layer is written, as a whole or not at all.

    Raises:
        ValueError: the tar holds a device, a pipe, or a path that leaves the root.
    """
    diff = hashlib.sha256()
    # mtime and name are part of a gzip header: both are left empty.
    with (
        atomic_file(blob) as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed,
    ):
        for chunk in _normalised_chunks(source):
            diff.update(chunk)
            packed.write(chunk)
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


def _tar_chunks(files: Sequence[PlacedFile], offset_bytes: int = 0) -> Iterator[bytes]:
    """A tar of the files in their order; what lies before the offset is not read."""
    before = offset_bytes
    for part in tar_parts(files):
        size_bytes = part.size_bytes if isinstance(part, PlacedFile) else len(part)
        if before >= size_bytes and not (isinstance(part, PlacedFile) and before == 0):
            before -= size_bytes
            continue
        if isinstance(part, PlacedFile):
            yield from _file_chunks(part, before)
        else:
            yield part[before:]
        before = 0


def tar_parts(files: Sequence[PlacedFile]) -> Iterator[bytes | PlacedFile]:
    """A weights layer's tar in order: bytes, and files whose content stands in their place."""
    folders = sorted({parent for file in files for parent in file.path.parents if parent.name})
    for folder in folders:
        yield _header(_entry(folder, kind=tarfile.DIRTYPE, mode=0o755))
    for file in files:
        yield _header(
            _entry(file.path, kind=tarfile.REGTYPE, mode=0o644, size_bytes=file.size_bytes)
        )
        yield file
        yield _padding(file.size_bytes)
    yield _TRAILER


def tar_size(files: Sequence[PlacedFile]) -> int:
    """Bytes of a weights layer."""
    parts = tar_parts(files)
    return sum(part.size_bytes if isinstance(part, PlacedFile) else len(part) for part in parts)


def _file_chunks(file: PlacedFile, offset_bytes: int) -> Iterator[bytes]:
    sent = offset_bytes
    with file.source.open("rb") as opened:
        opened.seek(offset_bytes)
        for chunk in _read_chunks(opened):
            sent += len(chunk)
            yield chunk
    if sent != file.size_bytes:
        raise ValueError(
            f"{file.path} has {sent} bytes in the store, {file.size_bytes} were expected"
        )


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
