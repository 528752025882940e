"""How a registry is spoken to: options, TLS, retries. `bake.image.registry.client` says what is asked of it."""

from __future__ import annotations

import json
import random
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from bake.certificates import trusted_certificates
from bake.errors import ManifestError, PushError
from bake.settings import Settings

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be others the next time."""
_NO_TLS = re.compile(r"WRONG_VERSION_NUMBER|HTTP_REQUEST|RECORD_LAYER_FAILURE")
_MOST_WAIT_S = 60.0
_MOST_UNCOUNTED = 5
"""New tokens, or smaller pieces, in a row."""


@dataclass(frozen=True, kw_only=True)
class RegistryOptions:
    """How a registry is spoken to."""

    attempts: int = 6
    """Tries of one request, or of an upload that makes no progress."""
    backoff_s: float = 1.0
    """Before the second try; doubled at each, with jitter, up to a minute. `Retry-After` wins."""
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
        counts: False where the try should not be counted, such as after a new token.
    """

    def __init__(self, what: str, *, wait_s: float | None = None, counts: bool = True) -> None:
        super().__init__(what)
        self.what = what
        self.wait_s = wait_s
        self.counts = counts


class Pauser:
    """Counts the tries of one undertaking, and waits between them."""

    def __init__(self, host: str, options: RegistryOptions) -> None:
        self._host = host
        self._options = options
        self._failed = 0
        self._uncounted = 0

    def __call__(self, error: Transient) -> None:
        """Waits before the next try, or raises PushError where there is none."""
        if not error.counts and self._uncounted < _MOST_UNCOUNTED:
            self._uncounted += 1
            return
        self._failed += 1
        if self._failed >= self._options.attempts:
            raise PushError(
                f"{error.what}, {self._failed} times in a row",
                where=self._host,
                hint="check the registry's name and the network; what a repeated push finds there is not sent again",
            ) from error
        wait_s = self._options.backoff_s * 2 ** (self._failed - 1) * random.uniform(0.5, 1)  # noqa: S311
        time.sleep(min(error.wait_s if error.wait_s is not None else wait_s, _MOST_WAIT_S))

    def progressed(self) -> None:
        """Starts counting anew."""
        self._failed = 0
        self._uncounted = 0


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


def error_code(response: requests.Response) -> str:
    """The registry's error code, such as `DENIED`; never its free text, which may echo anything."""
    try:
        code = str(json.loads(response.content[:65536])["errors"][0]["code"])
    except (ValueError, KeyError, IndexError, TypeError, RuntimeError, requests.RequestException):
        return ""
    return code if re.fullmatch(r"[A-Z_]{3,40}", code) else ""


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


def retry_after(response: requests.Response) -> float | None:
    """Seconds of a `Retry-After`, which is a number or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


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
