"""A client of one registry: requests with authentication, TLS, retries and no surprises.

The protocol is distribution-spec's (github.com/opencontainers/distribution-spec). Uploads are in
`bake.image.registry.upload`; this module sends single requests.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests

from bake import __version__
from bake.errors import PushError
from bake.image.oci.model import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    check_digest,
    sha256_digest,
    skip_bytes,
)
from bake.image.oci.reference import Reference
from bake.image.registry.auth import (
    Authenticator,
    Credentials,
    find_credentials,
    pull_scope,
    push_scope,
)
from bake.image.registry.transport import (
    RETRIED,
    NoNetrc,
    Pauser,
    RegistryOptions,
    Transient,
    TrustingAdapter,
    error_code,
    make_tls_context,
    retry_after,
    tls_failure,
)
from bake.settings import is_sealed

_MANIFEST_TYPES = ", ".join((MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX))
_SMALL_BYTES = 16 << 20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_READ_BYTES = 64 << 10
"""What a cut connection costs at most: a chunk that is not whole is not handed out."""


class RegistryClient:
    """One registry. Safe for several threads.

    Args:
        host: As a docker config names it.
        options: Retries, chunks, TLS.
        credentials: Instead of the docker config's.
    """

    def __init__(
        self,
        host: str,
        *,
        options: RegistryOptions | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.host = host
        self.options = options or RegistryOptions.from_environment()
        self._api_host = Reference(host=host, repository="x").api_host
        self._session = requests.Session()
        self._session.auth = NoNetrc()
        self._session.headers["User-Agent"] = f"bake/{__version__}"
        self._credentials = credentials
        self._auth: Authenticator | None = None
        self._base = ""
        self._lock = threading.Lock()

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    @property
    def base_url(self) -> str:
        """`https://host`; on loopback plain `http://host` where TLS is not spoken there."""
        with self._lock:
            if not self._base:
                self._base = f"{self._find_scheme()}://{self._api_host}"
            return self._base

    @property
    def auth(self) -> Authenticator:
        """Made at the first request, since a credential helper may be slow."""
        with self._lock:
            if self._auth is None:
                credentials = self._credentials or find_credentials(self.host)
                self._auth = Authenticator(self.host, credentials, self._session)
            return self._auth

    def get_manifest(self, reference: Reference) -> tuple[bytes, str]:
        """A manifest's exact bytes and digest.

        Raises:
            PushError: it is not there, no manifest, or not what its digest says.
        """
        found = self._find_manifest(reference)
        if found is None:
            raise PushError("the registry has no such image", where=str(reference))
        if not found.lstrip().startswith(b"{"):
            raise PushError("what answers there is no registry", where=str(reference))
        digest = sha256_digest(found)
        if reference.digest and reference.digest != digest:
            raise PushError("the registry sent another manifest", where=str(reference))
        return found, digest

    def manifest_digest(self, reference: Reference) -> str | None:
        """What a tag points at, or None where there is none."""
        found = self._find_manifest(reference)
        return sha256_digest(found) if found is not None else None

    def _find_manifest(self, reference: Reference) -> bytes | None:
        response = self.request(
            "GET",
            f"/v2/{reference.repository}/manifests/{reference.version}",
            scopes=pull_scope(reference.repository),
            headers={"Accept": _MANIFEST_TYPES},
            expected={200, 404},
        )
        return response.content if response.status_code == 200 else None

    def put_manifest(self, reference: Reference, manifest: bytes, media_type: str) -> None:
        """Makes the reference point at a manifest whose blobs are all there.

        Raises:
            PushError: the registry refuses it, or took it for something else.
        """
        response = self.request(
            "PUT",
            f"/v2/{reference.repository}/manifests/{reference.version}",
            scopes=push_scope(reference.repository),
            headers={"Content-Type": media_type},
            body=manifest,
            expected={200, 201},
        )
        digest = response.headers.get("Docker-Content-Digest", "")
        if digest and digest != sha256_digest(manifest):
            raise PushError("the registry stored another manifest", where=str(reference))

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether a repository has a blob."""
        response = self.request(
            "HEAD",
            f"/v2/{repository}/blobs/{check_digest(digest)}",
            scopes=push_scope(repository),
            expected={200, 404, *_REDIRECTS},
        )
        return response.status_code != 404

    def get_small_blob(self, repository: str, digest: str) -> bytes:
        """A blob that is held in memory: a config or documents, at most 16 MiB."""
        content = b""
        for chunk in self.blob_content(repository, digest).chunks():
            content += chunk
            if len(content) > _SMALL_BYTES:
                raise PushError(f"{digest} is too large to be read", where=self.host)
        if sha256_digest(content) != digest:
            raise PushError(f"{digest} is not what the registry sent", where=self.host)
        return content

    def blob_content(self, repository: str, digest: str) -> RegistryContent:
        """A blob's bytes, fetched when they are read."""
        return RegistryContent(
            host=self.host, repository=repository, digest=check_digest(digest), client=self
        )

    def open_blob(self, repository: str, digest: str, offset_bytes: int) -> requests.Response:
        """The streamed answer to a GET of a blob from an offset (206, or 200 from its start)."""
        headers = {"Accept-Encoding": "identity"}
        if offset_bytes:
            headers["Range"] = f"bytes={offset_bytes}-"
        url = f"/v2/{repository}/blobs/{digest}"
        response = self.request(
            "GET", url, scopes=pull_scope(repository), headers=headers, stream=True,
            expected={200, 206, 404, *_REDIRECTS},
        )  # fmt: skip
        for _ in range(5):
            if response.status_code not in _REDIRECTS:
                break
            response.close()
            url = self._redirect_target(response)
            response = self._fetch_elsewhere(url, headers)
        if response.status_code not in (200, 206):
            response.close()
            raise PushError(
                f"the registry does not give {digest}: {response.status_code}", where=self.host
            )
        return response

    def request(
        self,
        method: str,
        path: str,
        *,
        scopes: Iterable[str],
        expected: set[int],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """Sends a request that may be repeated, until it succeeds or the attempts are used up.

        Args:
            method: HTTP method.
            path: Below the registry's address, or a whole URL of the registry's.
            scopes: What a token must allow.
            expected: Status codes that are an answer; others are errors.
            headers: Added to the request's.
            body: Sent as it is.
            stream: The answer's body is left unread.

        Raises:
            PushError: refused, or not answered in all attempts.
        """
        for pause in self.pauses():
            try:
                return self.send(
                    method, path, scopes=scopes, expected=expected, headers=headers, body=body, stream=stream
                )  # fmt: skip
            except Transient as error:
                pause(error)
        raise AssertionError("pauses() ends by raising")

    def send(
        self,
        method: str,
        path: str,
        *,
        scopes: Iterable[str],
        expected: set[int],
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        stream: bool = False,
    ) -> requests.Response:
        """Sends a request once.

        Raises:
            Transient: it may succeed next time.
            PushError: it will not.
        """
        scopes = tuple(scopes)
        url = path if "://" in path else self.base_url + path
        authorization = self.auth.header(scopes)
        sent = {**(headers or {}), **({"Authorization": authorization} if authorization else {})}
        try:
            response = self._session.request(
                method, url, headers=sent, data=body, stream=stream, allow_redirects=False,
                timeout=(self.options.connect_s, self.options.read_s),
            )  # fmt: skip
        except requests.exceptions.SSLError as error:
            raise tls_failure(self.host, error) from error
        except requests.RequestException as error:
            raise Transient(f"the connection failed ({type(error).__name__})") from error
        if response.status_code in expected:
            return response
        response.close() if stream else None
        raise self._failure(response, scopes=scopes, used=authorization, url=url)

    def pauses(self) -> Iterator[Pauser]:
        """Yields a function that waits between tries and raises PushError after the last one."""
        pauser = Pauser(self.host, self.options)
        while True:
            yield pauser

    def own_url(self, location: str, *, after: str) -> str:
        """The absolute form of a Location of this registry's.

        A proxy that ends TLS often makes registries name `http://`: scheme and port stay ours.

        Raises:
            PushError: it leads to another host, which gets neither our bytes nor our token.
        """
        try:
            absolute = urlsplit(
                urljoin(after if "://" in after else self.base_url + after, location)
            )
        except ValueError as error:
            raise PushError("the registry's Location is no address", where=self.host) from error
        base = urlsplit(self.base_url)
        if not location or absolute.hostname != base.hostname:
            raise PushError(
                f"the registry sent an upload to another host ({absolute.hostname})"
                if location
                else "the registry did not say where an upload goes on (no Location)",
                where=self.host,
            )
        return urlunsplit((base.scheme, base.netloc, absolute.path, absolute.query, ""))

    def _failure(
        self, response: requests.Response, *, scopes: tuple[str, ...], used: str, url: str
    ) -> Exception:
        status = response.status_code
        code = error_code(response)
        shown = f"{status} {code}".strip()
        if status == 401:
            challenge = response.headers.get("WWW-Authenticate", "")
            if self.auth.answer(challenge, scopes, used=used):
                return Transient("the registry refuses the credentials (401)", counts=False)
        if status in (401, 403):
            return PushError(
                f"the registry refuses access ({shown})",
                where=f"{self.host}{urlsplit(url).path}",
                hint=f"docker login {self.host}, with an account that may push there",
            )
        if status in RETRIED:
            return Transient(f"the registry answers {shown}", wait_s=retry_after(response))
        if status == 507:
            return PushError(f"the registry's disk is full ({shown})", where=self.host)
        return PushError(
            f"the registry refuses a request ({shown})", where=f"{self.host}{urlsplit(url).path}"
        )

    def _find_scheme(self) -> str:
        """TLS everywhere but on loopback, where a plain server answers a plain request properly."""
        if is_sealed(f"http://{self._api_host}"):
            try:
                probe = self._session.get(
                    f"http://{self._api_host}/v2/", timeout=self.options.connect_s, allow_redirects=False
                )  # fmt: skip
                if probe.status_code != 400:
                    return "http"
            except requests.exceptions.ConnectTimeout:
                return "http"
            except requests.RequestException as error:
                if "refused" in str(error):
                    return "http"
        context = make_tls_context(self.host, self.options)
        self._session.mount("https://", TrustingAdapter(context, self.options.parallel + 2))
        return "https"

    def _redirect_target(self, response: requests.Response) -> str:
        target = urljoin(response.url, response.headers.get("Location", ""))
        if not is_sealed(target):
            raise PushError("the registry redirects to an address without TLS", where=self.host)
        return target

    def _fetch_elsewhere(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """A redirected GET: storage hosts get no Authorization."""
        try:
            return self._session.get(
                url, headers=dict(headers), stream=True, allow_redirects=False,
                timeout=(self.options.connect_s, self.options.read_s),
            )  # fmt: skip
        except requests.RequestException as error:
            raise PushError(
                f"the registry's storage does not answer ({type(error).__name__})", where=self.host
            ) from error


@dataclass(frozen=True, kw_only=True)
class RegistryContent:
    """A blob in a registry; a cut connection is taken up where it broke."""

    host: str
    repository: str
    digest: str
    client: RegistryClient | None = None

    def chunks(self, offset_bytes: int = 0) -> Iterator[bytes]:
        """The blob's bytes from an offset.

        Raises:
            PushError: the registry does not give them.
        """
        client = self.client or RegistryClient(self.host)
        position = offset_bytes
        for pause in client.pauses():
            response = client.open_blob(self.repository, self.digest, position)
            try:
                body: Iterator[bytes] = response.iter_content(_READ_BYTES)
                if response.status_code == 200 and position:
                    body = skip_bytes(body, position)
                for chunk in body:
                    position += len(chunk)
                    pause.progressed()
                    yield chunk
                return
            except requests.RequestException as error:
                pause(Transient(f"a download broke ({type(error).__name__})"))
            finally:
                response.close()

    def describe(self) -> dict[str, Any]:
        return {
            "from": "registry",
            "host": self.host,
            "repository": self.repository,
            "digest": self.digest,
        }
