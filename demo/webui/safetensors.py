"""Reads safetensors files into numpy arrays; the demo needs no more of the format than this."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {"F16": np.float16, "F32": np.float32}
_MAX_HEADER_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20


class BadWeightsError(ValueError):
    """A file is not the safetensors file that it should be."""


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a file, and where its data begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 2 < length <= _MAX_HEADER_BYTES else b""
    if len(text) != length or not text.startswith(b"{"):
        raise BadWeightsError(f"{path} is not a safetensors file")
    header: dict[str, Any] = json.loads(text)
    return header, 8 + length


def read_metadata(path: Path) -> dict[str, str]:
    metadata: dict[str, str] = read_header(path)[0].get("__metadata__", {})
    return metadata


def read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """All tensors of a file as float32."""
    header, start = read_header(path)
    data = np.fromfile(path, np.uint8, offset=start)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if entry["dtype"] not in _TYPES or end > len(data):
            raise BadWeightsError(f"{path}: tensor {name} cannot be read")
        values = data[begin:end].view(_TYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"]).astype(np.float32)
    return tensors


def file_sha256(path: Path) -> str:
    return _sha256_from(path, 0)


def data_sha256(path: Path) -> str:
    """The hash that kohya's scripts give a LoRA: of the data without the header."""
    return _sha256_from(path, read_header(path)[1])


def _sha256_from(path: Path, start: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
