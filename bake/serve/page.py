"""The page of `bake serve`: a server on loopback that has the page, and hands jobs on to the worker.

It is there before the worker is, so that the page shows the start. Jobs pass as bytes in both directions:
the worker's answer, its events and a browser that goes away all mean what they mean on RunPod.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bake.errors import MachineError
from bake.serve.schema import make_schema
from runtime.job.fields import BY_NAME, FIELDS
from runtime.job.rules.tasks import OF_AN_UPSCALING, UPSCALING, Endpoint, fields_off
from runtime.worker import Worker

_HERE = Path(__file__).parent
_STYLE, _SCRIPTS = "page.css", ("page.js", "pictures.js", "painter.js", "written.js")
MAX_BODY_BYTES = 30_000_000
"""As RunPod's load balancer has it."""
_UPSCALERS = ("Lanczos", "Nearest")
"""The webui's own, without a model."""
_SILENCE_S = 60.0
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """The worker that jobs go to."""

    port: Callable[[], int]
    """Of 127.0.0.1."""
    ping: Callable[[], int]
    """204 while it starts, 200 when it takes jobs, else 503."""


def make_about(worker: Worker, image: str) -> dict[str, Any]:
    """What the page is made from: the image, its models, and the fields of a request."""
    schema = make_schema()
    for name, limit in (("width", "side"), ("height", "side"), ("steps", "steps"),
                        ("batch_size", "batch_size"), ("n_iter", "n_iter")):  # fmt: skip
        if limit in worker.limits:
            schema["properties"][name]["maximum"] = worker.limits[limit]
    sections: dict[str, str] = {each.name: each.section for each in FIELDS if each.only is None}
    scripts = [title for each in worker.extensions for title in each.scripts]
    if scripts:
        sections["alwayson_scripts"] = "model"
    return {
        "name": worker.name,
        "image": image,
        "family": worker.family,
        "webui": worker.webui.version,
        "checkpoints": [each.name for each in worker.of_role("checkpoint")],
        "loras": [each.name for each in worker.of_role("lora")],
        "upscalers": [*(each.name for each in worker.of_role("upscaler")), *_UPSCALERS],
        "max_body_bytes": MAX_BODY_BYTES,
        "unused": make_unused(),
        "sections": sections,
        "scripts": scripts,
        "in_prompts": [
            *(each.name for each in worker.of_role("embedding")),
            *(f"<hypernet:{each.name}:1>" for each in worker.of_role("hypernetwork")),
        ],
        "schema": schema,
    }


def make_unused() -> dict[str, list[str]]:
    """The fields of which nothing is made, by what a request is and what it has; as the worker's rules have it."""
    upscaling = BY_NAME.keys() - OF_AN_UPSCALING.keys() | {"previews"}
    unused: dict[str, list[str]] = {UPSCALING: sorted(upscaling)}
    kinds: tuple[tuple[Endpoint, str, set[str]], ...] = (
        ("txt2img", "", {"mask"}),
        ("txt2img", "enable_hr", {"mask"}),
        ("img2img", "", {"enable_hr", "image"}),
        ("img2img", "mask", {"enable_hr", "image"}),
    )
    for endpoint, switch, never in kinds:
        off = fields_off(endpoint, has_hires=switch == "enable_hr", has_mask=switch == "mask")
        unused[f"{endpoint} {switch}".strip()] = sorted(off.keys() | never)
    return unused


def read_page() -> str:
    """The page as it is served: one document with its style and its scripts in it."""
    page, style, *scripts = (
        (_HERE / name).read_text(encoding="utf-8") for name in ("page.html", _STYLE, *_SCRIPTS)
    )
    page = page.replace("<style></style>", f"<style>\n{style}</style>")
    return page.replace("<script></script>", f"<script>\n{''.join(scripts)}</script>")


def content_policy(page: str) -> str:
    """The Content-Security-Policy under which the page's own style and script run, and nothing else."""

    def hashes(tag: str) -> str:
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(each.encode()).digest() for each in inside)
        return " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


@contextmanager
def serve_page(about: Mapping[str, Any], upstream: Upstream, *, port: int = 0) -> Iterator[str]:
    """Serves the page until the block ends; gives its address.

    Raises:
        MachineError: the port is in use.
    """
    handler = type("Handler", (_Handler,), {"upstream": upstream, **_documents(about)})
    try:
        server = _Server(("127.0.0.1", port), handler)
    except OSError as error:
        raise MachineError(
            f"port {port} of 127.0.0.1 cannot be had ({error.strerror})",
            hint="leave --port out: a free one is taken",
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True, name="page")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _documents(about: Mapping[str, Any]) -> dict[str, Any]:
    page = read_page()
    return {
        "page": page.encode(),
        "policy": content_policy(page),
        "about": json.dumps(about).encode(),
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A browser that goes away in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    upstream: Upstream
    page: bytes
    policy: str
    about: bytes
    protocol_version = "HTTP/1.1"
    timeout = _SILENCE_S

    server: _Server

    def log_message(self, *_: object) -> None:
        """The worker's own log says what is drawn."""

    def do_GET(self) -> None:
        if not self._is_ours():
            return
        if self.path == "/":
            self._send(200, "text/html; charset=utf-8", self.page)
        elif self.path == "/about":
            self._send(200, "application/json", self.about)
        elif self.path == "/ping":
            self._send(self.upstream.ping(), None, b"")
        else:
            self._refuse(404, "there are GET /, GET /ping and POST /txt2img")

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        kind = self.headers.get_content_type()
        length = self.headers.get("Content-Length", "")
        if self.path != "/txt2img":
            self._refuse(404, "there are GET /, GET /ping and POST /txt2img")
        elif kind != "application/json":
            # Else any page on the internet could send one: a form needs no leave of ours.
            self._refuse(415, "a request is sent as Content-Type: application/json")
        elif not (length.isascii() and length.isdecimal()):
            self._refuse(411, "a request says its Content-Length")
        elif len(length) > len(str(MAX_BODY_BYTES)) or int(length) > MAX_BODY_BYTES:
            self._refuse(413, f"a request has at most {MAX_BODY_BYTES // 10**6} MB")
        else:
            self._hand_on(self.rfile.read(int(length)))

    def _is_ours(self) -> bool:
        """Whether the browser means this address: a name that was turned to 127.0.0.1 is another site."""
        port = int(self.server.server_address[1])
        names = ("127.0.0.1", "localhost")
        # A browser leaves the port of plain http out.
        hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())
        if self.headers.get("Host") in hosts:
            return True
        self._refuse(403, f"this server is http://127.0.0.1:{port}")
        return False

    def _hand_on(self, body: bytes) -> None:
        """Passes a job to the worker and its answer back, until either side has gone."""
        self.close_connection = True
        accept = re.sub(r"[^ -~]", "", self.headers.get("Accept", ""))
        head = (
            "POST /txt2img HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nAccept: {accept}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            worker = socket.create_connection(("127.0.0.1", self.upstream.port()), timeout=5)
        except OSError:
            what = "starts" if self.upstream.ping() == 204 else "has ended"
            self._refuse(503, f"the worker {what}", code="webui_unavailable")
            return
        with worker, contextlib.suppress(OSError):
            worker.settimeout(_SILENCE_S)
            worker.sendall(head.encode() + body)
            while not _has_gone(self.connection, worker):
                answer = worker.recv(_CHUNK_BYTES)
                if not answer:
                    return
                self.connection.sendall(answer)

    def _refuse(self, status: int, what: str, *, code: str = "invalid_request") -> None:
        self.close_connection = True
        problem = {
            "type": "about:blank",
            "status": status,
            "code": code,
            "detail": what,
            "fields": [],
        }
        self._send(status, "application/problem+json", json.dumps(problem).encode())

    def _send(self, status: int, kind: str | None, content: bytes) -> None:
        self.send_response(status)
        if kind is not None:
            self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", self.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def version_string(self) -> str:
        return "bake"


def _has_gone(client: socket.socket, worker: socket.socket) -> bool:
    """Waits until the worker has something to say (or has ended): False; or the client is gone: True."""
    while True:
        readable, _, _ = select.select([client, worker], [], [])
        if worker in readable:
            return False
        if not client.recv(1):
            return True
