"""A client of one registry: requests with authentication, TLS, retries and no surprises.

The protocol is distribution-spec's (github.com/opencontainers/distribution-spec). Uploads are in
`bake.image.registry.upload`; this module sends single requests.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import requests
from urllib3.exceptions import HTTPError

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
from bake.image.registry.address import find_scheme, is_same_origin, redirect_target
from bake.image.registry.answers import (
    Operation,
    meaning_of,
    refusal_of,
    shown_status,
    why_refused,
)
from bake.image.registry.auth import Authenticator, pull_scope, push_scope
from bake.image.registry.credentials import Credentials, find_credentials
from bake.image.registry.transport import (
    NoNetrc,
    Pauser,
    RegistryOptions,
    Transient,
    TrustingAdapter,
    Unauthorized,
    make_tls_context,
    read_body,
    tls_failure,
)
from runtime.files.answers import retry_after_s
from runtime.files.http import Session

_MANIFEST_TYPES = ", ".join((MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX))
_SMALL_BYTES = 16 << 20
_MOST_REDIRECTS = 6
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
        self._session = Session()
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
                scheme = find_scheme(self._session, self._api_host, self.options.connect_s)
                if scheme == "https":
                    context = make_tls_context(self.host, self.options)
                    adapter = TrustingAdapter(context, self.options.parallel + 2)
                    self._session.mount("https://", adapter)
                self._base = f"{scheme}://{self._api_host}"
            return self._base

    @property
    def auth(self) -> Authenticator:
        """Made at the first request, as a credential helper may be slow."""
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
        path = f"/v2/{reference.repository}/manifests/{reference.version}"
        headers = {"Accept": _MANIFEST_TYPES}
        pause = Pauser(self.host, self.options.retry)
        while True:
            try:
                response = self._get("get manifest", path, reference.repository, headers)
            except Transient as error:
                pause(error)
                continue
            is_there = meaning_of("get manifest", response.status_code) == "done"
            return response.content if is_there else None

    def put_manifest(self, reference: Reference, manifest: bytes, media_type: str) -> bool:
        """Makes the reference point at a manifest whose blobs are all there.

        Returns:
            Whether the registry has said that it stored this very manifest; else it is to be asked.

        Raises:
            PushError: the registry refuses it, or took it for something else.
        """
        response = self.request(
            "put manifest",
            "PUT",
            f"/v2/{reference.repository}/manifests/{reference.version}",
            scopes=push_scope(reference.repository),
            headers={"Content-Type": media_type},
            body=manifest,
        )
        said = response.headers.get("Docker-Content-Digest", "").strip()
        if said.startswith("sha256:") and said != sha256_digest(manifest):
            raise PushError("the registry stored another manifest", where=str(reference))
        return said == sha256_digest(manifest)

    def has_blob(self, repository: str, digest: str, *, pauser: Pauser | None = None) -> bool:
        """Whether a repository has a blob; tries are counted by `pauser` where there is one already."""
        response = self.request(
            "find blob",
            "HEAD",
            f"/v2/{repository}/blobs/{check_digest(digest)}",
            scopes=push_scope(repository),
            pauser=pauser,
        )
        return meaning_of("find blob", response.status_code) == "done"

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
        check_digest(digest)
        return RegistryContent(host=self.host, repository=repository, digest=digest, client=self)

    def open_blob(self, repository: str, digest: str, offset_bytes: int) -> requests.Response:
        """The streamed answer to a GET of a blob from an offset (206, or 200 from its start).

        Raises:
            Transient: it may be had next time.
            PushError: it may not.
        """
        plain = {"Accept-Encoding": "identity"}
        headers = {**plain, "Range": f"bytes={offset_bytes}-"} if offset_bytes else plain
        path = f"/v2/{repository}/blobs/{digest}"
        response = self._get("get blob", path, repository, headers, stream=True)
        if meaning_of("get blob", response.status_code) == "otherwise":
            response.close()
            response = self._get("get blob", path, repository, plain, stream=True)
        if response.status_code not in (200, 206):
            response.close()
            raise PushError(
                f"the registry does not give {digest}: {response.status_code}", where=self.host
            )
        return response

    def _get(
        self,
        operation: Operation,
        path: str,
        repository: str,
        headers: Mapping[str, str],
        *,
        stream: bool = False,
    ) -> requests.Response:
        """A GET, once, that follows redirects: what is not ours gets no Authorization."""
        url = path
        for _ in range(_MOST_REDIRECTS):
            is_ours = url == path or is_same_origin(url, self.base_url)
            scopes = pull_scope(repository) if is_ours else None
            response = self.send(
                operation, "GET", url, scopes=scopes, headers=headers, stream=stream
            )
            if meaning_of(operation, response.status_code) != "elsewhere":
                return response
            response.close()
            url = redirect_target(response, host=self.host)
        raise PushError("the registry redirects in circles", where=self.host)

    def request(
        self,
        operation: Operation,
        method: str,
        path: str,
        *,
        scopes: Iterable[str],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        pauser: Pauser | None = None,
    ) -> requests.Response:
        """Sends a request that may be repeated, until it is answered or the attempts are used up.

        Args:
            operation: What an answer means is looked up by it.
            method: HTTP method.
            path: Below the registry's address, or a whole URL of the registry's.
            scopes: What a token must allow.
            headers: Added to the request's.
            body: Sent as it is.
            pauser: Counts the tries with those of the undertaking that the request is a part of.

        Raises:
            PushError: refused, or not answered in all attempts.
        """
        scopes = tuple(scopes)
        pause = pauser or Pauser(self.host, self.options.retry)
        while True:
            try:
                return self.send(operation, method, path, scopes=scopes, headers=headers, body=body)
            except Transient as error:
                pause(error)

    def send(
        self,
        operation: Operation,
        method: str,
        path: str,
        *,
        scopes: Iterable[str] | None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        stream: bool = False,
    ) -> requests.Response:
        """Sends a request once.

        Args as in `request`, but for:
            scopes: None for another host, which gets no credentials.
            body: Also an iterable with a length.
            stream: An answer's body is left unread.

        Returns:
            An answer that is neither a refusal nor one that may pass; its meaning is the table's.

        Raises:
            Transient: it may succeed next time.
            PushError: it will not.
        """
        scopes = None if scopes is None else tuple(scopes)
        authorization = self.auth.header(scopes) if scopes is not None else ""
        url = path if "://" in path else self.base_url + path
        sent = {**(headers or {}), **({"Authorization": authorization} if authorization else {})}
        try:
            response = self._session.request(
                method, url, headers=sent, data=body, stream=True, allow_redirects=False,
                timeout=(self.options.connect_s, self.options.read_s),
            )  # fmt: skip
        except requests.exceptions.SSLError as error:
            raise tls_failure(self.host, error) from error
        except (requests.RequestException, HTTPError, HTTPException, ValueError) as error:
            raise Transient(f"the connection failed ({type(error).__name__})") from error
        meaning = meaning_of(operation, response.status_code)
        if stream and meaning == "done":
            return response
        try:
            read_body(response, limit_s=self.options.read_s)
        except requests.RequestException as error:
            if (
                operation in ("get manifest", "list referrers") and meaning == "done"
            ):  # else not needed
                raise Transient(f"an answer broke ({type(error).__name__})") from error
        if response.status_code == 401 and scopes is not None:
            challenge = response.headers.get("WWW-Authenticate", "")
            if self.auth.answer(challenge, scopes, used=authorization):
                raise Unauthorized(
                    "the registry refuses the credentials (401)",
                    had_token=bool(authorization),
                    failure=refusal_of(response, url, host=self.host),
                )
        if meaning == "again":
            why = why_refused(response)
            what, wait_s = f"the registry answers {shown_status(response)}", retry_after_s(response)
            raise Transient(what, wait_s=wait_s, hint=why and why.hint)
        if meaning in ("login", "refused"):
            raise refusal_of(response, url, host=self.host)
        return response


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
        pause = Pauser(client.host, client.options.retry)
        while True:
            try:
                response = client.open_blob(self.repository, self.digest, position)
            except Transient as error:
                pause(error)
                continue
            try:
                body: Iterator[bytes] = response.iter_content(_READ_BYTES)
                if response.status_code == 200 and position:
                    body = skip_bytes(body, position)
                for chunk in body:
                    position += len(chunk)
                    pause.progressed()
                    yield chunk
                return
            except (requests.RequestException, HTTPError) as error:
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
