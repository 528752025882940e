"""What `load` relies on in the Docker SDK's own `load_image`, over HTTP: it streams, and errors come through."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import docker
import pytest
import requests
from docker.errors import ImageNotFound

from bake.errors import BakeError, BuildError, MachineError
from bake.image.engine.load import load_image
from bake.image.oci.model import Image
from tests.unit.test_assemble import make_base

_PATIENCE_S = 120.0
"""Only bounds a failure."""
DONE = b'{"stream": "Loaded image: name:1"}\n'
_SAID = b'"write /x: no space left on device"'
FULL = b'{"stream": "x"}\n{"errorDetail": {"message": %b}, "error": %b}\n' % (_SAID, _SAID)


class Handler(BaseHTTPRequestHandler):
    """Takes an archive in chunks, and answers as it is told."""

    protocol_version = "HTTP/1.1"
    server: LoadServer

    def do_GET(self) -> None:
        """Which images there are: none."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def do_POST(self) -> None:
        while size := int(self.rfile.readline(), 16):
            self.server.received += self.rfile.read(size)
            self.rfile.readline()
            self.server.first_chunk_came.set()
        self.rfile.readline()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        if self.server.in_chunks:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in self.server.answer.splitlines(keepends=True):
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(self.server.answer)))
            self.end_headers()
            self.wfile.write(self.server.answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the parent's name
        pass


class LoadServer(ThreadingHTTPServer):
    """The part of an engine that takes images."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.answer, self.in_chunks = 200, DONE, True
        self.received = b""
        self.first_chunk_came = threading.Event()


@pytest.fixture
def server() -> Iterator[LoadServer]:
    with LoadServer() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield made
        made.shutdown()


class Waiting:
    """Content whose second chunk comes when the server has got the first."""

    def __init__(self, data: bytes, server: LoadServer) -> None:
        self.data, self.server = data, server
        self.was_streamed = False

    def chunks(self, offset_bytes: int = 0) -> Iterator[bytes]:
        yield self.data[:1]
        self.was_streamed = self.server.first_chunk_came.wait(_PATIENCE_S)
        yield self.data[1:]

    def describe(self) -> dict[str, Any]:
        raise TypeError


def load(image: Image, server: LoadServer) -> str:
    """Through the SDK's real client; the engine has the image from then on."""
    api = docker.APIClient(
        base_url=f"http://127.0.0.1:{server.server_address[1]}", version="1.45", timeout=7
    )

    def get(name: str) -> Any:
        if name == "name:1" and server.received and server.answer == DONE:
            return SimpleNamespace(id=image.digest)
        answer = requests.Response()
        answer.status_code = 404
        raise ImageNotFound("none", response=answer)

    client = SimpleNamespace(api=api, images=SimpleNamespace(get=get))
    engine: Any = SimpleNamespace(client=client)
    try:
        return load_image(image, engine, "name:1")
    finally:
        assert api.timeout == 7, "the patience of a load stays with the other calls"
        api.close()


def test_an_archive_is_sent_while_it_is_made(server: LoadServer) -> None:
    base = make_base()
    layer = base.layers[-1]
    assert layer.content is not None
    content = Waiting(b"".join(layer.content.chunks()), server)
    image = replace(base, layers=(*base.layers[:-1], replace(layer, content=content)))
    assert load(image, server) == image.digest
    assert content.was_streamed
    assert content.data in server.received


@pytest.mark.parametrize(
    ("status", "answer", "in_chunks", "kind", "message"),
    [
        (200, FULL, True, MachineError, "the engine's disk is full"),
        (200, b'{"error": "bad tar"}\n', True, BuildError, "did not take the image: bad tar"),
        (500, b'{"message": "no such driver"}', False, BuildError, "image: no such driver"),
        (500, b'{"message": "no such driver"}', True, BuildError, "image: no such driver"),
        (502, b"<html>", False, BuildError, "did not take the image: <html>"),
        (502, b"<html>", True, BuildError, "did not take the image: StreamParseError"),
        (200, b"", True, BuildError, "made another image of it"),
        (200, b"", False, BuildError, "did not take the image: JSONDecodeError"),
    ],
)
def test_every_error_comes_through(
    server: LoadServer,
    status: int,
    answer: bytes,
    in_chunks: bool,
    kind: type[BakeError],
    message: str,
) -> None:
    server.status, server.answer, server.in_chunks = status, answer, in_chunks
    with pytest.raises(kind, match=message):
        load(make_base(), server)
