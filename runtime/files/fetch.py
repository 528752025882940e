"""Fetching one address into one file over one connection: what a worker does for a LoRA of a request."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from runtime.clock import clock
from runtime.files.answers import (
    RetryableError,
    content_length,
    explain_plainly,
    linked_sha256,
    parse_content_range,
    pause_after,
    refuse_page,
    refuse_start,
    stalled,
    transport_failure,
    validator_of,
)
from runtime.files.errors import FailureKind, WeightsError, disk_errors
from runtime.files.http import Client, Credentials, Timeouts
from runtime.files.policy import HostPolicy, show_url
from runtime.retry import USUAL, Retry

_READ_BYTES = 256 << 10
_MAX_STARTS = 6
"""From the first byte, of a server that does not continue what it broke off."""
_EXPIRED = {401, 403, 410}


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A complete file."""

    path: Path
    size_bytes: int
    sha256: str
    """Lower-case hex, of the bytes that were received."""
    url: str
    """Where it came from, without query."""


def fetch_url(
    url: str,
    target: Path,
    *,
    policy: HostPolicy,
    timeouts: Timeouts,
    max_bytes: int | None = None,
    sha256: str | None = None,
    credentials: Credentials | None = None,
    cancelled: threading.Event | None = None,
    retry: Retry = USUAL,
) -> Fetched:
    """Downloads `url` to `target`, which appears complete or not at all; nothing else stays.

    A connection that breaks is taken up at its byte, if the server can and the file is still the same.

    Args:
        url: https only; http on loopback if the policy allows loopback. Redirects are judged alike.
        target: The file to make, in a folder that exists. Two calls for one target need a lock around them.
        policy: Which hosts and addresses may be asked.
        timeouts: Connect, stall and total seconds; without `total_s` it goes on while there is progress.
        max_bytes: More than this is refused, at the announced length or at the byte that exceeds it.
        sha256: The digest that the file must have.
        credentials: A header for one origin; never sent anywhere else.
        cancelled: Ends the download when it is set.
        retry: How often in a row, without a byte between.

    Raises:
        WeightsError: kinds `host`, `redirect`, `login`, `tls`, `connection`, `stalled`, `too_slow`,
            `cancelled`, `http`, `server`, `quota`, `page`, `size`, `too_large`, `hash`, `disk`, `not_weights`.
    """
    part = target.with_name(target.name + ".part")
    with Client(policy, timeouts=timeouts, credentials=credentials) as client:
        stopped = cancelled or threading.Event()
        stream = _Stream(client, url, part, max_bytes, cancelled=stopped, sha256=sha256)
        try:
            with disk_errors(part):
                file = part.open("wb", buffering=0)
            with file:
                found = stream.receive(file, retry)
                with disk_errors(part):
                    os.fsync(file.fileno())
            stream.check_digest("sent", found)
            with disk_errors(part):
                part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return Fetched(path=target, size_bytes=stream.at, sha256=found, url=show_url(url))


class _Stream:
    """One file on its way."""

    def __init__(
        self,
        client: Client,
        url: str,
        part: Path,
        max_bytes: int | None,
        *,
        cancelled: threading.Event,
        sha256: str | None,
    ) -> None:
        self.at = 0
        """Bytes that are in the file."""
        self._client, self._timeouts = client, client.timeouts
        self._url, self._part = url, part
        self._max_bytes = max_bytes
        self._cancelled = cancelled
        total_s = self._timeouts.total_s
        self._deadline = None if total_s is None else clock.now() + total_s
        self._location: str | None = None
        """Where the address led to; CivitAI counts each of its redirects against a quota."""
        self._asked = sha256
        self._linked: str | None = None
        """What the hub says that the digest is: it judges the whole, where no ETag tells files apart."""
        self._digest = hashlib.sha256()
        self._total: int | None = None
        self._validator: str | None = None
        self._starts = 0
        self._received = 0

    def receive(self, file: BinaryIO, retry: Retry) -> str:
        """The SHA256 of the file, once all of it is there."""
        tries = 0
        while True:
            before = self._received
            try:
                self._try(file)
                return self._digest.hexdigest()
            except RetryableError as error:
                tries = 1 if self._received > before else tries + 1
                self._pause(pause_after(error, tries, retry))

    def check_digest(self, does: str, found: str) -> None:
        """Raises WeightsError (kind `hash`) if a file with this digest is not the one that is meant."""
        expected = self._asked or self._linked or found
        if found != expected:
            what = f"the server {does} a file with SHA256 {found}, {expected} was expected"
            raise self._wrong("hash", what)

    def _try(self, file: BinaryIO) -> None:
        self._check_going()
        with self._open() as response:
            self._begin(file, response)
            with self._woken(response):
                self._copy(file, response)

    def _open(self) -> requests.Response:
        """An answer with bytes of the file, from where we are if the server can."""
        if self._deadline is not None:
            left = max(0.1, self._deadline - clock.now())
            connect_s, stall_s = self._timeouts.connect_s, self._timeouts.stall_s
            self._client.timeouts = replace(
                self._timeouts, connect_s=min(connect_s, left), stall_s=min(stall_s, left)
            )
        headers = {"Range": f"bytes={self.at}-"} if self.at else {}
        asked, self._location = self._location or self._url, None
        try:
            response, at = self._client.open(asked, headers=headers)
        except requests.RequestException as error:
            self._check_going()
            raise transport_failure(error, self._url) from None
        if response.status_code in (200, 206):
            self._location = at
            if linked := linked_sha256(response):
                self._linked, before = linked, self._linked
                self.check_digest("has", linked)
                if self.at and linked != before:
                    response.close()
                    self._restart("the file has changed")
            return response
        with response:
            if response.status_code == 416 and self.at:
                self._restart("the file has become shorter")
            failure = explain_plainly(response, at)
            is_expired = asked != self._url and response.status_code in _EXPIRED
            if is_expired and isinstance(failure, WeightsError):
                raise RetryableError(failure)  # a signed address; the next attempt asks for another
            raise failure

    def _begin(self, file: BinaryIO, response: requests.Response) -> None:
        """Judges an answer by its headers, and puts the file where its bytes go."""
        refuse_page(response, self._url)
        validator = validator_of(response)
        if response.status_code == 206:
            served = parse_content_range(response.headers.get("Content-Range", ""))
            is_same = validator is not None and validator == self._validator
            if None in (validator, self._validator):
                # As with Hugging Face's storage: github.com/artokun/comfyui-mcp/issues/467.
                is_same = (self._asked or self._linked) is not None
            is_next = served is not None and served.start == self.at
            if not is_same or not is_next or self._total not in (None, served and served.total):
                self._restart("the file may have changed")
            return
        self._rewind(file)
        self._validator = validator
        self._total = content_length(response)
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if self._total is None and not chunked:
            raise self._wrong(
                "http",
                "the server does not say how long the file is, so a broken one could not be told",
            )
        self._check_size(self._total or 0)

    def _rewind(self, file: BinaryIO) -> None:
        self._starts += 1
        if self._starts > _MAX_STARTS:
            raise self._wrong("connection", f"broken off {_MAX_STARTS} times, and not continued")
        with disk_errors(self._part):
            file.seek(0)
            file.truncate()
        self.at, self._digest = 0, hashlib.sha256()

    def _restart(self, why: str) -> None:
        """Asks for the whole file next."""
        self.at = 0
        raise RetryableError(self._wrong("connection", f"{why}, again and again"))

    def _copy(self, file: BinaryIO, response: requests.Response) -> None:
        try:
            while chunk := response.raw.read1(_READ_BYTES, decode_content=False):
                self._check_going()
                self._write(file, chunk)
        except (HTTPError, OSError) as error:
            self._check_going()
            broken = self._wrong("connection", "the connection broke")
            is_silent = isinstance(error, (ReadTimeoutError, TimeoutError))
            raise RetryableError(stalled(self._url) if is_silent else broken) from None
        self._check_going()
        if self._total is not None and self.at < self._total:
            raise RetryableError(self._wrong("connection", "the connection broke"))
        if self.at == 0:
            raise self._wrong("not_weights", "the file is empty")

    def _write(self, file: BinaryIO, chunk: bytes) -> None:
        if self.at == 0:
            refuse_start(chunk, self._url)
        self.at += len(chunk)
        self._received += len(chunk)
        self._check_size(self.at)
        self._digest.update(chunk)
        with disk_errors(self._part):
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]

    def _check_size(self, size_bytes: int) -> None:
        if self._max_bytes is not None and size_bytes > self._max_bytes:
            what = f"the file has {size_bytes} bytes or more, {self._max_bytes} are allowed"
            raise self._wrong("too_large", what)

    def _check_going(self) -> None:
        if self._cancelled.is_set():
            raise WeightsError("cancelled", "the job was cancelled")
        if self._deadline is not None and clock.now() > self._deadline:
            total_s = self._timeouts.total_s
            raise self._wrong("too_slow", f"the download takes longer than {total_s:.0f} s")

    def _pause(self, seconds: float) -> None:
        if self._deadline is not None:
            seconds = min(seconds, max(0.0, self._deadline - clock.now()))
        self._cancelled.wait(seconds)

    @contextlib.contextmanager
    def _woken(self, response: requests.Response) -> Iterator[None]:
        """Ends a read that waits for bytes as soon as the job is cancelled or its time is over."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.2):
                try:
                    self._check_going()
                except WeightsError:
                    with contextlib.suppress(AttributeError, RuntimeError, ValueError, OSError):
                        response.raw.shutdown()
                    return

        watcher = threading.Thread(target=watch, name="fetch watch", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def _wrong(self, kind: FailureKind, what: str) -> WeightsError:
        return WeightsError(kind, what, where=show_url(self._url))
