"""Weights are checked before they are believed: what a file is, held against the manifest."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from bake.console import format_bytes
from bake.errors import SourceError
from bake.lock import Pin
from bake.manifest.model import Manifest
from bake.weights.kinds import Recognised, recognise
from runtime.files.errors import WeightsError
from runtime.files.safetensors import MAX_HEADER_BYTES, Header, parse_header, read_header
from runtime.files.sniff import SNIFF_BYTES, identify_start

_PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
_HINTS = {
    "page": "the download needs a token, or the site was in maintenance: "
    "bake store verify, then bake fetch again",
    "truncated": "the source's own file is broken: choose another file or version",
    "not_weights": "choose another file of this source",
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a file of weights is."""

    format: Literal["safetensors", "pickle"]
    recognised: Recognised | None
    """None for a pickle, which is not opened."""


def inspect_weights(path: Path, *, where: str | None = None) -> Facts:
    """Reads a file's header.

    Raises:
        SourceError: it is no weights file, or a broken one.
    """
    return _facts(lambda: read_header(path), where)


def inspect_start(chunks: Iterator[bytes], size_bytes: int, *, where: str) -> Facts:
    """As `inspect_weights`, of a file that is not on disk: no more than its header is read."""
    start, needed = b"", SNIFF_BYTES
    for chunk in chunks:
        start += chunk
        if identify_start(start[:SNIFF_BYTES]) == "safetensors":
            (length,) = struct.unpack("<Q", start[:8])
            needed = max(SNIFF_BYTES, 8 + min(length, MAX_HEADER_BYTES))
        if len(start) >= needed:
            break
    return _facts(lambda: parse_header(io.BytesIO(start), size_bytes, where), where)


def _facts(read: Callable[[], Header], where: str | None) -> Facts:
    try:
        return Facts(format="safetensors", recognised=recognise(read()))
    except WeightsError as error:
        if error.kind == "pickle":
            return Facts(format="pickle", recognised=None)
        raise SourceError(
            error.what, where=where or error.where, hint=error.hint or _HINTS.get(error.kind)
        ) from None


def check_weights(facts: Facts, manifest: Manifest, pin: Pin) -> list[str]:
    """Holds a file against the manifest; gives warnings.

    Raises:
        SourceError: it is a pickle that is not allowed, of another kind, or of another family.
    """
    where = f"{pin.key} ({pin.file_name})"
    if facts.recognised is None:
        _check_pickle(manifest, pin, where)
        return [f"{where}: a pickle can run code when it is loaded; allow_pickle accepts that"]
    if pin.suffix != ".safetensors":
        raise SourceError(
            f"its name ends in {pin.suffix or 'nothing'}, its content is safetensors: "
            "the webui would load it as something else",
            where=where,
            hint="choose a source whose name ends in .safetensors",
        )
    found = facts.recognised
    if found.role != pin.role:
        raise SourceError(
            f"the file is {_a(found.kind)}, not a {pin.role}",
            where=where,
            hint="put it under the right key, or choose another file",
        )
    if found.family is not None and found.family != manifest.family:
        raise SourceError(
            f"the tensors are those of {found.family}, the manifest's family is {manifest.family}",
            where=where,
            hint="correct `family`, or choose another file",
        )
    if found.problem:
        raise SourceError(found.problem, where=where)
    return _warnings(found, manifest, where)


def check_name(file_name: str, *, allow_pickle: bool, where: str) -> None:
    """Holds a file's name against the manifest, before its bytes are there.

    Raises:
        SourceError: it is a pickle's and none is allowed, or no name of weights.
    """
    suffix = PurePosixPath(file_name).suffix.lower()
    if suffix in _PICKLE_SUFFIXES:
        if not allow_pickle:
            raise _pickle_error(where)
    elif suffix != ".safetensors":
        raise SourceError(
            f"{file_name} is no file of weights: its name ends in {suffix or 'nothing'}",
            where=where,
            hint="choose a file whose name ends in .safetensors",
        )


def check_stored(path: Path, manifest: Manifest, pin: Pin) -> list[str]:
    """`inspect_weights` and `check_weights` in one."""
    return check_weights(inspect_weights(path, where=f"{pin.key} ({pin.file_name})"), manifest, pin)


def _check_pickle(manifest: Manifest, pin: Pin, where: str) -> None:
    if not manifest.allow_pickle:
        raise _pickle_error(where)
    if pin.suffix not in _PICKLE_SUFFIXES:
        raise SourceError(
            f"its name ends in {pin.suffix or 'nothing'}, but its content is a pickle", where=where
        )


def _pickle_error(where: str) -> SourceError:
    return SourceError(
        "this is a pickle, which can run any code when it is loaded",
        where=where,
        hint="choose a .safetensors file, or set allow_pickle: true if you trust its author",
    )


def _warnings(found: Recognised, manifest: Manifest, where: str) -> list[str]:
    warnings = []
    if found.family is None and found.role in ("checkpoint", "lora"):
        warnings.append(f"{where}: the tensors do not tell whether it is for {manifest.family}")
    if found.kind.startswith(("inpainting", "image-editing")):
        warnings.append(f"{where}: an {found.kind} draws badly from text alone")
    if found.role == "checkpoint" and found.precision == "fp32":
        size = format_bytes(found.size_bytes)
        warnings.append(f"{where}: fp32 ({size}); an fp16 file is half of that and loads faster")
    if found.has_ema:
        warnings.append(f"{where}: it carries EMA weights, which only training needs")
    return warnings


def _a(kind: str) -> str:
    if kind.startswith(("a ", "an ")):
        return kind
    return f"an {kind}" if kind[0].lower() in "aeio" else f"a {kind}"
