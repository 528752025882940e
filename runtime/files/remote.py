"""One remote file: its origin, the storage that the origin sends us to, and what its refusals mean.

The origin (CivitAI's API, Hugging Face's hub, or the file itself) is asked once; further ranges go to
the storage address that it gave, until that expires. CivitAI counts each redirect against a quota.
"""

from __future__ import annotations

import email.utils
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import requests
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from runtime.files.errors import WeightsError
from runtime.files.http import Client
from runtime.files.policy import show_url

MAX_RETRY_AFTER_S = 120.0
"""A server that asks for more is not waited for."""
_CONTENT_RANGE = re.compile(r"^bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)$")
_RETRIED = {408, 425, 500, 502, 503, 504}
_EXPIRED = {401, 403, 410}


class RetryableError(Exception):
    """A failure that may pass.

    Args:
        failure: What is raised when it does not.
        wait_s: Seconds that the server asks us to wait.
        attempts: How often it is tried again at most; None for the download's own limit.
    """

    def __init__(
        self, failure: WeightsError, *, wait_s: float | None = None, attempts: int | None = None
    ) -> None:
        super().__init__(failure.what)
        self.failure = failure
        self.reached: int | None = None
        """The offset after the last byte that came before it."""
        self.wait_s = wait_s
        self.attempts = attempts


Explain = Callable[[requests.Response, str], Exception]
"""Makes a WeightsError or RetryableError of a refusal; the text is the address that refused."""


def explain_plainly(response: requests.Response, url: str) -> Exception:
    """The meaning of a refusal by a server of which nothing else is known."""
    status = response.status_code
    where = show_url(url)
    wait_s = retry_after_s(response)
    if status == 429:
        error = WeightsError("quota", "the server refuses further requests (429)", where=where)
        return RetryableError(error, wait_s=wait_s) if wait_s is not None else error
    if status in _RETRIED:
        error = WeightsError(
            "server",
            f"the server is in trouble (HTTP {status})",
            where=where,
            hint="try again later",
        )
        return RetryableError(error, wait_s=wait_s)
    what, hint = _MEANINGS.get(status, (f"the server answers HTTP {status}", None))
    return WeightsError("http", what, where=where, hint=hint)


_BROWSE = "open the address in a browser to see what it asks for"
_MEANINGS = {
    400: ("the server does not accept the request (400)", "check the address"),
    401: ("the file needs a login (401)", _BROWSE),
    403: ("the server refuses access (403)", _BROWSE),
    404: ("there is no such file (404)", "check the address"),
    410: ("the file is gone (410)", "look for a copy elsewhere"),
    451: ("the file may not be served in this region (451)", "fetch it from a machine elsewhere"),
}


def retry_after_s(response: requests.Response) -> float | None:
    """Seconds of a `Retry-After` header, in either form; None without one."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return max(0.0, at.timestamp() - time.time())


@dataclass(frozen=True, kw_only=True)
class ContentRange:
    """A parsed `Content-Range`; `start` and `end` (exclusive) are None where nothing was served."""

    start: int | None
    end: int | None
    total: int | None


def parse_content_range(text: str) -> ContentRange | None:
    """None if the text is of no valid form."""
    match = _CONTENT_RANGE.match(text.strip())
    if not match:
        return None
    total = None if match[3] == "*" else int(match[3])
    if match[1] is None:
        return ContentRange(start=None, end=None, total=total)
    start, end = int(match[1]), int(match[2]) + 1
    if end <= start or (total is not None and end > total):
        return None
    return ContentRange(start=start, end=end, total=total)


class Remote:
    """Gives ranges of one file, from any thread."""

    def __init__(
        self,
        client: Client,
        url: str,
        *,
        explain: Explain = explain_plainly,
        location: str | None = None,
        max_renewals: int = 3,
    ) -> None:
        self.client = client
        self.url = url
        self.explain = explain
        self.location = location
        """The storage address that the origin gave; kept in memory only, since it is a secret for a day."""
        self._max_renewals = max_renewals
        self._renewals = 0
        self._lock = threading.Lock()

    def open_range(self, start: int, end: int | None) -> requests.Response:
        """A streamed answer (200, 206 or 416) for bytes `start` to `end` (exclusive).

        Raises:
            RetryableError: it may work later, or with a fresh storage address.
            WeightsError: it will not.
        """
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        response, at, is_fresh = self._open(headers)
        if response.status_code in (200, 206, 416):
            return response
        with response:
            raise self._failure(response, at, is_fresh=is_fresh)

    def _open(self, headers: dict[str, str]) -> tuple[requests.Response, str, bool]:
        """The answer, the address that gave it, and whether the origin named that address just now."""
        location = None
        try:
            with self._lock:
                location = self.location
                if location is None:
                    response, at = self.client.open(self.url, headers=headers)
                    if response.status_code in (200, 206, 416):
                        self.location = at
                    return response, at, True
            return *self.client.open(location, headers=headers), False
        except requests.exceptions.SSLError as error:
            raise WeightsError(
                "tls",
                "the server's certificate is not trusted here",
                where=show_url(self.url),
                hint="set REQUESTS_CA_BUNDLE to your network's certificates",
            ) from error
        except requests.RequestException as error:
            if location is not None and _is_out_of_reach(error):
                with self._lock:
                    # The origin knows another storage host, perhaps; it is asked by one connection only.
                    if self.location == location:
                        self.location = None
            raise RetryableError(connection_failure(error, self.url)) from None

    def _failure(self, response: requests.Response, at: str, *, is_fresh: bool) -> Exception:
        if at == self.url or response.status_code not in _EXPIRED:
            return self.explain(response, at)
        with self._lock:
            # Of several connections that find the address expired, one counts and renews it.
            if is_fresh or self.location == at:
                self.location = None
                self._renewals += 1
            renewals = self._renewals
        if renewals > self._max_renewals:
            return _expired(at)
        return RetryableError(_expired(at), wait_s=0)


def _is_out_of_reach(error: requests.RequestException) -> bool:
    """Whether no connection was made at all: refused, no route, no such name, no answer."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, (NewConnectionError, ConnectTimeoutError))


def connection_failure(error: requests.RequestException, url: str) -> WeightsError:
    """What a transport's failure means, without the address's query that its own text holds."""
    where = show_url(url)
    if isinstance(error, requests.exceptions.ProxyError):
        return WeightsError("connection", "the proxy cannot be reached", where=where)
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return WeightsError("connection", "the server does not answer", where=where)
    if isinstance(error, requests.exceptions.ReadTimeout):
        return WeightsError("stalled", "the server stopped sending", where=where)
    return WeightsError(
        "connection",
        "the server cannot be reached, or broke the connection",
        where=where,
        hint="check the network (a proxy goes into HTTPS_PROXY)",
    )


def _expired(at: str) -> WeightsError:
    return WeightsError(
        "expired",
        "the storage refuses its own signed address, also a fresh one",
        where=show_url(at),
        hint="check this machine's clock; else try again later",
    )
