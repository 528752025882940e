"""What a file or an answer is, from its first bytes: weights, or what was sent in their place."""

from __future__ import annotations

import re
import struct
from typing import Literal

Kind = Literal["safetensors", "pickle", "page", "empty", "other"]
"""`page`: what servers send in place of a file. `other`: a file, but none that is loaded here."""
SNIFF_BYTES = 512
LFS_POINTER = "a Git LFS pointer, the text that stands for a large file in its repository"
LFS_HINT = "fetch the file itself: git lfs pull, or an address with /resolve/ in place of /raw/"
_PICKLE = "a pickle (.ckpt, .pt), which can run code"
_STARTS: tuple[tuple[bytes, Kind, str], ...] = (
    (rb"\x80[\x02-\x05]", "pickle", _PICKLE),
    (rb"\x1f\x8b", "other", "packed with gzip"),
    (rb"\x28\xb5\x2f\xfd", "other", "packed with zstd"),
    (rb"\xfd7zXZ", "other", "packed with xz"),
    (rb"BZh", "other", "packed with bzip2"),
    (rb"7z\xbc\xaf", "other", "a 7z archive"),
    (rb"Rar!", "other", "a RAR archive"),
    (rb"GGUF", "other", "a GGUF file, which the webui cannot load"),
    (rb"\x89PNG|\xff\xd8\xff|RIFF.{4}WEBP", "other", "a picture"),
    (rb"version https://(?:git-lfs|hawser)\.github\.com/", "page", LFS_POINTER),
    (rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|script|body)", "page", "an HTML page"),
    (rb"(?:\xef\xbb\xbf)?\s*<", "page", "an XML answer"),
    (rb'(?:\xef\xbb\xbf)?\s*(?:\{["\s}]|\[[{"])', "page", "a JSON answer"),
    (rb"[\t\r\n\x20-\x7e]{16,}\Z", "page", "a text"),
)
_BUCKET_ERROR = re.compile(rb"<Error>\s*<Code>([A-Za-z]{1,40})</Code>")


def identify_start(start: bytes) -> Kind:
    """Identifies a file by its first bytes (up to `SNIFF_BYTES`)."""
    return _identify(start)[0]


def describe(start: bytes) -> str:
    """Words for a message, of what begins so."""
    return _identify(start)[1]


def _identify(start: bytes) -> tuple[Kind, str]:
    if not start:
        return "empty", "empty"
    is_json = start[8:].lstrip(b" \t\r\n").startswith(b"{")
    if is_json and struct.unpack("<Q", start[:8])[0] < 1 << 32:
        return "safetensors", "a safetensors file"
    if start.startswith(b"PK\x03\x04"):
        # A torch file is a zip that begins with its pickle; one that names nothing is taken for the worse.
        name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
        is_torch = not name or name.endswith((b".pkl", b".data", b"/version"))
        return ("pickle", _PICKLE) if is_torch else ("other", "a zip archive")
    error = _BUCKET_ERROR.search(start)
    if error:
        return "page", f"an object store's error in XML ({error[1].decode()})"
    for pattern, kind, words in _STARTS:
        if re.match(pattern, start, re.IGNORECASE | re.DOTALL):
            return kind, words
    return "other", "no weights file that is known here"
