"""Who `bake` is to a registry: the docker config's credentials, and the tokens that they buy.

Credentials go to the registry that they are for and to the token server that this registry names, over
TLS or on loopback only. They are in no message, no log, no URL and no `repr`.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

import requests

from bake.errors import PushError
from bake.image.registry.answers import meaning_of
from bake.image.registry.credentials import Credentials
from bake.image.registry.transport import Transient, read_body, tls_failure
from bake.settings import is_sealed
from runtime.files.answers import retry_after_s

_TIMEOUT_S = (20, 60)
_SPARE_S = 15
"""A token that ends this soon is renewed before a request, not after its body was refused."""
_LONGEST_CHALLENGE = 4096
_LONGEST_TOKEN = 64 << 10
_DEFAULT_LIFE_S = 60  # what the token specification says of an answer without `expires_in`


def pull_scope(repository: str) -> tuple[str, ...]:
    """What a token must allow to read a repository."""
    return (f"repository:{repository}:pull",)


def push_scope(repository: str, *, mounted_from: str = "") -> tuple[str, ...]:
    """What a token must allow to write a repository, and to mount blobs of another."""
    scope = f"repository:{repository}:pull,push"
    return (scope, f"repository:{mounted_from}:pull") if mounted_from else (scope,)


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """What a `WWW-Authenticate` header asks for."""

    scheme: str
    """`bearer` or `basic`."""
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenge(header: str) -> Challenge | None:
    """The first Bearer challenge of a header, else its Basic one, else None."""
    found: dict[str, Challenge] = {}
    for match in re.finditer(
        r"\b(bearer|basic)\b((?:\s*,?\s*[a-z_]+\s*=\s*(?:\"[^\"]*\"|[^\s,]+))*)",
        header[:_LONGEST_CHALLENGE],
        re.IGNORECASE,
    ):
        values = {
            key.lower(): quoted or plain
            for key, quoted, plain in re.findall(
                r"([A-Za-z_]+)\s*=\s*(?:\"([^\"]*)\"|([^\s,]+))", match[2]
            )
        }
        scheme = match[1].lower()
        found.setdefault(
            scheme,
            Challenge(
                scheme=scheme,
                realm=values.get("realm", ""),
                service=values.get("service", ""),
                scope=values.get("scope", ""),
            ),
        )
    return found.get("bearer") or found.get("basic")


@dataclass
class _Token:
    value: str
    ends: float


class Authenticator:
    """Answers one registry's challenges; safe for several threads.

    Args:
        host: The registry's name, for messages.
        credentials: Ours for it; empty for anonymous use.
        session: Sends the token requests; must not add credentials of its own.
    """

    def __init__(self, host: str, credentials: Credentials, session: requests.Session) -> None:
        self._host = host
        self._credentials = credentials
        self._session = session
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._tokens: dict[str, _Token] = {}
        self._server = ""
        """The token server that has given one: no later answer may name another."""

    def header(self, scopes: Iterable[str]) -> str:
        """The Authorization header for a request, or nothing before the registry has asked for one."""
        key = " ".join(sorted(scopes))
        with self._lock:
            if self._challenge is None:
                return ""
            if self._challenge.scheme == "basic":
                return self._basic()
            token = self._tokens.get(key)
            if token is None or token.ends < time.monotonic():
                token = self._tokens[key] = self._fetch(self._challenge, key)
            return f"Bearer {token.value}"

    def answer(self, header: str, scopes: Iterable[str], *, used: str) -> bool:
        """Takes in a 401. Returns whether the request is worth repeating.

        Args:
            header: The response's `WWW-Authenticate`.
            scopes: What the request was for.
            used: The Authorization header that was refused.
        """
        challenge = parse_challenge(header)
        if challenge is None:
            return False
        key = " ".join(sorted(scopes))
        with self._lock:
            self._challenge = challenge
            if challenge.scheme == "basic":
                return not used and not self._credentials.is_empty
            token = self._tokens.get(key)
            # Another thread may have renewed it already.
            if token is not None and f"Bearer {token.value}" == used:
                del self._tokens[key]
        return True

    def _basic(self) -> str:
        if self._credentials.is_empty:
            return ""
        made = requests.Request("GET", "http://x/", auth=self._pair()).prepare()
        return str(made.headers["Authorization"])

    def _pair(self) -> tuple[bytes, bytes]:
        # as UTF-8: requests would encode text as Latin-1
        return self._credentials.username.encode(), self._credentials.password.encode()

    def _fetch(self, challenge: Challenge, scope: str) -> _Token:
        """Buys a token, as distribution's token specification says.

        Raises:
            Transient: the server may give one next time.
            PushError: it will not.
        """
        try:
            realm = urlsplit(challenge.realm)
        except ValueError as error:
            raise PushError("the token server's name is no address", where=self._host) from error
        if not is_sealed(challenge.realm):
            raise PushError(
                "the registry names a token server without TLS, which gets no credentials",
                where=self._host,
            )
        if self._server not in ("", realm.netloc):
            raise PushError(
                f"the registry names another token server ({realm.hostname}) than before, "
                "which gets no credentials",
                where=self._host,
            )
        scopes = (scope or challenge.scope).split(" ")
        values: dict[str, Any] = {"service": challenge.service, "scope": scopes}
        try:
            if self._credentials.identity_token:
                values = {
                    **values,
                    "scope": " ".join(scopes),
                    "grant_type": "refresh_token",
                    "client_id": "bake",
                    "refresh_token": self._credentials.identity_token,
                }
                response = self._session.post(
                    challenge.realm,
                    data=values,
                    timeout=_TIMEOUT_S,
                    allow_redirects=False,
                    stream=True,
                )
            else:
                headers = {"Authorization": self._basic()} if self._basic() else {}
                response = self._session.get(
                    challenge.realm,
                    params=values,
                    headers=headers,
                    timeout=_TIMEOUT_S,
                    allow_redirects=False,
                    stream=True,
                )
            read_body(response, limit_s=_TIMEOUT_S[1])
        except requests.exceptions.SSLError as error:
            raise tls_failure(realm.hostname or "", error) from error
        except (requests.RequestException, HTTPException, ValueError) as error:
            raise Transient(
                f"the token server {realm.hostname} does not answer ({type(error).__name__})"
            ) from error
        token = self._read_token(response, realm.hostname or "")
        self._server = realm.netloc
        return token

    def _read_token(self, response: requests.Response, server: str) -> _Token:
        meaning = meaning_of("get token", response.status_code)
        if meaning == "login":
            raise PushError(
                f"the token server {server} refuses "
                + ("anonymous use" if self._credentials.is_empty else "the credentials"),
                where=self._host,
                hint=f"docker login {self._host}",
            )
        if meaning == "again":
            raise Transient(
                f"the token server {server} answers {response.status_code}",
                wait_s=retry_after_s(response),
            )
        try:
            data = response.json() if meaning == "done" else {}
            value = data.get("token") or data["access_token"]
            life_s = float(data.get("expires_in") or _DEFAULT_LIFE_S)
            if not _is_token(value) or math.isnan(life_s):
                raise ValueError
        except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:  # fmt: skip
            raise PushError(
                f"the token server {server} answered {response.status_code} without a token",
                where=self._host,
            ) from error
        return _Token(value=value, ends=time.monotonic() + max(life_s - _SPARE_S, life_s / 2))


def _is_token(value: object) -> bool:
    """Whether a value can stand in a header."""
    return (
        isinstance(value, str)
        and len(value) <= _LONGEST_TOKEN
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )
