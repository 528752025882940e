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
from bake.image.parallel import Stopped
from bake.image.registry.address import own_url
from bake.image.registry.answers import meaning_of
from bake.image.registry.auth import push_scope
from bake.image.registry.client import RegistryClient
from bake.image.registry.transport import Pauser, Transient, Unauthorized

How = Literal["present", "mounted", "uploaded"]
_MOUNT_ATTEMPTS = 2
_MOST_REFUSED = 3
_CHUNKS_AFTER_413 = (95 << 20, 45 << 20, 16 << 20, 5 << 20, 1 << 20)
"""Below usual limits of proxies: 100 MB, 50 MB; 5 MiB is the least that object stores accept."""


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

        A refusal, of whatever kind, costs one request: without the mount there is an ordinary upload.

        Returns:
            Whether the blob is there now.
        """
        path = (
            f"/v2/{self.repository}/blobs/uploads/?mount={check_digest(digest)}"
            f"&from={quote(source, safe='/')}"
        )
        pause = self._pauser(attempts=_MOUNT_ATTEMPTS)
        while True:
            try:
                response = self.client.send(
                    "mount",
                    "POST",
                    path,
                    scopes=push_scope(self.repository, mounted_from=source),
                    headers={"Content-Length": "0"},
                )
                break
            except Unauthorized as error:
                if error.had_token:
                    return False
                pause(error)
            except Transient as error:
                pause(error)
        if meaning_of("mount", response.status_code) == "done":
            # 201 is the specification's answer; whoever says something else is asked.
            return response.status_code == 201 or self.client.has_blob(self.repository, digest)
        if response.status_code == 202 and response.headers.get("Location"):
            self._abandon(self.location_of(response))
        return False

    def upload(self, blob: Blob) -> str:
        """Uploads a blob. Returns its digest.

        Raises:
            PushError: the registry refuses it, or no progress was made in all attempts.
        """
        progress = _Progress(pause=self._pauser())
        chunk_bytes = self.client.options.chunk_bytes
        while True:
            upload = _Upload(self, blob, progress, chunk_bytes=chunk_bytes)
            try:
                upload.open()
                upload.send_all()
                return upload.close()
            except Transient as error:
                chunk_bytes = upload.chunk_bytes
                try:
                    progress.pause(error)
                except BaseException:
                    self._abandon(upload.location)
                    raise
            except BaseException:
                self._abandon(upload.location)
                raise

    def location_of(self, response: requests.Response) -> str:
        """Where an upload goes on: an address of this registry's, or a PushError."""
        location = response.headers.get("Location", "")
        base, host = self.client.base_url, self.client.host
        return own_url(location, base=base, after=response.url, host=host)

    def _pauser(self, *, attempts: int | None = None) -> Pauser:
        retry = self.client.options.retry.at_most(attempts)
        return Pauser(self.client.host, retry, wait=self._wait)

    def _wait(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise Stopped

    def _abandon(self, location: str) -> None:
        """Tells the registry to forget an upload; it would do so itself some day."""
        if not location:
            return
        try:
            self.client.send(
                "give up upload", "DELETE", location, scopes=push_scope(self.repository)
            )
        except (Transient, PushError):
            return


@dataclass(kw_only=True)
class _Progress:
    """How far a blob has come in all of its uploads; tries are counted from there."""

    pause: Pauser
    furthest_bytes: int = 0
    refused: int = 0
    """How often the digest was. From then on our own count of what was sent holds alone."""

    def reach(self, sent_bytes: int) -> None:
        """Bytes that were sent before, in an upload that was lost, are no progress."""
        if sent_bytes > self.furthest_bytes:
            self.furthest_bytes = sent_bytes
            self.pause.progressed()


class _Lost(Transient):
    """This upload is of no use any more; a new one may be."""


class _Upload:
    """One upload session of the registry's."""

    def __init__(
        self, uploader: Uploader, blob: Blob, progress: _Progress, *, chunk_bytes: int | None
    ) -> None:
        self._uploader = uploader
        self._client = uploader.client
        self._scopes = push_scope(uploader.repository)
        self._blob = blob
        self._progress = progress
        self._least_bytes = 0
        self._resumed = False
        self._doubt: Transient | None = None
        """Why the registry must say how much has arrived, where it must."""
        self.chunk_bytes = chunk_bytes
        self.location = ""
        self.sent_bytes = 0

    def open(self) -> None:
        response = self._client.send(
            "open upload",
            "POST",
            f"/v2/{self._uploader.repository}/blobs/uploads/",
            scopes=self._scopes,
            headers={"Content-Length": "0"},
        )
        self._follow(response)
        least = response.headers.get("OCI-Chunk-Min-Length", "")
        self._least_bytes = int(least) if re.fullmatch(r"[0-9]{1,12}", least) else 0

    def send_all(self) -> None:
        """Sends what is left, and takes up what breaks.

        Raises:
            Transient: the upload is lost, and a new one may succeed.
            PushError: there are no tries left.
        """
        while self.sent_bytes < self._blob.size_bytes or self._doubt:
            try:
                if self._doubt:
                    self._ask_how_much_arrived(self._doubt)
                else:
                    self._send_piece()
            except _Lost:
                raise
            except Transient as error:
                self._resumed = True
                self._doubt = error
                self._progress.pause(error)
            self._progress.reach(self.sent_bytes)

    def close(self) -> str:
        """Ends the upload under its digest."""
        digest = self._blob.digest()
        mark = "&" if "?" in self.location else "?"
        while True:
            try:
                response = self._client.send(
                    "close upload",
                    "PUT",
                    f"{self.location}{mark}digest={quote(digest, safe='')}",
                    scopes=self._scopes,
                    headers={"Content-Length": "0"},
                )
            except Transient as error:
                # The answer may have been lost, not the request.
                if self._has_blob(digest):
                    return digest
                self._progress.pause(error)
                continue
            if meaning_of("close upload", response.status_code) == "done" or self._has_blob(digest):
                return digest
            self._check_own_bytes(digest)
            self._progress.refused += 1
            what = f"the registry says that the bytes are not those of {digest}"
            if self._progress.refused == _MOST_REFUSED:  # each time costs a whole upload
                raise PushError(
                    f"{what}, {_MOST_REFUSED} times",
                    where=self._client.host,
                    hint="something on the way changes them, such as a proxy: try from another network",
                )
            raise _Lost(what)

    def _has_blob(self, digest: str) -> bool:
        return self._client.has_blob(self._uploader.repository, digest, pauser=self._progress.pause)

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
            "send piece", "PATCH", self.location, scopes=self._scopes, headers=headers, body=body
        )
        meaning = meaning_of("send piece", response.status_code)
        if meaning == "smaller":
            self._take_smaller_pieces(piece)
        elif meaning == "restart":
            raise _Lost("the registry has lost an upload")
        elif meaning == "ask":
            raise Transient("the registry refuses a piece's place (416)")
        else:
            if response.headers.get("Location"):
                self._follow(response)
            self.sent_bytes = self._arrived_after(self.sent_bytes + piece, response)

    def _arrived_after(self, sent_bytes: int, response: requests.Response) -> int:
        """Our own count, unless the registry says that it has taken a part of the piece.

        ECR's `Range` does not advance, and others tell of the last piece alone: that is no answer.
        """
        said = _arrived(response) if not self._progress.refused else None
        return said if said is not None and self.sent_bytes < said < sent_bytes else sent_bytes

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

    def _ask_how_much_arrived(self, why: Transient) -> None:
        """Finds where to go on, or that a new upload is needed, where the registry does not say."""
        response = self._client.send("ask upload", "GET", self.location, scopes=self._scopes)
        arrived = _arrived(response)
        is_answer = meaning_of("ask upload", response.status_code) == "done"
        if not is_answer or arrived is None or arrived > self._blob.size_bytes:
            raise _Lost(why.what, counts=False)  # it was counted when it came
        if response.headers.get("Location"):
            self._follow(response)
        self.sent_bytes = arrived
        self._doubt = None

    def _follow(self, response: requests.Response) -> None:
        self.location = self._uploader.location_of(response)


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
    found = re.fullmatch(
        r"(?:bytes[= ])?0-([0-9]{1,15})(?:/.*)?", response.headers.get("Range", "").strip()
    )
    if not found:
        return None
    return int(found[1]) + 1 if int(found[1]) else 0
