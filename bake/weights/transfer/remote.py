"""One remote file: its origin, the storage that the origin sends us to, and what its refusals mean.

The origin (CivitAI's API, Hugging Face's hub, or the file itself) is asked once; further ranges go to
the storage address that it gave, until that expires. CivitAI counts each redirect against a quota.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import requests
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from runtime.files.answers import RetryableError, explain_plainly, transport_failure
from runtime.files.errors import WeightsError
from runtime.files.http import Client
from runtime.files.policy import show_url

_EXPIRED = {401, 403, 410}
Explain = Callable[[requests.Response, str], Exception]
"""Makes a WeightsError or RetryableError of a refusal; the text is the address that refused."""


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
        except requests.RequestException as error:
            if location is not None and _is_out_of_reach(error):
                with self._lock:
                    # The origin knows another storage host, perhaps; it is asked by one connection only.
                    if self.location == location:
                        self.location = None
            raise transport_failure(error, self.url) from error

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


def _expired(at: str) -> WeightsError:
    return WeightsError(
        "expired",
        "the storage refuses its own signed address, also a fresh one",
        where=show_url(at),
        hint="check this machine's clock; else try again later",
    )
