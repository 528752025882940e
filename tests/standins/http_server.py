"""A small HTTP/1.1 server on loopback whose requests are recorded, for the stand-ins."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came."""

    server: str
    method: str
    target: str
    headers: Mapping[str, str]
    """Names in lower case."""
    client: str = ""
    """Address and port: the same for all requests of one connection."""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}

    @property
    def token(self) -> str | None:
        """The bearer token; with a header, `?token=` is not looked at."""
        header = self.headers.get("authorization")
        if header is not None:
            return header.removeprefix("Bearer ").strip()
        return self.query.get("token")

    @property
    def text(self) -> str:
        """Everything of it, to search for secrets."""
        return f"{self.method} {self.target} {dict(self.headers)}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is sent; `stream` writes a body by itself after the headers."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: Callable[[Handler], None] | None = None


def json_answer(status: int, data: object, **headers: str) -> Answer:
    return Answer(
        status=status,
        headers={"Content-Type": "application/json", **headers},
        body=json.dumps(data).encode(),
    )


def html_answer(status: int, title: str, **headers: str) -> Answer:
    page = f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{title}</body></html>"
    return Answer(
        status=status,
        headers={"Content-Type": "text/html; charset=utf-8", **headers},
        body=page.encode(),
    )


class Handler(BaseHTTPRequestHandler):
    """Hands every request to the server's `answer`."""

    protocol_version = "HTTP/1.1"
    server: Server
    timeout = 60

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        request = Request(
            server=self.server.label,
            method=self.command,
            target=self.path,
            client="{}:{}".format(*self.client_address),
            headers={name.lower(): value for name, value in self.headers.items()},
        )
        self.server.record(request)
        answer = self.server.answer(request)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.stream is None and "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if answer.stream is not None:
            answer.stream(self)
        else:
            self.wfile.write(answer.body)

    def break_off(self, *, reset: bool = False) -> None:
        """Ends the connection in mid-answer, with a FIN or with a RST."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            if reset:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        if self.server.loud:
            super().log_message(format, *args)


class Server(ThreadingHTTPServer):
    """Serves in a thread of its own until `close`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self,
        label: str,
        answer: Callable[[Request], Answer],
        *,
        port: int = 0,
        loud: bool = False,
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.label = label
        self.answer = answer
        self.loud = loud
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def record(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()
