"""A registry in memory, spoken to without sockets: whole and strict, except for the answers that a test makes.

It takes an upload's pieces in order only, an image's manifest only when it has all blobs, and nothing
without a token. Requests for other hosts are kept, to be looked at.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from bake.image.registry.answers import Operation
from bake.image.registry.client import RegistryClient
from bake.image.registry.credentials import Credentials
from bake.image.registry.transport import RegistryOptions
from runtime.retry import Retry

HOST = "registry.example"
TOKEN_HOST = "auth.registry.example"
CREDENTIALS = Credentials(username="baker", password="correct horse")
_BASIC = "Basic " + base64.b64encode(b"baker:correct horse").decode()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: type[Exception] | None = None
    """Is raised in place of an answer."""


Rule = Callable[[Operation, requests.PreparedRequest], Reply | None]


class MemoryRegistry(HTTPAdapter):
    """Answers a client's session. `rule` is asked first."""

    def __init__(self, rule: Rule = lambda *_: None) -> None:
        super().__init__()
        self.rule = rule
        self.blobs: dict[str, dict[str, bytes]] = {}
        """By repository and digest."""
        self.tags: dict[str, bytes] = {}
        """Manifests by `repository:version`."""
        self.lists_referrers = True
        """Distribution-spec 1.1; without it, who attaches something keeps the list in a tag."""
        self.uploads: dict[str, bytes] = {}
        self.storage: list[Reply] = []
        """What any other host answers, one after the other."""
        self.elsewhere: list[str] = []
        """The addresses of other hosts that were asked."""
        self.asked: list[Operation] = []
        self.leaks: list[str] = []
        """Requests with credentials for hosts that are neither the registry nor its token server."""
        self._numbers = itertools.count()

    def client(self, **options: Any) -> RegistryClient:
        """A client that has nobody else to speak to."""
        quick = {"retry": Retry(attempts=4, backoff_s=0.0), "parallel": 1, **options}
        client = RegistryClient(HOST, options=RegistryOptions(**quick), credentials=CREDENTIALS)
        client._base = f"https://{HOST}"
        client._session.trust_env = False
        for scheme in ("https://", "http://"):
            client._session.mount(scheme, self)
        return client

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        if isinstance(request.body, str):
            request.body = request.body.encode()
        sent: Any = request.body
        if sent is not None and not isinstance(sent, bytes):
            request.body = b"".join(sent)
        parts = urlsplit(str(request.url))
        authorization = request.headers.get("Authorization", "")
        if parts.hostname not in (HOST, TOKEN_HOST):
            self.elsewhere.append(str(request.url))
            if authorization or b"correct" in (request.body or b""):
                self.leaks.append(str(request.url))
            return self._built(request, self.storage.pop(0) if self.storage else Reply(status=404))
        operation = operation_of(request)
        self.asked.append(operation)
        reply = self.rule(operation, request)
        if reply is None:
            reply = self._token(authorization) if parts.hostname == TOKEN_HOST else None
        if reply is None and authorization != "Bearer a-token":
            realm = f'Bearer realm="https://{TOKEN_HOST}/token",service="x"'
            reply = Reply(status=401, headers={"WWW-Authenticate": realm})
        return self._built(request, reply or self._answer(operation, request))

    def _token(self, authorization: str) -> Reply:
        if authorization != _BASIC:
            return Reply(status=401)
        return Reply(status=200, body=b'{"token":"a-token","expires_in":300}')

    def _built(self, request: requests.PreparedRequest, reply: Reply) -> requests.Response:
        if reply.error is not None:
            raise reply.error("it broke")
        raw = urllib3.HTTPResponse(
            body=io.BytesIO(b"" if request.method == "HEAD" else reply.body),
            headers=urllib3.HTTPHeaderDict(reply.headers),
            status=reply.status,
            preload_content=False,
            request_method=request.method,
        )
        return self.build_response(request, raw)

    def _answer(self, operation: Operation, request: requests.PreparedRequest) -> Reply:
        parts = urlsplit(str(request.url))
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if operation == "list referrers":
            return self._referrers(parts.path)
        found = re.fullmatch(r"/v2/(.+)/(?:blobs|manifests)/(.*)", parts.path)
        if not found:
            return Reply(status=404)
        repository, rest = found[1], found[2]
        blobs = self.blobs.setdefault(repository, {})
        body = request.body if isinstance(request.body, bytes) else b""
        if operation in ("find blob", "get blob"):
            return self._blob(blobs, rest, request.headers.get("Range", ""))
        if operation == "get manifest":
            manifest = self.tags.get(f"{repository}:{rest}") or self._by_digest(repository, rest)
            return Reply(status=200, body=manifest) if manifest else Reply(status=404)
        if operation == "put manifest":
            return self._put_manifest(f"{repository}:{rest}", blobs, body)
        if operation == "mount" and query["mount"] in self.blobs.get(query["from"], {}):
            blobs[query["mount"]] = self.blobs[query["from"]][query["mount"]]
            return Reply(status=201)
        if operation in ("open upload", "mount"):
            name = f"upload-{next(self._numbers)}"
            self.uploads[name] = b""
            return Reply(status=202, headers={"Location": f"/v2/{repository}/blobs/uploads/{name}"})
        return self._upload(operation, request, blobs, rest.removeprefix("uploads/"), query)

    def _blob(self, blobs: dict[str, bytes], digest: str, asked: str) -> Reply:
        if digest not in blobs:
            return Reply(status=404)
        start = int(asked[6:-1]) if asked else 0
        return Reply(status=206 if asked else 200, body=blobs[digest][start:])

    def _put_manifest(self, name: str, blobs: dict[str, bytes], body: bytes) -> Reply:
        manifest = json.loads(body)
        named = [manifest["config"], *manifest["layers"]] if "config" in manifest else []
        if any(each["digest"] not in blobs for each in named):
            return Reply(status=400, body=b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}')
        self.tags[name] = body
        subject = manifest.get("subject") if self.lists_referrers else None
        return Reply(status=201, headers={"OCI-Subject": subject["digest"]} if subject else {})

    def _by_digest(self, repository: str, digest: str) -> bytes | None:
        for name, body in self.tags.items():
            is_it = f"sha256:{hashlib.sha256(body).hexdigest()}" == digest
            if is_it and name.startswith(f"{repository}:"):
                return body
        return None

    def _referrers(self, path: str) -> Reply:
        found = re.fullmatch(r"/v2/(.+)/referrers/(sha256:.*)", path)
        if not self.lists_referrers or not found:
            return Reply(status=404)
        listed = []
        for name, body in self.tags.items():
            manifest, (repository, _, digest) = json.loads(body), name.partition(":")
            about = manifest.get("subject", {}).get("digest")
            if repository == found[1] and digest.startswith("sha256:") and about == found[2]:
                entry = {key: manifest[key] for key in ("mediaType", "artifactType", "annotations")}
                listed.append({**entry, "digest": digest, "size": len(body)})
        return Reply(status=200, body=json.dumps({"manifests": listed}).encode())

    def _upload(
        self,
        operation: Operation,
        request: requests.PreparedRequest,
        blobs: dict[str, bytes],
        name: str,
        query: dict[str, str],
    ) -> Reply:
        if name not in self.uploads:
            return Reply(status=404)
        body = request.body if isinstance(request.body, bytes) else b""
        location = {"Location": urlsplit(str(request.url)).path}
        if operation == "send piece":
            start = request.headers.get("Content-Range", "0-").partition("-")[0]
            if int(start) != len(self.uploads[name]):
                return Reply(status=416)
            self.uploads[name] += body
        if operation == "close upload":
            data = self.uploads.pop(name)
            if f"sha256:{hashlib.sha256(data).hexdigest()}" != query["digest"]:
                return Reply(status=400, body=b'{"errors":[{"code":"DIGEST_INVALID"}]}')
            blobs[query["digest"]] = data
            return Reply(status=201)
        if operation == "give up upload":
            del self.uploads[name]
            return Reply(status=204)
        arrived = {"Range": f"0-{max(0, len(self.uploads[name]) - 1)}"}
        status = 202 if operation == "send piece" else 204
        return Reply(status=status, headers={**location, **arrived})


def operation_of(request: requests.PreparedRequest) -> Operation:
    """Which operation a request is."""
    parts = urlsplit(str(request.url))
    if parts.hostname == TOKEN_HOST:
        return "get token"
    if "/referrers/" in parts.path:
        return "list referrers"
    if "/manifests/" in parts.path:
        return "put manifest" if request.method == "PUT" else "get manifest"
    if request.method == "HEAD":
        return "find blob"
    if request.method == "GET":
        return "ask upload" if "/blobs/uploads/" in parts.path else "get blob"
    if request.method == "POST":
        return "mount" if "mount=" in parts.query else "open upload"
    by_method: dict[str, Operation] = {
        "PATCH": "send piece", "PUT": "close upload", "DELETE": "give up upload",
    }  # fmt: skip
    return by_method[str(request.method)]
