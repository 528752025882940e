"""A registry that fails on command: a proxy before the real one, over real sockets.

Each request is shown to a rule, which lets it pass or says how it goes wrong. Optionally it asks for
tokens, as hosted registries do, and ends their life in the middle of a push.
"""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_PIECE = 16 << 10


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    number: int
    """Of all requests with this method, from 1."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Is sent instead of passing the request on."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reads_body: bool = True


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The connection breaks after so many bytes of the request's body have been passed on."""

    after_bytes: int
    loses_answer: bool = False
    """The request is passed on as a whole, and only the answer is lost."""
    keeps_bytes: bool = False
    """The registry keeps what arrived, and says how much (distribution's own loses the upload)."""
    after_answer_bytes: int | None = None
    """The answer breaks in its body instead."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Passes the request on, and changes the answer's headers (None removes one)."""

    headers: dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Slow:
    """Passes the request on at so many bytes a second."""

    bytes_per_s: int


Action = Answer | Cut | Change | Slow | None
Rule = Callable[[Seen], Action]


@dataclass
class Tokens:
    """Asks for tokens, bought with basic authentication, each good for some requests only."""

    username: str = "baker"
    password: str = "correct horse battery staple"
    uses: int = 1000
    issued: dict[str, int] = field(default_factory=dict)
    scopes: list[str] = field(default_factory=list)
    faults: list[Answer] = field(default_factory=list)
    """What the first requests for a token are answered."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def issue(self, authorization: str, query: str) -> Answer:
        with self.lock:
            if self.faults:
                return self.faults.pop(0)
        expected = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        if authorization != f"Basic {expected}":
            return Answer(status=401)
        token = secrets.token_hex(16)
        with self.lock:
            self.scopes += parse_qs(query).get("scope", [])
            self.issued[token] = self.uses
        return Answer(status=200, body=json.dumps({"token": token, "expires_in": 300}).encode())

    def admits(self, authorization: str) -> bool:
        token = authorization.removeprefix("Bearer ")
        with self.lock:
            if self.issued.get(token, 0) < 1:
                return False
            self.issued[token] -= 1
        return True


@dataclass
class FaultyRegistry:
    """The proxy's state, to be looked at by a test."""

    host: str
    seen: list[Seen] = field(default_factory=list)
    body_bytes: int = 0
    """Of requests, passed on to the registry."""
    rule: Rule = lambda _: None
    tokens: Tokens | None = None
    kept: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Broken uploads by their id: where they go on, and how much has arrived."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def methods(self, method: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method]


@contextmanager
def faulty_registry(
    upstream: str,
    rule: Rule = lambda _: None,
    *,
    tokens: Tokens | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[FaultyRegistry]:
    """Runs the proxy on a free port of loopback.

    Args:
        upstream: host:port of the real registry.
        rule: What happens to each request.
        tokens: Ask for them.
        tls: Speak TLS with this certificate.
    """
    state = FaultyRegistry(host="", rule=rule, tokens=tokens)
    handler = type("Handler", (_Handler,), {"state": state, "upstream": upstream, "tls": tls})
    server = _Server(("127.0.0.1", 0), handler)
    state.host = f"127.0.0.1:{server.server_address[1]}"
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else 40 ms for each answer
    state: FaultyRegistry
    upstream: str
    tls: ssl.SSLContext | None

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Tests say what they saw."""

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

    def _handle(self) -> None:
        with self.state.lock:
            number = len(self.state.methods(self.command)) + 1
            seen = Seen(
                method=self.command, path=self.path, headers=dict(self.headers), number=number
            )
            self.state.seen.append(seen)
        parts = urlsplit(self.path)
        authorization = self.headers.get("Authorization", "")
        tokens = self.state.tokens
        if tokens and parts.path == "/token":
            self._answer(tokens.issue(authorization, parts.query))
            return
        action = self.state.rule(seen)
        upload = parts.path.rpartition("/")[2]
        if self.command == "GET" and upload in self.state.kept:
            location, arrived = self.state.kept.pop(upload)
            headers = {"Location": location, "Range": f"0-{arrived - 1}"}
            self._answer(Answer(status=204, headers=headers))
            return
        if isinstance(action, Cut) and action.keeps_bytes:
            self._keep(upload, action.after_bytes)
            return
        if isinstance(action, Answer):
            self._answer(action)
        elif tokens and not tokens.admits(authorization):
            scheme = "https" if self.tls else "http"
            realm = f'Bearer realm="{scheme}://{self.state.host}/token",service="stand-in"'
            self._answer(Answer(status=401, headers={"WWW-Authenticate": realm}, reads_body=False))
        else:
            self._pass_on(action)

    def _keep(self, upload: str, size_bytes: int) -> None:
        """Hands the registry a whole, shorter PATCH, and breaks the connection to the client."""
        host, _, port = self.upstream.partition(":")
        upstream = http.client.HTTPConnection(host, int(port), timeout=60)
        headers = {"Host": self.state.host, "Content-Type": "application/octet-stream"}
        upstream.request("PATCH", self.path, self.rfile.read(size_bytes), headers)
        answer = upstream.getresponse()
        self.state.kept[upload] = (answer.headers["Location"], size_bytes)
        upstream.close()
        self._break()

    def _answer(self, answer: Answer) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if answer.reads_body:
            while length > 0 and (piece := self.rfile.read(min(_PIECE, length))):
                length -= len(piece)
        self.close_connection = length > 0
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        if length > 0:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _pass_on(self, action: Action) -> None:
        host, _, port = self.upstream.partition(":")
        upstream = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("authorization", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders()
            if not self._pass_body(upstream, action):
                self._break()
                return
            response = upstream.getresponse()
            if isinstance(action, Cut) and action.loses_answer:
                response.read()
                self._break()
                return
            self._pass_answer(response, action)
        finally:
            upstream.close()

    def _pass_body(self, upstream: http.client.HTTPConnection, action: Action) -> bool:
        left = int(self.headers.get("Content-Length") or 0)
        passed = 0
        is_cut = isinstance(action, Cut) and not action.loses_answer
        limit = action.after_bytes if isinstance(action, Cut) and is_cut else None
        while left and (piece := self.rfile.read(min(_PIECE, left))):
            left -= len(piece)
            if limit is not None and passed + len(piece) >= limit:
                upstream.send(piece[: limit - passed])
                return False
            upstream.send(piece)
            passed += len(piece)
            with self.state.lock:
                self.state.body_bytes += len(piece)
            if isinstance(action, Slow):
                time.sleep(len(piece) / action.bytes_per_s)
        return not left

    def _pass_answer(self, response: http.client.HTTPResponse, action: Action) -> None:
        changed = action.headers if isinstance(action, Change) else {}
        self.send_response(response.status)
        for name, value in response.getheaders():
            if (
                name.lower() not in ("connection", "date", "transfer-encoding")
                and name not in changed
            ):
                self.send_header(name, value)
        for name, new in changed.items():
            if new is not None:
                self.send_header(name, new)
        if response.getheader("Content-Length") is None:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        limit = action.after_answer_bytes if isinstance(action, Cut) else None
        sent = 0
        while self.command != "HEAD" and (piece := response.read(_PIECE)):
            if limit is not None and sent + len(piece) > limit:
                self.wfile.write(piece[: limit - sent])
                self._break()
                return
            self.wfile.write(piece)
            sent += len(piece)

    def _break(self) -> None:
        """Ends the connection as a cut cable does, without an answer."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(2)
