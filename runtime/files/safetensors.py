"""The header of a safetensors file, read and checked without loading a tensor.

Format: 8 bytes of little-endian header length, the header (JSON), the tensors' bytes. What the reference
implementation (safetensors 0.8) reads is read, what it refuses is refused: no hole, no overlap, nothing
after the last tensor; of a tensor that is named twice the last entry counts.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from runtime.files.errors import WeightsError
from runtime.files.sniff import LFS_HINT, LFS_POINTER, SNIFF_BYTES, describe, identify_start

MAX_HEADER_BYTES = 100_000_000
"""The reference implementation's limit."""
_MAX_NUMBER = 1 << 64
_MAX_DEPTH = 127
"""Of the header's JSON, as serde_json has it; 2 for a tensor's entry."""
_FIELDS = ("dtype", "shape", "data_offsets")
_DTYPES = {
    8: "BOOL U8 I8 F8_E4M3 F8_E5M2 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
    16: "I16 U16 F16 BF16",
    32: "I32 U32 F32",
    64: "I64 U64 F64 C64",
    4: "F4",
    6: "F6_E2M3 F6_E3M2",
}
DTYPE_BITS = {name: bits for bits, names in _DTYPES.items() for name in names.split()}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One entry of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Offset of its bytes, counted from the end of the header."""
    end: int

    @property
    def size_bytes(self) -> int:
        """Its length in the file."""
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Header:
    """A checked header."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int
    """Of the whole file."""


def data_sha256(path: Path) -> str:
    """SHA-256 of a file without its header: kohya's hash of a LoRA, and CivitAI's AutoV3."""
    with path.open("rb") as file:
        file.seek(8 + struct.unpack("<Q", file.read(8))[0])
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_header(path: Path) -> Header:
    """Reads and checks a file's header.

    Raises:
        WeightsError: kind `pickle` for a .ckpt or .pt, `page` for HTML and the like, `truncated` for a
            file that ends early, `not_weights` for all else that is no valid safetensors file.
    """
    try:
        with path.open("rb") as file:
            return parse_header(file, path.stat().st_size, path.name)
    except OSError as error:
        raise WeightsError(
            "not_weights", f"cannot be read: {error.strerror}", where=path.name
        ) from None


def parse_header(file: BinaryIO, size_bytes: int, name: str) -> Header:
    """As `read_header`, of a file of which at least the header is at hand."""
    start = file.read(SNIFF_BYTES)
    kind, words = identify_start(start), describe(start)
    if kind == "page":
        hint = LFS_HINT if words == LFS_POINTER else None
        raise WeightsError("page", f"this is {words}, not a model", where=name, hint=hint)
    if kind != "safetensors":
        raise WeightsError(
            "pickle" if kind == "pickle" else "not_weights", f"this is {words}", where=name
        )
    (length,) = struct.unpack("<Q", start[:8])
    if length > MAX_HEADER_BYTES:
        raise _invalid(name, f"its header claims {length} bytes")
    file.seek(8)
    text = file.read(length)
    if len(text) < length:
        raise _truncated(name, "within the header")
    try:
        tensors, metadata = _parse_json(name, text)
    except (ValueError, RecursionError) as error:
        raise _invalid(name, f"its header is not valid JSON: {error}") from None
    _check_layout(name, tensors, size_bytes - 8 - length)
    return Header(tensors=tensors, metadata=metadata, size_bytes=size_bytes)


class _Object(dict[str, Any]):
    """A JSON object that knows what it says twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _parse_json(name: str, text: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    data = json.loads(
        text.decode(),
        object_pairs_hook=_Object,
        parse_int=_number,
        parse_float=_number,
        parse_constant=_number,
    )
    if not isinstance(data, _Object):
        raise _invalid(name, "its header is no JSON object")
    tensors: dict[str, Tensor] = {}
    metadata: list[dict[str, str]] = []
    for key, value in data.pairs:
        _check_ignored(key)
        if key == "__metadata__":
            metadata.append(_parse_metadata(name, value))
        else:
            tensors[key] = _parse_tensor(name, key, value)
    if len(metadata) > 1:
        raise _invalid(name, "its metadata is given twice")
    return tensors, metadata[0] if metadata else {}


def _number(text: str) -> int | float:
    if text.lstrip("-").isdigit() and text != "-0" and len(text) <= 20:
        return int(text)
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


def _check_ignored(value: Any, depth: int = 0) -> None:
    """Raises ValueError for what serde_json refuses although nobody looks at it."""
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair is no text
    elif isinstance(value, (list, dict)):
        if depth >= _MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        inner = value if isinstance(value, list) else [*value, *value.values()]
        for each in inner:
            _check_ignored(each, depth + 1)


def _parse_metadata(name: str, value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, _Object) or not all(isinstance(each, str) for _, each in value.pairs):
        raise _invalid(name, "its metadata is not a mapping of text to text")
    _check_ignored(value)
    return value


def _parse_tensor(name: str, key: str, value: Any) -> Tensor:
    try:
        if isinstance(value, list):
            value = _Object(list(zip(_FIELDS, value, strict=True)))
        fields = [each for each in value.pairs if each[0] in _FIELDS]
        others = [each for each in value.pairs if each[0] not in _FIELDS]
        (dtype, shape, (start, end)) = (dict(fields)[each] for each in _FIELDS)
        numbers = [*shape, start, end] if isinstance(shape, list) else [None]
    except (AttributeError, TypeError, KeyError, ValueError):
        raise _invalid(name, f"the entry of {key[:80]} is not of its form") from None
    if len(fields) != len(_FIELDS):
        raise _invalid(name, f"the entry of {key[:80]} says something twice")
    for other, ignored in others:
        _check_ignored(other)
        _check_ignored(ignored, 2)
    if not all(type(number) is int and 0 <= number < _MAX_NUMBER for number in numbers):
        raise _invalid(name, f"{key[:80]} has a size or offset that is no whole number")
    if isinstance(dtype, dict) and list(dtype.values()) == [None]:
        (dtype,) = dtype  # serde's long form
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _invalid(name, f"{key[:80]} has the unknown type {str(dtype)[:20]}")
    return Tensor(dtype=dtype, shape=tuple(shape), start=start, end=end)


def _count_bits(tensor: Tensor) -> int | None:
    """None where the reference's 64 bits overflow, also if a later dimension is 0."""
    count = 1
    for each in (*tensor.shape, DTYPE_BITS[tensor.dtype]):
        count *= each
        if count >= _MAX_NUMBER:
            return None
    return count


def _check_layout(name: str, tensors: Mapping[str, Tensor], data_bytes: int) -> None:
    at = 0
    for key, tensor in sorted(tensors.items(), key=lambda each: (each[1].start, each[1].end)):
        if tensor.start != at:
            problem = "overlaps another" if tensor.start < at else "follows a hole"
            raise _invalid(name, f"the tensor {key[:80]} {problem}")
        if tensor.size_bytes < 0 or _count_bits(tensor) != tensor.size_bytes * 8:
            raise _invalid(name, f"the shape and the bytes of {key[:80]} do not agree")
        at = tensor.end
    if at > data_bytes:
        raise _truncated(name, f"{at - data_bytes} bytes before its end")
    if at < data_bytes:
        raise _invalid(name, f"{data_bytes - at} bytes follow the last tensor")


def _invalid(name: str, why: str) -> WeightsError:
    return WeightsError("not_weights", f"not a valid safetensors file: {why}", where=name)


def _truncated(name: str, at: str) -> WeightsError:
    return WeightsError("truncated", f"the safetensors file breaks off {at}", where=name)
