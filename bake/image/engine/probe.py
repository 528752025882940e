"""An image's manifest and config out of an engine with the containerd store, without its layers.

The engine's API hands them out in `docker save` only, somewhere among gigabytes of layers (3 minutes for
6 GB on a slow disk). So the engine is asked to push the image to a registry that is us, on loopback: this
says of every layer that it is there already, and is sent the manifest alone, then in a second push the
config (0.2 s together). Whatever it is sent counts only under its own SHA256, so that nothing wrong can
come of it; where anything is not as expected, there is nothing, and the image is read by `docker save`.

Seen with Engine 26.1.5. The classic store is not asked: it would compress and send every layer anew. What
stays in the engine is a label with our port on each blob of the image.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests
from docker.errors import DockerException

from bake.image.engine.archive import Archive, EngineLike
from bake.image.oci.model import blob_name

PROBE_REPOSITORY = "bakery-probe"
_LARGEST_BYTES = 8 << 20
_TLS_HELLO = b"\x16"


def probe_engine(engine: EngineLike, archive: Archive) -> bool:
    """Fills an archive with the manifest and config of its image. Returns whether it is enough.

    Args:
        engine: On this machine; where it is another one, its push reaches nobody, and fails.
        archive: Its `image_id` must have a name in the engine: with the last one the image would go.
    """
    with suppress(DockerException, requests.RequestException, OSError, ValueError, KeyError):
        if not _can_be_asked(engine, archive.image_id):
            return False
        with _listening() as registry:
            _push(engine, archive, registry, name="manifest")
            config = archive.config_digest()
            if config is not None:
                registry.wanted = config
                _push(engine, archive, registry, name="config")
    return archive.is_enough()


class _Registry(ThreadingHTTPServer):
    """Has every blob but the wanted one, and keeps the small ones that it is sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.wanted = ""
        self.sent: dict[str, bytes] = {}


class _Handler(BaseHTTPRequestHandler):
    """The part of the distribution API that a push needs."""

    protocol_version = "HTTP/1.1"
    server: _Registry

    def handle(self) -> None:
        if self.connection.recv(1, socket.MSG_PEEK) == _TLS_HELLO:
            # this answer makes an engine try again without TLS, which it may on loopback
            self.connection.sendall(b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\n")
            return
        super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the parent's name
        pass

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/v2/" else 404)

    def do_HEAD(self) -> None:
        has = "/blobs/" in self.path and not self.path.endswith(self.server.wanted or " ")
        self._answer(200 if has else 404)

    def do_POST(self) -> None:
        self._answer(202 if self.server.wanted else 500, Location=self.path.partition("?")[0] + "x")

    def do_PUT(self) -> None:
        length = int(self.headers.get("Content-Length", "-1"))
        if not 0 < length <= _LARGEST_BYTES:
            self.close_connection = True
            self._answer(413)
            return
        body = self.rfile.read(length)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        self.server.sent[digest] = body
        self._answer(201, **{"Docker-Content-Digest": digest, "Location": self.path})

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def _listening() -> Iterator[_Registry]:
    with _Registry() as registry:
        thread = threading.Thread(target=registry.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield registry
        finally:
            registry.shutdown()


def _can_be_asked(engine: EngineLike, image_id: str) -> bool:
    return has_containerd_store(engine) and bool(engine.client.images.get(image_id).tags)


def has_containerd_store(engine: EngineLike) -> bool:
    """Whether an engine keeps images in containerd, as the blobs that they were pulled as."""
    return "io.containerd.snapshotter" in json.dumps(engine.client.info().get("DriverStatus"))


def _push(engine: EngineLike, archive: Archive, registry: _Registry, *, name: str) -> None:
    """Lets the engine push to us, and takes what it has sent. Other errors than ours are the caller's."""
    repository = f"127.0.0.1:{registry.server_address[1]}/{PROBE_REPOSITORY}/{name}"
    engine.client.images.get(archive.image_id).tag(repository, "1")
    try:
        for _ in engine.client.api.push(repository, tag="1", stream=True):
            pass
    finally:
        engine.client.images.remove(f"{repository}:1")
    for digest, body in registry.sent.items():
        archive.add_document(blob_name(digest), body)
