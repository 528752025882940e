"""What was once learnt of a layer or an image, kept by the digest of its bytes.

An entry is used only where it was written for the same key, which holds the digest and the version of what
was learnt, and where it is whole: whatever is damaged, half-written or of another version is as good as
not there. Nothing kept stands for the bytes themselves: who has the bytes hashes them first.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from bake.files import write_atomically
from bake.image.oci.model import canonical_json, check_digest

T = TypeVar("T")


class Kept:
    """A folder of such entries; one file for each kind and digest, replaced when the version changes."""

    def __init__(self, folder: Path, *, reads: bool = True) -> None:
        self._folder = folder
        self._reads = reads
        """False: everything is learnt anew, and kept again."""

    def read(self, kind: str, digest: str, version: str, parse: Callable[[Any], T]) -> T | None:
        """What was kept, or None.

        Args:
            kind: What was learnt, such as `facts`.
            digest: `sha256:…` of what it was learnt from.
            version: Of the way in which it was learnt.
            parse: Makes the value of its JSON; may raise KeyError, TypeError, ValueError, AttributeError.
        """
        if not self._reads:
            return None
        try:
            data = json.loads(gzip.decompress(self._path(kind, digest).read_bytes()))
            value = data["value"]
            if data["key"] != _key(kind, digest, version) or data["sha256"] != _sha256(value):
                return None
            known = parse(value)
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError):
            return None
        with suppress(OSError):
            os.utime(self._path(kind, digest))
        return known

    def remove_unused(self, older_than_s: float, *, dry_run: bool = False) -> int:
        """Removes what was not read for so long. Returns how many bytes that is."""
        freed = 0
        for path in self._folder.glob("*.gz"):
            with suppress(OSError):
                state = path.stat()
                if time.time() - state.st_mtime > older_than_s:
                    if not dry_run:
                        path.unlink()
                    freed += state.st_size
        return freed

    def write(self, kind: str, digest: str, version: str, value: Any) -> None:
        """Keeps a value (JSON); a disk that does not take it costs time later, and nothing else."""
        data = {"key": _key(kind, digest, version), "sha256": _sha256(value), "value": value}
        with suppress(OSError):
            packed = gzip.compress(canonical_json(data), 1, mtime=0)
            write_atomically(self._path(kind, digest), packed)

    def _path(self, kind: str, digest: str) -> Path:
        return self._folder / f"{check_digest(digest)[7:]}.{kind}.gz"


def _key(kind: str, digest: str, version: str) -> str:
    return f"{kind} {digest} {version}"


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()
