"""A stand-in for Hugging Face's hub: resolve, its headers and error codes, and the model API."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from tests.standins.http_server import Answer, Request, Server, html_answer, json_answer
from tests.standins.storage import Blob, Storage

Trouble = Literal[
    "none",
    "repo",
    "gated",
    "private",
    "forbidden",
    "disabled",
    "rate",
    "rate_long",
    "maintenance",
    "error",
    "renamed",
    "no_commit",
]
_KINDS = ("datasets/", "spaces/")
HF_TOKEN = "hf_goodtoken0123456789abcdef"


@dataclass(kw_only=True)
class Revision:
    """A commit's files."""

    commit: str
    files: dict[str, Blob] = field(default_factory=dict)
    plain: set[str] = field(default_factory=set)
    """Files that are in git itself: their ETag is a blob's SHA-1."""
    changed_at: str = "2024-05-05T10:00:00.000Z"


@dataclass(kw_only=True)
class Repository:
    """A repository, of models unless its name says otherwise (`datasets/a/b`); `main` is its last revision."""

    name: str
    revisions: list[Revision] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=dict)
    trouble: Trouble = "none"
    renamed_to: str = ""


@dataclass(kw_only=True)
class HuggingFace:
    """The hub."""

    storage: Storage
    repositories: dict[str, Repository] = field(default_factory=dict)
    loud: bool = False
    port: int = 0
    server: Server = field(init=False)

    def __post_init__(self) -> None:
        self.server = Server("huggingface", self.answer, loud=self.loud, port=self.port)

    def add(self, repository: Repository) -> Repository:
        self.repositories[repository.name] = repository
        for revision in repository.revisions:
            for path, blob in revision.files.items():
                self.storage.blobs[_key(repository, revision, path)] = blob
        return repository

    def answer(self, request: Request) -> Answer:
        parts = [unquote(part) for part in request.path.split("/") if part]
        kind = "" if parts[:2] == ["api", "models"] else "/".join([*parts[1:2], ""])
        if parts[:1] == ["api"] and kind in ("", *_KINDS) and len(parts) >= 4:
            repository = self.repositories.get(kind + "/".join(parts[2:4]))
            if repository is None or repository.trouble in ("repo", "private"):
                return _error(401, "RepoNotFound")
            if repository.trouble == "renamed":
                return _trouble(repository, request) or _error(500, "")
            revision = _revision(repository, parts[5] if len(parts) > 5 else "main")
            if revision is None:
                return _error(404, "RevisionNotFound")
            return json_answer(
                200,
                {
                    "id": repository.name,
                    "sha": revision.commit,
                    "lastModified": revision.changed_at,
                    "cardData": repository.card,
                },
            )
        name = 3 if request.path.startswith(tuple(f"/{each}" for each in _KINDS)) else 2
        if len(parts) >= name + 3 and parts[name] == "resolve":
            path = "/".join(parts[name + 2 :])
            return self._resolve(request, "/".join(parts[:name]), parts[name + 1], path)
        return html_answer(404, "404")

    def _resolve(self, request: Request, name: str, revision_name: str, path: str) -> Answer:
        repository = self.repositories.get(name)
        if repository is None:
            return _error(401, "RepoNotFound")
        trouble = _trouble(repository, request)
        if trouble is not None:
            return trouble
        revision = _revision(repository, revision_name)
        if revision is None:
            return _error(404, "RevisionNotFound")
        blob = revision.files.get(path)
        if blob is None:
            return _error(404, "EntryNotFound")
        assert blob.data is not None
        headers = {} if repository.trouble == "no_commit" else {"X-Repo-Commit": revision.commit}
        if path in revision.plain:
            sha1 = hashlib.sha1(b"blob %d\0" % len(blob.data) + blob.data).hexdigest()
            headers |= {"ETag": f'"{sha1}"', "Content-Type": "application/octet-stream"}
            return Answer(status=200, headers=headers, body=blob.data)
        location = self.storage.sign(_key(repository, revision, path), "cdn")
        headers |= {
            "Location": location,
            "X-Linked-Etag": f'"{hashlib.sha256(blob.data).hexdigest()}"',
            "X-Linked-Size": str(len(blob.data)),
            "ETag": 'W/"something-else"',
        }
        return Answer(status=302, headers=headers)


def _trouble(repository: Repository, request: Request) -> Answer | None:
    trouble = repository.trouble
    known = request.token == HF_TOKEN
    if trouble == "private":
        return None if known else _error(401, "RepoNotFound")
    if trouble == "gated":
        return None if known else _error(401 if request.token is None else 403, "GatedRepo")
    if trouble == "renamed":
        target = request.target.replace(repository.name, repository.renamed_to, 1)
        return Answer(status=307, headers={"Location": target})
    return {
        "none": None,
        "no_commit": None,
        "repo": _error(401, ""),
        "forbidden": json_answer(403, {"error": "Forbidden"}),
        "disabled": Answer(
            status=403, headers={"X-Error-Message": "Access to this resource is disabled."}
        ),
        "rate": json_answer(429, {"error": "slow down"}, RateLimit='"resolvers";r=0;t=0'),
        "rate_long": json_answer(429, {"error": "slow down"}, RateLimit='"resolvers";r=0;t=290'),
        "maintenance": html_answer(503, "We are down"),
        "error": json_answer(500, {"error": "Internal"}),
    }[trouble]


def _revision(repository: Repository, name: str) -> Revision | None:
    if name == "main":
        return repository.revisions[-1] if repository.revisions else None
    return next((each for each in repository.revisions if each.commit == name), None)


def _key(repository: Repository, revision: Revision, path: str) -> str:
    return f"{repository.name}/{revision.commit[:8]}/{path}".replace("/", "--")


def _error(status: int, code: str) -> Answer:
    headers = {"X-Error-Code": code} if code else {}
    return json_answer(status, {"error": code or "Unauthorized"}, **headers)
