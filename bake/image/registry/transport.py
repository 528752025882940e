"""How a registry is spoken to: options, TLS, retries. `bake.image.registry.client` says what is asked of it."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from bake.certificates import trusted_certificates
from bake.errors import ManifestError, PushError
from bake.settings import Settings
from runtime.retry import MAX_ASKED_S, USUAL, Retry

_READ_BYTES = 64 << 10
_MOST_UNCOUNTED = 8
"""New tokens, or smaller pieces, in a row."""
_NO_TLS = re.compile(r"WRONG_VERSION_NUMBER|HTTP_REQUEST|RECORD_LAYER_FAILURE")


@dataclass(frozen=True, kw_only=True)
class RegistryOptions:
    """How a registry is spoken to."""

    retry: Retry = USUAL
    """Of a request, and of an upload, where every byte that arrives for the first time is progress."""
    chunk_bytes: int | None = None
    """Most bytes of one PATCH. None sends a blob as one, as `docker push` does, and less after a 413."""
    parallel: int = 4
    """Blobs at once."""
    connect_s: float = 60.0
    """Also how long a registry may stop reading what is sent to it."""
    read_s: float = 300.0
    """A registry may hash a whole blob before it answers."""
    ca_bundle: Path | None = None
    """Certificates that are trusted besides the system's."""
    certs_folder: Path = Path("/etc/docker/certs.d")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> RegistryOptions:
        """What `bake.settings` says of registries. Raises ManifestError: a value does not fit."""
        settings = Settings.from_environment(environ)
        chunk_mib = settings.push_chunk_mib
        return cls(
            chunk_bytes=chunk_mib << 20 if chunk_mib else None,
            parallel=settings.push_parallel,
            ca_bundle=trusted_certificates(settings),
        )


class Transient(Exception):  # noqa: N818  # not an error yet: it is tried again
    """A request that may succeed when it is sent again.

    Args:
        what: What happened, for the message if it never succeeds.
        wait_s: What the registry asked to wait, if it did.
        counts: False where the next try will not be the same, such as after a new token.
        failure: What is raised if it never succeeds; made of `what` if not given.
        hint: What to do then, where that is known.
    """

    def __init__(
        self,
        what: str,
        *,
        wait_s: float | None = None,
        counts: bool = True,
        failure: PushError | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.wait_s = wait_s
        self.counts = counts
        self.failure = failure
        self.hint = hint


class Unauthorized(Transient):
    """A 401 that a new token may answer."""

    def __init__(self, what: str, *, had_token: bool, failure: PushError) -> None:
        super().__init__(what, counts=False, failure=failure)
        self.had_token = had_token
        """The request had credentials or a token already: another one is the same, perhaps."""


class Pauser:
    """Counts the tries of one undertaking, and waits between them.

    Args:
        host: The registry's, for the message.
        retry: How often, and how long.
        wait: Instead of `time.sleep`; may raise to end the undertaking.
    """

    def __init__(
        self,
        host: str,
        retry: Retry,
        *,
        wait: Callable[[float], None] | None = None,
    ) -> None:
        self._host = host
        self._wait = wait or time.sleep
        self._retry = retry
        self._tries = 0
        self._uncounted = 0

    def __call__(self, error: Transient) -> None:
        """Waits before the next try, or raises PushError where there is none."""
        if not error.counts and self._uncounted < _MOST_UNCOUNTED:
            self._uncounted += 1
            self._wait(0.0)
            return
        self._tries += 1
        pause_s = self._retry.pause_s(self._tries, asked_s=error.wait_s)
        if pause_s is None:
            raise error.failure or self._failure(error) from error
        self._wait(pause_s)

    def progressed(self) -> None:
        """Starts counting anew."""
        self._tries = self._uncounted = 0

    def _failure(self, error: Transient) -> PushError:
        if (error.wait_s or 0) > MAX_ASKED_S:
            return PushError(
                f"{error.what}, and asks to wait {error.wait_s:.0f} s",
                where=self._host,
                hint="repeat the command then; what it finds there is not sent again",
            )
        return PushError(
            f"{error.what}, {self._tries} times in a row",
            where=self._host,
            hint=error.hint
            or "check the registry's name and the network; what a repeated push finds there is not sent again",
        )


class NoNetrc(AuthBase):
    """Keeps `requests` from adding credentials of ~/.netrc over ours."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class TrustingAdapter(HTTPAdapter):
    """Connections that trust what a context trusts."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self._context = context
        super().__init__(pool_connections=4, pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)


def read_body(response: requests.Response, *, limit_s: float, most_bytes: int = 16 << 20) -> None:
    """Reads a streamed answer's body, so that `content` has it.

    Raises:
        RequestException: it breaks, is longer than `most_bytes`, or takes longer than `limit_s`.
    """
    began = time.monotonic()
    body = bytearray()
    try:
        for chunk in response.iter_content(_READ_BYTES):
            body += chunk
            if len(body) > most_bytes:
                raise requests.exceptions.ContentDecodingError("too long")
            if time.monotonic() - began > limit_s:
                raise requests.exceptions.ReadTimeout("too slow")
    except urllib3.exceptions.HTTPError as error:  # requests wraps some of them only
        raise requests.exceptions.ChunkedEncodingError(type(error).__name__) from error
    finally:
        response.close()
        response._content = bytes(body)  # what `requests` itself keeps there


def tls_failure(host: str, error: requests.exceptions.SSLError) -> Exception:
    """What a failure of TLS is: a certificate stays what it is, but a connection that is cut ends so too."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return PushError(
            "the registry's TLS certificate is not trusted",
            where=host,
            hint="name its CA in BAKE_CA_BUNDLE, or in /etc/docker/certs.d/HOST/ca.crt",
        )
    if _NO_TLS.search(str(error)):
        return PushError("what answers there does not speak TLS", where=host)
    return Transient("the connection failed (SSLError)")


def make_tls_context(host: str, options: RegistryOptions) -> ssl.SSLContext:
    """The system's trust, and what is named in addition: our bundle, and Docker's folder for the host.

    Raises:
        ManifestError: a certificate file cannot be read.
    """
    context = ssl.create_default_context()
    folder = options.certs_folder / host
    bundles = sorted(folder.glob("*.crt")) if folder.is_dir() else []
    if options.ca_bundle:
        bundles.append(options.ca_bundle)
    where = folder
    try:
        for where in bundles:
            context.load_verify_locations(where)
        for where in sorted(folder.glob("*.cert")) if folder.is_dir() else []:
            context.load_cert_chain(where, where.with_suffix(".key"))
    except (OSError, ssl.SSLError) as error:
        raise ManifestError(
            f"a certificate file cannot be read: {type(error).__name__}", where=str(where)
        ) from error
    return context
