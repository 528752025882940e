"""HTTP under a host policy: every redirect is judged, and credentials go to one host only.

`trust_env` is off, since a matching ~/.netrc would override our header and be sent on to the storage
host, which answers 400 to any. What else it would give (proxies, a CA bundle) is passed on purpose.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from runtime.files.errors import WeightsError
from runtime.files.policy import HostPolicy, is_loopback_host, show_url

USER_AGENT = "bakery/1 (+python-requests)"
"""CivitAI answers a browser's name with login pages, and urllib's own with 403."""
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_IN_ADDRESSES = "!#$%&'()*+,/:;=?@[]~"
_CREDENTIALS = {"authorization", "cookie", "proxy-authorization"}


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """All in seconds."""

    connect_s: float = 10.0
    stall_s: float = 30.0
    """Without a byte for so long, a connection counts as dead."""
    total_s: float | None = None
    """For the whole download with its retries; None for no limit."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A header that one origin may see, and nobody else. Its value is never shown."""

    origin: str
    """Any URL of that origin (scheme, host and port are compared)."""
    header: str = "Authorization"
    value: str = field(default="", repr=False)

    def fits(self, url: str) -> bool:
        """Whether `url` is of the origin."""
        return _origin(url) == _origin(self.origin)


class Session(requests.Session):
    """Follows nothing, also not in thought: requests decodes a Location that nobody asked it to follow."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002
        return None


class Client:
    """One session: connections are kept alive and shared by the threads of a download."""

    def __init__(
        self,
        policy: HostPolicy,
        *,
        timeouts: Timeouts | None = None,
        credentials: Credentials | None = None,
        ca_bundle: str | None = None,
        proxies_from_environment: bool = False,
        login_hint: str = "set the token of that site",
    ) -> None:
        self.policy = policy
        self._login_hint = login_hint
        self.timeouts = timeouts or Timeouts()
        self.credentials = credentials
        self._proxies_from_environment = proxies_from_environment
        self.session = Session()
        self.session.trust_env = False
        self.session.headers.clear()
        self.session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        if ca_bundle:
            self.session.verify = ca_bundle
        adapter = _GuardedAdapter(policy)
        self.session.mount("https://", adapter)
        self.session.mount("http://", adapter)

    def close(self) -> None:
        """Ends all connections."""
        self.session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """One request, with no redirect followed and the credentials where they belong.

        Raises:
            WeightsError: kind `host`, for an address that the policy refuses.
            requests.RequestException: the transport failed.
        """
        self.policy.check_url(url)
        sent = dict(headers or {})
        if any(name.lower() in _CREDENTIALS for name in sent):
            raise ValueError("credentials are given to the client, not to a request")
        if self.credentials is not None and self.credentials.fits(url):
            sent[self.credentials.header] = self.credentials.value
        try:
            response = self.session.request(
                method,
                url,
                headers=sent,
                stream=stream,
                allow_redirects=False,
                timeout=(self.timeouts.connect_s, self.timeouts.stall_s),
                proxies=self._proxies(url),
            )
        except requests.ConnectionError as error:
            refused = _find_refusal(error)
            if refused is not None:
                raise refused from None
            raise
        self.session.cookies.clear()
        return response

    def open(
        self, url: str, *, headers: Mapping[str, str] | None = None
    ) -> tuple[requests.Response, str]:
        """A streamed GET that follows redirects by hand; gives the answer, with its `history`, and the last address.

        Raises:
            WeightsError: kind `host` or `redirect`.
            requests.RequestException: the transport failed.
        """
        at, passed = url, list[requests.Response]()
        for _ in range(MAX_REDIRECTS + 1):
            response = self.request(at, headers=headers, stream=True)
            if response.status_code not in REDIRECTS:
                response.history = passed
                return response, at
            at = self.redirected(response, at)
            passed.append(response)
        raise WeightsError("redirect", f"more than {MAX_REDIRECTS} redirects", where=show_url(url))

    def redirected(self, response: requests.Response, at: str) -> str:
        """Closes a redirect that `at` answered with, and gives the address that it leads to.

        Raises:
            WeightsError: kind `host`, `login` or `redirect`.
        """
        response.close()
        target = response.headers.get("Location")
        if not target:
            raise WeightsError("redirect", "a redirect that names no target", where=show_url(at))
        return check_redirect(
            at, encoded_location(target), self.policy, login_hint=self._login_hint
        )

    def _proxies(self, url: str) -> dict[str, str]:
        if not self._proxies_from_environment or is_loopback_host(urlsplit(url).hostname or ""):
            return {}
        return dict(get_environ_proxies(url))


def check_redirect(url: str, target: str, policy: HostPolicy, *, login_hint: str) -> str:
    """The absolute address that a redirect from `url` leads to, if the policy allows it.

    Raises:
        WeightsError: kind `login` for a login page, kind `host` for a host that is not allowed.
    """
    try:
        absolute = urljoin(url, target)
    except ValueError:
        what = "a redirect to what is no address"
        raise WeightsError("redirect", what, where=show_url(url)) from None
    path = urlsplit(absolute).path.rstrip("/").lower()
    if path.endswith(("/login", "/signin", "/sign-in")):
        raise WeightsError(
            "login",
            "the file needs a login: the server sends us to its login page",
            where=show_url(url),
            hint=login_hint,
        )
    try:
        policy.check_url(absolute)
    except WeightsError as error:
        raise WeightsError(
            error.kind,
            f"a redirect leads to where none may: {error.what}",
            where=show_url(absolute),
        ) from None
    return absolute


def encoded_location(location: str) -> str:
    """A Location as it came, byte for byte, with what an address cannot hold encoded once.

    Many servers send raw UTF-8, which http.client hands over as Latin-1; encoded as it stands, it would
    name another file. What is encoded already stays so.
    """
    return quote(location.encode("latin-1", "replace"), safe=_IN_ADDRESSES)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return (
        parts.scheme,
        (parts.hostname or "").lower(),
        parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0),
    )


def _find_refusal(error: BaseException) -> WeightsError | None:
    """The policy's own error inside what requests and urllib3 have wrapped around it."""
    seen: set[int] = set()
    queue: list[BaseException] = [error]
    while queue:
        each = queue.pop()
        if isinstance(each, WeightsError):
            return each
        if id(each) in seen:
            continue
        seen.add(id(each))
        inner = [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
        queue += [one for one in inner if isinstance(one, BaseException)]
    return None


class _GuardedAdapter(HTTPAdapter):
    """Connects to judged addresses only. A proxy resolves names itself, and is trusted to."""

    def __init__(self, policy: HostPolicy) -> None:
        self._policy = policy
        super().__init__(pool_connections=8, pool_maxsize=32)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._policy)


def _pool_classes(policy: HostPolicy) -> dict[str, type[HTTPConnectionPool]]:
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, policy)

    class Encrypted(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, policy)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


def _connect(connection: HTTPConnection, policy: HostPolicy) -> socket.socket:
    """Like urllib3's own, with the policy between the resolver and the socket."""
    host = connection.host.strip("[]")
    try:
        addresses = policy.resolve(host, connection.port)
    except WeightsError as error:
        raise NewConnectionError(connection, error.what) from error
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    failure: OSError | None = None
    for family, address in addresses:
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            for option in connection.socket_options or ():
                opened.setsockopt(*option)
            opened.settimeout(_connect_timeout(connection))
            opened.connect(address)
        except OSError as error:
            opened.close()
            failure = error
            continue
        sys.audit("http.client.connect", connection, connection.host, connection.port)
        return opened
    if isinstance(failure, TimeoutError):
        raise ConnectTimeoutError(connection, f"{host} does not answer") from failure
    raise NewConnectionError(connection, f"{host} cannot be reached: {failure}") from failure


def _connect_timeout(connection: HTTPConnection) -> float | None:
    timeout = connection.timeout
    return float(timeout) if isinstance(timeout, (int, float)) else None
