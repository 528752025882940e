"""One pass over a layer: every file's hash, what it removes from layers below, and secrets in it."""

from __future__ import annotations

import base64
import hashlib
import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from bake.image.oci.layers import PlacedFile
from bake.image.oci.model import PROVENANCE_FILE, SBOM_FILE
from bake.image.oci.streams import (
    CHUNK_BYTES,
    ChunkReader,
    UnsoundLayer,
    open_tar,
    packing_of,
    peek,
    unpacked_as,
)
from bake.image.verify.secrets import OVERLAP_BYTES, Finding, SecretScanner
from bake.plan.code import version_of
from runtime.worker import WEIGHTS_MTIME, WORKER_FILE

_KEPT = frozenset(map(PurePosixPath, (WORKER_FILE, SBOM_FILE, PROVENANCE_FILE)))
_KEPT_BYTES = 4 << 20
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
# Their bytes are numbers: what looks like a secret in them is chance. This machine's own are looked for.
_WEIGHTS_SUFFIXES = frozenset({".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf"})


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """A regular file in a layer."""

    size_bytes: int
    sha256: str
    mode: int
    uid: int
    gid: int
    mtime: float


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """What one layer does to the tree below it."""

    digest: str
    """Of the bytes that were read."""
    diff_id: str
    files: Mapping[PurePosixPath, FileFacts]
    links: frozenset[PurePosixPath]
    """Symbolic and hard links, and whatever else is neither file nor folder."""
    folders: frozenset[PurePosixPath]
    removed: frozenset[PurePosixPath]
    """Whiteouts: these paths are gone, with what lies in them."""
    opaque: frozenset[PurePosixPath]
    """Folders whose earlier content is gone."""
    findings: tuple[Finding, ...]
    kept: Mapping[PurePosixPath, bytes]
    """worker.json and the documents, where the layer holds them."""
    unsound: str = ""
    """Why it does not unpack; the rest is what was read before that."""

    def as_json(self) -> dict[str, Any]:
        """For `bake.image.kept`; `from_json` gives it back."""
        return {
            "digest": self.digest,
            "diff_id": self.diff_id,
            "files": {str(path): asdict(facts) for path, facts in self.files.items()},
            "links": sorted(map(str, self.links)),
            "folders": sorted(map(str, self.folders)),
            "removed": sorted(map(str, self.removed)),
            "opaque": sorted(map(str, self.opaque)),
            "findings": [asdict(finding) for finding in self.findings],
            "kept": {
                str(path): base64.b64encode(data).decode() for path, data in self.kept.items()
            },
            "unsound": self.unsound,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerFacts:
        """Raises KeyError, TypeError or ValueError where `as_json` did not write it."""
        return cls(
            digest=data["digest"],
            diff_id=data["diff_id"],
            files={PurePosixPath(path): FileFacts(**each) for path, each in data["files"].items()},
            links=frozenset(map(PurePosixPath, data["links"])),
            folders=frozenset(map(PurePosixPath, data["folders"])),
            removed=frozenset(map(PurePosixPath, data["removed"])),
            opaque=frozenset(map(PurePosixPath, data["opaque"])),
            findings=tuple(Finding(**each) for each in data["findings"]),
            kept={
                PurePosixPath(path): base64.b64decode(each) for path, each in data["kept"].items()
            },
            unsound=data["unsound"],
        )

    def touches(self, path: PurePosixPath) -> str:
        """How this layer changes a path of a layer below; empty where it does not."""
        for what, paths in (
            ("writes it again", self.files),
            ("puts a link in its place", self.links),
            ("puts a folder in its place", self.folders),
        ):
            if path in paths:
                return what
        for parent in (path, *path.parents):
            if parent in self.removed:
                return f"removes {parent}"
            if parent in self.opaque and parent != path:
                return f"hides what was in {parent}"
            if parent != path and (parent in self.files or parent in self.links):
                return f"puts something else in place of {parent}"
        return ""


def scan_version(scanner: SecretScanner) -> str:
    """Changes with everything but a layer's bytes that its facts depend on: the scanner, and this code."""
    return hashlib.sha256(f"{version_of(__name__)} {scanner.version}".encode()).hexdigest()


def scan_layer(chunks: Iterable[bytes], scanner: SecretScanner) -> LayerFacts:
    """Reads a layer once, as a stream; one that does not unpack is read to its end all the same."""
    # hashlib and zlib let other threads run: the layer's hashes cost no time beside its files'.
    with ThreadPoolExecutor(2) as pool:
        packed, plain = _Hash(pool), _Hash(pool)
        first, whole = peek(chunks)
        source = packed.passing(whole)
        facts = _Facts(scanner)
        packing = packing_of(first)
        unsound = ""
        try:
            # A raw layer's digest is its diff id: hashing gigabytes twice would double the time.
            tree = plain.passing(unpacked_as(packing, source)) if packing else source
            facts.read(ChunkReader(tree))
        except UnsoundLayer as error:
            unsound = error.what
        for _ in source:
            pass
        if not packing:
            plain = packed
        return LayerFacts(
            digest=packed.digest(),
            diff_id=plain.digest(),
            files=facts.files,
            links=frozenset(facts.links),
            folders=frozenset(facts.folders),
            removed=frozenset(facts.removed),
            opaque=frozenset(facts.opaque),
            findings=tuple(dict.fromkeys(facts.findings)),
            kept=facts.kept,
            unsound=unsound,
        )


class _Hash:
    """SHA-256 of a stream, computed beside its reader, one chunk behind it."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._hash = hashlib.sha256()
        self._last: Future[None] | None = None

    def passing(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks."""
        for chunk in chunks:
            self._wait()
            self._last = self._pool.submit(self._hash.update, chunk)
            yield chunk

    def digest(self) -> str:
        """`sha256:…` of what has passed."""
        self._wait()
        return f"sha256:{self._hash.hexdigest()}"

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()


class _Facts:
    def __init__(self, scanner: SecretScanner) -> None:
        self._scanner = scanner
        self._only_literals = scanner.only_literals
        self.files: dict[PurePosixPath, FileFacts] = {}
        self.links: set[PurePosixPath] = set()
        self.folders: set[PurePosixPath] = set()
        self.removed: set[PurePosixPath] = set()
        self.opaque: set[PurePosixPath] = set()
        self.findings: list[Finding] = []
        self.kept: dict[PurePosixPath, bytes] = {}

    def read(self, tree: ChunkReader) -> None:
        """Takes in a whole tar.

        Raises:
            UnsoundLayer: it is none.
        """
        try:
            with open_tar(tree) as tar:
                for entry in tar:
                    self._add(tar, entry, tree)
        except (tarfile.TarError, ValueError) as error:
            # ValueError: tarfile's own for extended headers that make no sense
            raise UnsoundLayer(f"a layer is not a sound tar: {error}") from error
        # The digest is that of all bytes, and tarfile stops at the tar's own end, or at a header that it
        # cannot read: nothing behind it may go unseen.
        self._look_behind(tree)

    def _add(self, tar: tarfile.TarFile, entry: tarfile.TarInfo, reader: ChunkReader) -> None:
        path = _path_of(entry)
        # Of several entries of one path the last counts.
        self.files.pop(path, None)
        self.links.discard(path)
        self.folders.discard(path)
        if path.name == _OPAQUE:
            self.opaque.add(path.parent)
        elif path.name.startswith(_WHITEOUT):
            self.removed.add(path.with_name(path.name[len(_WHITEOUT) :]))
        elif entry.isreg():
            self.findings += self._scanner.look_at_path(path)
            self.files[path] = self._read(_content(tar, entry, reader), entry, path)
        elif entry.isdir():
            self.folders.add(path)
        else:
            self.links.add(path)

    def _look_behind(self, reader: ChunkReader) -> None:
        """Looks at what lies behind the last entry: zeros, in a sound tar."""
        for _ in self._looking(_rest(reader), self._scanner, where="the layer, behind its tar"):
            pass

    def _read(
        self, chunks: Iterator[bytes], entry: tarfile.TarInfo, path: PurePosixPath
    ) -> FileFacts:
        hashed = hashlib.sha256()
        keeps = path in _KEPT and entry.size <= _KEPT_BYTES
        kept: list[bytes] = []
        is_weights = path.suffix in _WEIGHTS_SUFFIXES
        scanner = self._only_literals if is_weights else self._scanner
        for chunk in self._looking(chunks, scanner, where=str(path)):
            hashed.update(chunk)
            if keeps:
                kept.append(chunk)
        if keeps:
            self.kept[path] = b"".join(kept)
        return FileFacts(
            size_bytes=entry.size,
            sha256=hashed.hexdigest(),
            mode=entry.mode & 0o7777,
            uid=entry.uid,
            gid=entry.gid,
            mtime=float(entry.mtime),
        )

    def _looking(
        self, chunks: Iterable[bytes], scanner: SecretScanner, *, where: str
    ) -> Iterator[bytes]:
        """The same chunks, each looked at together with the end of the one before it."""
        before = b""
        for chunk in chunks:
            if not scanner.is_idle:
                self.findings += scanner.look_at(before + chunk if before else chunk, where=where)
                before = chunk[-OVERLAP_BYTES:]
            yield chunk


def _path_of(entry: tarfile.TarInfo) -> PurePosixPath:
    """Where an engine unpacks it: `a/../b` is b. Bytes that are no UTF-8 are in no path that is looked for."""
    name = "/" + entry.name.encode(errors="replace").decode().lstrip("/")
    return PurePosixPath(posixpath.normpath(name) if ".." in name else name)


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo, reader: ChunkReader) -> Iterator[bytes]:
    if entry.issparse():
        opened = tar.extractfile(entry)
        while opened is not None and (chunk := opened.read(CHUNK_BYTES)):
            yield chunk
        return
    # Past tarfile's own file objects, whose buffers and positions cost more than small files' hashes.
    left = entry.size
    while left:
        chunk = reader.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise tarfile.ReadError("unexpected end of data")
        left -= len(chunk)
        yield chunk


def _rest(reader: ChunkReader) -> Iterator[bytes]:
    while chunk := reader.read(CHUNK_BYTES):
        yield chunk


def facts_of_weights(files: Sequence[PlacedFile], digest: str) -> LayerFacts:
    """What a scan of a streamed layer would find: its digest and its files' were proven as they were sent."""
    return LayerFacts(
        digest=digest,
        diff_id=digest,
        files={
            file.path: FileFacts(
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                mode=0o644,
                uid=0,
                gid=0,
                mtime=float(WEIGHTS_MTIME),
            )
            for file in files
        },
        links=frozenset(),
        folders=frozenset(parent for file in files for parent in file.path.parents if parent.name),
        removed=frozenset(),
        opaque=frozenset(),
        findings=(),
        kept={},
    )
