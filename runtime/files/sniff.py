"""What a file or an answer is, from its first bytes: weights, or a page that was sent in their place."""

from __future__ import annotations

import struct
from typing import Literal

Kind = Literal["safetensors", "pickle", "html", "json", "xml", "empty", "unknown"]
SNIFF_BYTES = 512


def identify_start(start: bytes) -> Kind:
    """Identifies a file by its first bytes (up to `SNIFF_BYTES`)."""
    if not start:
        return "empty"
    if len(start) >= 9 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < 1 << 32:
        return "safetensors"
    # A torch file is a zip, or a bare pickle of protocol 2 and up; an old tar-like one starts the same.
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "pickle"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<script", b"<body")):
        return "html"
    if text.startswith(b"<"):
        return "xml"
    is_json = text.startswith((b'{"', b"{ ", b"{\n", b"{\r", b"{}", b"[{", b'["'))
    return "json" if is_json else "unknown"


def describe(kind: Kind) -> str:
    """Words for a message."""
    return {
        "safetensors": "a safetensors file",
        "pickle": "a pickle (.ckpt, .pt), which can run code",
        "html": "an HTML page",
        "json": "a JSON answer",
        "xml": "an XML answer",
        "empty": "empty",
        "unknown": "no weights file that is known here",
    }[kind]
