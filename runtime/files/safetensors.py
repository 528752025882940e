"""The header of a safetensors file, read and checked without loading a tensor.

Format: 8 bytes of little-endian header length, the header (JSON), the tensors' bytes. The checks are
those of the reference implementation: no hole, no overlap, nothing after the last tensor.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from runtime.files.errors import WeightsError
from runtime.files.sniff import LFS_HINT, LFS_POINTER, SNIFF_BYTES, describe, identify_start

MAX_HEADER_BYTES = 16 << 20
"""The format allows 100 MB; the largest real headers are below 1 MB, and this one is parsed in a worker."""
DTYPE_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


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
        wrong = "pickle" if kind == "pickle" else "not_weights"
        raise WeightsError(wrong, f"this is {words}", where=name)
    (length,) = struct.unpack("<Q", start[:8])
    if length > MAX_HEADER_BYTES:
        raise _invalid(name, f"its header claims {length} bytes")
    file.seek(8)
    text = file.read(length)
    if len(text) < length:
        raise _truncated(name, "within the header")
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _invalid(name, f"its header is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise _invalid(name, "its header is no JSON object")
    metadata = data.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise _invalid(name, "its metadata is not a mapping of text to text")
    tensors = {key: _parse_tensor(name, key, value) for key, value in data.items()}
    _check_layout(name, tensors, size_bytes - 8 - length)
    return Header(tensors=tensors, metadata=metadata, size_bytes=size_bytes)


def _parse_tensor(name: str, key: str, value: Any) -> Tensor:
    try:
        dtype, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]
        numbers = [*shape, start, end]
    except (TypeError, KeyError, ValueError):
        raise _invalid(name, f"the entry of {key[:80]} is not of its form") from None
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise _invalid(name, f"{key[:80]} has a size or offset that is no whole number")
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _invalid(name, f"{key[:80]} has the unknown type {str(dtype)[:20]}")
    if end < start or math.prod(shape) * bits != (end - start) * 8:
        raise _invalid(name, f"the shape and the bytes of {key[:80]} do not agree")
    return Tensor(dtype=dtype, shape=tuple(shape), start=start, end=end)


def _check_layout(name: str, tensors: Mapping[str, Tensor], data_bytes: int) -> None:
    if not tensors:
        raise _invalid(name, "it holds no tensors")
    at = 0
    for key, tensor in sorted(tensors.items(), key=lambda each: (each[1].start, each[1].end)):
        if tensor.start != at:
            problem = "overlaps another" if tensor.start < at else "follows a hole"
            raise _invalid(name, f"the tensor {key[:80]} {problem}")
        at = tensor.end
    if at > data_bytes:
        raise _truncated(name, f"{at - data_bytes} bytes before its end")
    if at < data_bytes:
        raise _invalid(name, f"{data_bytes - at} bytes follow the last tensor")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _invalid(name: str, why: str) -> WeightsError:
    return WeightsError("not_weights", f"not a valid safetensors file: {why}", where=name)


def _truncated(name: str, at: str) -> WeightsError:
    return WeightsError("truncated", f"the safetensors file breaks off {at}", where=name)
