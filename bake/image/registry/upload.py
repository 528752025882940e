"""One blob on its way into a registry: present, mounted, or uploaded in pieces that it accepts.

`POST` opens an upload, `PATCH` sends bytes, `GET` says how many have arrived, `PUT ?digest=` closes it.
A cut connection goes on from what has arrived; a lost upload starts again. A blob that is not closed does
not exist, so nothing here can leave a broken image behind.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

import requests

from bake.errors import BuildError, PushError
from bake.image.oci.model import Content, check_digest, digest_of, read_content
from bake.image.registry.auth import push_scope
from bake.image.registry.client import RegistryClient
from bake.image.registry.transport import Pauser, Transient

How = Literal["present", "mounted", "uploaded"]
_CHUNKS_AFTER_413 = (95 << 20, 45 << 20, 16 << 20, 5 << 20, 1 << 20)
"""Below usual limits of proxies: 100 MB, 50 MB; 5 MiB is the least that object stores accept."""


class Stopped(Exception):  # noqa: N818  # no fault of this blob's
    """Another blob of the same push failed."""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """What is to be uploaded."""

    content: Content
    size_bytes: int
    digest: Callable[[], str]
    """Asked for when all bytes are sent: a stream's digest is not known before."""
    name: str = ""
    """What it is, for messages."""


@dataclass(kw_only=True)
class Uploader:
    """Uploads blobs into one repository; one object serves several threads."""

    client: RegistryClient
    repository: str
    stop: threading.Event = field(default_factory=threading.Event)
    """When set, bodies that are being sent end, and `Stopped` is raised."""
    on_sent: Callable[[int], None] = lambda _: None
    """Told of every chunk that goes over the wire."""

    def mount(self, digest: str, source: str) -> bool:
        """Asks the registry to take a blob from another of its repositories.

        Returns False where it does not (202: it has opened an ordinary upload, which is given up).
        """
        response = self.client.request(
            "POST",
            f"/v2/{self.repository}/blobs/uploads/?mount={check_digest(digest)}"
            f"&from={quote(source, safe='/')}",
            scopes=push_scope(self.repository, mounted_from=source),
            headers={"Content-Length": "0"},
            expected={201, 202, 404, 405},
        )
        if response.status_code == 202 and response.headers.get("Location"):
            self._abandon(self.client.own_url(response.headers["Location"], after=response.url))
        return response.status_code == 201

    def upload(self, blob: Blob) -> str:
        """Uploads a blob. Returns its digest.

        Raises:
            PushError: the registry refuses it, or no progress was made in all attempts.
        """
        again = Pauser(self.client.host, self.client.options)
        chunk_bytes = self.client.options.chunk_bytes
        while True:
            upload = _Upload(self, blob, chunk_bytes=chunk_bytes)
            try:
                upload.open()
                upload.send_all(Pauser(self.client.host, self.client.options))
                return upload.close()
            except Transient as error:
                chunk_bytes = upload.chunk_bytes
                again(error)
            except BaseException:
                self._abandon(upload.location)
                raise

    def _abandon(self, location: str) -> None:
        """Tells the registry to forget an upload; it would do so itself some day."""
        if not location:
            return
        try:
            self.client.send(
                "DELETE",
                location,
                scopes=push_scope(self.repository),
                expected={200, 202, 204, 404, 405},
            )
        except (Transient, PushError):
            return


class _Upload:
    """One upload session of the registry's."""

    def __init__(self, uploader: Uploader, blob: Blob, *, chunk_bytes: int | None) -> None:
        self._uploader = uploader
        self._client = uploader.client
        self._scopes = push_scope(uploader.repository)
        self._blob = blob
        self._least_bytes = 0
        self._resumed = False
        self.chunk_bytes = chunk_bytes
        self.location = ""
        self.sent_bytes = 0

    def open(self) -> None:
        response = self._client.request(
            "POST",
            f"/v2/{self._uploader.repository}/blobs/uploads/",
            scopes=self._scopes,
            headers={"Content-Length": "0"},
            expected={202},
        )
        self._follow(response)
        least = response.headers.get("OCI-Chunk-Min-Length", "")
        self._least_bytes = int(least) if least.isdecimal() else 0

    def send_all(self, pause: Pauser) -> None:
        while self.sent_bytes < self._blob.size_bytes:
            before = self.sent_bytes
            try:
                self._send_piece()
            except Transient as error:
                self._ask_how_much_arrived(error)
                if self.sent_bytes > before:
                    pause.progressed()
                pause(error)
                continue
            if self.sent_bytes > before:
                pause.progressed()

    def close(self) -> str:
        """Ends the upload under its digest."""
        digest = self._blob.digest()
        mark = "&" if "?" in self.location else "?"
        for pause in self._client.pauses():
            try:
                response = self._client.send(
                    "PUT", f"{self.location}{mark}digest={quote(digest, safe='')}",
                    scopes=self._scopes, headers={"Content-Length": "0"}, expected={201, 204, 400, 404, 416},
                )  # fmt: skip
            except Transient as error:
                # The answer may have been lost, not the request.
                if self._client.has_blob(self._uploader.repository, digest):
                    return digest
                pause(error)
                continue
            if response.status_code in (201, 204):
                return digest
            if self._client.has_blob(self._uploader.repository, digest):
                return digest
            self._check_own_bytes(digest)
            raise Transient(f"the registry says that the bytes are not those of {digest}")
        raise AssertionError("pauses() ends by raising")

    def _check_own_bytes(self, digest: str) -> None:
        """Tells a file that has changed from bytes that the way has changed."""
        if digest_of(read_content(self._blob.content, where=self._blob.name))[0] != digest:
            raise BuildError(
                f"a layer's bytes are not those of {digest}: a file of the store, or a layer on disk, "
                "has changed since the image was assembled",
                hint="bake store verify, then bake image MANIFEST again",
            )

    def _send_piece(self) -> None:
        left = self._blob.size_bytes - self.sent_bytes
        piece = min(left, max(self.chunk_bytes, self._least_bytes)) if self.chunk_bytes else left
        headers = {"Content-Type": "application/octet-stream"}
        if piece < self._blob.size_bytes or self._resumed:
            headers["Content-Range"] = f"{self.sent_bytes}-{self.sent_bytes + piece - 1}"
        body = _Body(self._uploader, self._blob, offset=self.sent_bytes, size=piece)
        response = self._client.send(
            "PATCH", self.location, scopes=self._scopes, headers=headers, body=body, expected={202, 204, 413, 416, 404},
        )  # fmt: skip
        if response.status_code == 413:
            self._take_smaller_pieces(piece)
        elif response.status_code == 404:
            raise Transient("the registry has lost an upload")
        elif response.status_code == 416:
            raise Transient("the registry refuses a piece's place (416)")
        else:
            self._follow(response)
            arrived = _arrived(response)
            if arrived is not None and arrived <= self.sent_bytes:
                raise Transient("the registry says that nothing of a piece has arrived")
            self.sent_bytes = self.sent_bytes + piece if arrived is None else arrived

    def _take_smaller_pieces(self, refused: int) -> None:
        smaller = next((size for size in _CHUNKS_AFTER_413 if size < refused), None)
        if smaller is None or smaller < self._least_bytes:
            raise PushError(
                f"the registry, or a proxy before it, refuses even {refused} bytes at once (413)",
                where=self._client.host,
                hint="raise the proxy's body limit (nginx: client_max_body_size)",
            )
        self.chunk_bytes = smaller
        raise Transient("the registry refuses pieces of this size (413)", counts=False)

    def _ask_how_much_arrived(self, reason: Transient) -> None:
        """Finds where to go on; raises `reason` for a new upload where the registry does not say."""
        self._resumed = True
        response = self._client.request(
            "GET", self.location, scopes=self._scopes, expected={200, 202, 204, 400, 404, 405, 416}
        )
        arrived = _arrived(response)
        if response.status_code not in (200, 202, 204) or arrived is None:
            raise reason
        if arrived > self._blob.size_bytes:
            raise reason
        if response.headers.get("Location"):
            self._follow(response)
        self.sent_bytes = arrived

    def _follow(self, response: requests.Response) -> None:
        self.location = self._client.own_url(
            response.headers.get("Location", ""), after=response.url
        )


class _Body:
    """A request's body that knows its length, so that it is not sent in HTTP chunks."""

    def __init__(self, uploader: Uploader, blob: Blob, *, offset: int, size: int) -> None:
        self._uploader = uploader
        self._blob = blob
        self._offset = offset
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        left = self._size
        where = self._blob.name or self._uploader.repository
        for chunk in read_content(self._blob.content, self._offset, where=where):
            if self._uploader.stop.is_set():
                raise Stopped
            piece = chunk[:left]
            self._uploader.on_sent(len(piece))
            left -= len(piece)
            yield piece
            if not left:
                return
        raise PushError(
            f"a layer's content ends {left} bytes early", where=self._uploader.repository
        )


def _arrived(response: requests.Response) -> int | None:
    """How many bytes of an upload the registry has, where it says so (`Range: 0-1023`; empty: `0-0`)."""
    found = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", "").strip())
    if not found:
        return None
    return int(found[1]) + 1 if int(found[1]) else 0
