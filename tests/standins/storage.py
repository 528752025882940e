"""Where the bytes are: R2 and B2 for CivitAI, a CDN for Hugging Face, with every fault that they have.

Addresses are signed and expire. Any Authorization header is answered with 400, any HEAD with 403.
"""

from __future__ import annotations

import random
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from tests.standins.http_server import Answer, Handler, Request, Server, html_answer

Style = Literal["r2", "b2", "cdn"]
FaultKind = Literal[
    "cut",  # FIN after `after` bytes of the body
    "reset",  # RST after `after` bytes
    "stall",  # silence after `after` bytes
    "trickle",  # a byte now and then after `after` bytes
    "whole",  # 200 and the whole file in answer to a Range
    "no_range",  # 416
    "other_length",  # a file that is one byte longer, consistently
    "other_bytes",  # the right length, one bit flipped
    "other_etag",  # the same bytes with another ETag
    "html",  # 200 and a page
    "expired",  # 403 (R2) or 401 (B2), as for an old signature
    "status",  # `status`
    "gzip",  # Content-Encoding, although identity was asked for
    "no_length",  # a body that ends with the connection
    "chunked",  # a chunked body, whole
    "empty",  # 200, nothing
    "shifted",  # 206 of another range than the one that was asked for
]
_RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A file's bytes, in memory or on disk."""

    data: bytes | None = None
    path: Path | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.data) if self.data is not None else self.real_path.stat().st_size

    @property
    def real_path(self) -> Path:
        assert self.path is not None
        return self.path


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong with one answer."""

    kind: FaultKind
    after: int = 0
    status: int = 500
    headers: tuple[tuple[str, str], ...] = ()


Choose = Callable[[Request, int], "Fault | None"]
"""Chooses the fault of a request; the number counts the storage's requests from 0."""


def no_fault(_request: Request, _count: int) -> Fault | None:
    return None


def in_turn(*faults: Fault | None) -> Choose:
    """One fault for each request in order, none after the last."""
    return lambda _request, count: faults[count] if count < len(faults) else None


def always(fault: Fault) -> Choose:
    return lambda _request, _count: fault


def random_cuts(*, seed: int, share: float, most_bytes: int) -> Choose:
    """Cuts or resets a share of the connections at a random byte."""
    chance = random.Random(seed)

    def choose(_request: Request, _count: int) -> Fault | None:
        if chance.random() >= share:
            return None
        kind: FaultKind = "reset" if chance.random() < 0.5 else "cut"
        return Fault(kind=kind, after=chance.randrange(most_bytes))

    return choose


@dataclass(kw_only=True)
class _Grant:
    name: str
    style: Style
    expires_at: float


@dataclass(kw_only=True)
class Storage:
    """The storage's files, its signed addresses and its faults."""

    blobs: dict[str, Blob] = field(default_factory=dict)
    fault: Choose = no_fault
    lifetime_s: float = 86400.0
    most_at_once: int | None = None
    """Answers that may be under way at the same time; others get `when_busy`."""
    when_busy: Fault = Fault(kind="status", status=503)
    counts_on: int = 0
    """So many requests after an answer has ended are refused as if it were still under way."""
    loud: bool = False
    server: Server = field(init=False)
    _grants: dict[str, _Grant] = field(default_factory=dict)
    _count: int = 0
    _active: int = 0
    _counted_on: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.server = Server("storage", self.answer, loud=self.loud)

    def sign(self, name: str, style: Style) -> str:
        """A fresh address of a file."""
        key = secrets.token_hex(16)
        with self._lock:
            self._grants[key] = _Grant(
                name=name, style=style, expires_at=time.monotonic() + self.lifetime_s
            )
        path = quote(name)
        if style == "b2":
            return f"{self.server.url}/file/bucket/{path}?Authorization=3_{key}"
        disposition = quote(f'attachment; filename="{name}"')
        signed = f"X-Amz-Signature={key}" if style == "r2" else f"Signature={key}&Key-Pair-Id=K"
        return (
            f"{self.server.url}/bucket/{path}?X-Amz-Expires=86400"
            f"&response-content-disposition={disposition}&{signed}"
        )

    def expire_all(self) -> None:
        with self._lock:
            for grant in self._grants.values():
                grant.expires_at = 0.0

    def close(self) -> None:
        self._closed.set()
        self.server.close()

    def answer(self, request: Request) -> Answer:
        if "authorization" in request.headers:
            return _xml(400, "InvalidArgument", "Only one auth mechanism allowed")
        if request.method == "HEAD":
            return Answer(status=403)
        with self._lock:
            count, self._count = self._count, self._count + 1
            key = request.query.get("X-Amz-Signature") or request.query.get("Signature") or ""
            key = key or request.query.get("Authorization", "").removeprefix("3_")
            grant = self._grants.get(key)
        fault = self.fault(request, count)
        if self._is_busy():
            fault = self.when_busy
        plain = request.path.startswith("/plain/")
        if plain:
            # An ordinary web server, which signs nothing.
            grant = _Grant(
                name=request.path.removeprefix("/plain/"), style="r2", expires_at=float("inf")
            )
        if (
            grant is None
            or grant.expires_at < time.monotonic()
            or (fault and fault.kind == "expired")
        ):
            style = grant.style if grant else "r2"
            if style == "b2":
                return _json_error(401, "expired_auth_token")
            return _xml(403, "AccessDenied", "Request has expired")
        blob = self.blobs.get(grant.name)
        if blob is None:
            return _xml(404, "NoSuchKey", "The specified key does not exist.")
        return self._serve(request, blob, grant.style, fault)

    def _serve(self, request: Request, blob: Blob, style: Style, fault: Fault | None) -> Answer:
        kind = fault.kind if fault else None
        if fault is not None and kind == "status":
            return Answer(status=fault.status, headers=dict(fault.headers))
        if kind == "html":
            return html_answer(200, "Sign in")
        if kind == "empty":
            return Answer(status=200)
        if fault is not None and kind == "other_bytes":
            blob = _flip(blob, fault.after)
        if kind == "other_length":
            data = blob.data if blob.data is not None else blob.real_path.read_bytes()
            blob = Blob(data=data + b"!")
        size = blob.size_bytes
        span = _parse_range(request.headers.get("range"), size)
        if kind == "no_range" or (span is not None and span[0] >= size):
            return Answer(status=416, headers={"Content-Range": f"bytes */{size}"})
        headers = {"Content-Type": "application/octet-stream"}
        if (
            style != "cdn"
        ):  # Hugging Face's names neither: github.com/artokun/comfyui-mcp/issues/467
            headers["ETag"] = f'"{style}-{size:x}{"-new" if kind == "other_etag" else ""}"'
            headers["Last-Modified"] = "Sun, 02 Mar 2025 09:16:12 GMT"
        if kind == "gzip":
            headers["Content-Encoding"] = "gzip"
        if span is None or kind in ("whole", "no_length", "chunked"):
            span, status = (0, size), 200
        else:
            status = 206
            if kind == "shifted":
                span = (max(0, span[0] - 1), span[1])
            headers["Accept-Ranges"] = "bytes"
            headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
        if kind == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        elif kind == "no_length":
            headers["Connection"] = "close"
        else:
            headers["Content-Length"] = str(span[1] - span[0])
        start, end = span
        return Answer(
            status=status,
            headers=headers,
            stream=lambda handler: self._send_counted(handler, blob, start, end, fault),
        )

    def _send_counted(
        self, handler: Handler, blob: Blob, start: int, end: int, fault: Fault | None
    ) -> None:
        if self.most_at_once is None or fault is self.when_busy:
            self._send(handler, blob, start, end, fault)
            return
        with self._lock:
            self._active += 1
        last = end if fault else max(start, end - 1)
        try:
            self._send(handler, blob, start, last, fault)
        finally:
            # Before the client can have the last byte and ask again.
            self._end_answer()
        _send_bytes(handler, blob, last, end)

    def _end_answer(self) -> None:
        with self._lock:
            self._active -= 1
            self._counted_on = self.counts_on

    def _is_busy(self) -> bool:
        with self._lock:
            if self.most_at_once is None:
                return False
            if self._active < self.most_at_once and self._counted_on:
                self._counted_on -= 1
                return True
            return self._active >= self.most_at_once

    def _send(
        self, handler: Handler, blob: Blob, start: int, end: int, fault: Fault | None
    ) -> None:
        kind = fault.kind if fault else None
        if kind == "chunked":
            _send_chunked(handler, blob, start, end)
            return
        stop = end
        if fault is not None and kind in ("cut", "reset", "stall", "trickle"):
            stop = min(end, start + fault.after)
        _send_bytes(handler, blob, start, stop)
        if kind in ("cut", "reset"):
            handler.break_off(reset=kind == "reset")
        elif kind == "stall" and stop < end:
            self._closed.wait()
            handler.break_off()
        elif kind == "trickle":
            while stop < end and not self._closed.wait(0.05):
                _send_bytes(handler, blob, stop, stop + 1)
                stop += 1
        elif kind == "no_length":
            handler.break_off()


def _send_bytes(handler: Handler, blob: Blob, start: int, end: int) -> None:
    if blob.data is not None:
        handler.wfile.write(memoryview(blob.data)[start:end])
        return
    handler.wfile.flush()
    if start < end:
        with blob.real_path.open("rb") as file:
            handler.connection.sendfile(file, start, end - start)


def _send_chunked(handler: Handler, blob: Blob, start: int, end: int) -> None:
    assert blob.data is not None
    for at in range(start, end, 64 << 10):
        piece = blob.data[at : min(end, at + (64 << 10))]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    handler.wfile.write(b"0\r\n\r\n")


def _parse_range(text: str | None, size: int) -> tuple[int, int] | None:
    match = _RANGE.match(text or "")
    if not match:
        return None
    end = min(int(match[2]) + 1, size) if match[2] else size
    return int(match[1]), end


def _flip(blob: Blob, at: int) -> Blob:
    data = bytearray(blob.data if blob.data is not None else blob.real_path.read_bytes())
    data[at] ^= 1
    return replace(blob, data=bytes(data), path=None)


def _xml(status: int, code: str, message: str) -> Answer:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status=status, headers={"Content-Type": "application/xml"}, body=body.encode())


def _json_error(status: int, code: str) -> Answer:
    body = f'{{"code":"{code}","message":"","status":{status}}}'
    return Answer(status=status, headers={"Content-Type": "application/json"}, body=body.encode())
