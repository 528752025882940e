"""The forms in which a manifest may name weights, parsed without touching the network.

CivitAI's forms, AIR among them, follow its own parser: case-insensitive, with the `urn:`, `air:`,
ecosystem and type parts optional. The ecosystem is never an identity (Illustrious is `sdxl`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

Provider = Literal["civitai", "huggingface", "https", "file"]

_CIVITAI_HOSTS = {"civitai.com", "www.civitai.com", "civitai.red", "www.civitai.red"}
_HF_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
_WANTED = ("type", "format", "size", "fp")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_SECRETS = {"token", "access_token", "api_key", "apikey"}
_CIVITAI = re.compile(r"^civitai:(?P<version>\d{1,18})(?:\+(?P<file>\d{1,18}))?$", re.IGNORECASE)
_AIR = re.compile(
    r"^(?:urn:)?(?:air:)?(?:[a-z0-9_-]+:)?(?:[a-z0-9_-]+:)?civitai:(?P<model>\d{1,18})"
    r"(?:@(?P<version>\d{1,18}))?(?:\+(?P<file>\d{1,18}))?(?P<format>\.[a-z]+)?$",
    re.IGNORECASE,
)
_COMMIT = re.compile(r"[0-9A-Fa-f]{40}")
_NUMBER = re.compile(r"\d{1,18}")
_HF_REPO = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


class SourceFormError(ValueError):
    """A source text is of no known form; the message says which form was expected."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where weights come from, as far as the text alone tells."""

    provider: Provider
    version_id: int | None = None
    """CivitAI's model version."""
    model_id: int | None = None
    file_id: int | None = None
    repository: str | None = None
    """Hugging Face `owner/name`."""
    revision: str | None = None
    path: str | None = None
    """The file in the repository, or the local file."""
    url: str | None = None
    wanted: tuple[tuple[str, str], ...] = ()
    """What a pasted CivitAI download address asks for (type, format, size, fp), to choose a file by."""


def parse_source(text: str) -> Source:
    """Parses one source. Raises SourceFormError with the expected form."""
    stripped = text.strip()
    scheme = stripped.split(":", 1)[0].lower()
    if scheme == "file":
        return _parse_file(stripped)
    if scheme == "hf":
        return _parse_hf(stripped)
    if scheme in ("http", "https"):
        return _parse_url(stripped)
    match = _CIVITAI.match(stripped)
    if match:
        return _civitai(version=match["version"], file=match["file"])
    match = _AIR.match(stripped)
    if match:
        if match["format"]:
            file = f"+{match['file']}" if match["file"] else ""
            raise SourceFormError(
                f"the format {match['format']} is glued to the id; "
                f"write civitai:{match['version'] or match['model']}{file}"
            )
        if not match["version"]:
            raise SourceFormError(
                "an AIR pins a model only with its version: "
                f"urn:air:sdxl:checkpoint:civitai:{match['model']}@VERSION"
            )
        return _civitai(version=match["version"], file=match["file"], model=match["model"])
    if stripped.isdecimal():
        raise SourceFormError(f"a bare number is no source; did you mean civitai:{stripped}?")
    raise SourceFormError(
        "not a known source; expected civitai:VERSION, an AIR (urn:air:…), "
        "hf://owner/repo@revision/file, https://… or file:path"
    )


def _civitai(
    *,
    version: str,
    file: str | None = None,
    model: str | None = None,
    wanted: tuple[tuple[str, str], ...] = (),
) -> Source:
    return Source(
        wanted=wanted,
        provider="civitai",
        version_id=int(version),
        file_id=int(file) if file else None,
        model_id=int(model) if model else None,
    )


def _parse_file(text: str) -> Source:
    path = text[len("file:") :]
    if path.startswith("//"):
        path = unquote(path[2:])
        if not path.startswith("/"):
            raise SourceFormError(
                "file:// takes an absolute path (file:///…); a relative one is file:path"
            )
    if not path:
        raise SourceFormError("file: needs a path, relative to the manifest")
    return Source(provider="file", path=path)


def _parse_hf(text: str) -> Source:
    expected = "expected hf://owner/repo@revision/path/to/file.safetensors"
    parts = text[len("hf:") :].removeprefix("//").split("/", 2)
    if len(parts) < 3 or not parts[2]:
        raise SourceFormError(f"the file is missing; {expected}")
    owner, name, path = parts
    name, _, revision = name.partition("@")
    if revision == "refs" and path.count("/") >= 2:  # as huggingface_hub: refs/pr/N, refs/convert/X
        kind, number, path = path.split("/", 2)
        revision = f"refs/{kind}/{number}"
    if not _HF_REPO.match(f"{owner}/{name}"):
        raise SourceFormError(f"{owner}/{name} is no Hugging Face repository; {expected}")
    return _hf(f"{owner}/{name}", unquote(revision), path)


def _hf(repository: str, revision: str, path: str) -> Source:
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise SourceFormError(f"{path} is no file of a repository")
    if _COMMIT.fullmatch(revision):
        revision = revision.lower()
    return Source(
        provider="huggingface", repository=repository, revision=revision or None, path=path
    )


def _parse_url(text: str) -> Source:
    try:
        url = urlsplit(text)
        host = (url.hostname or "").lower()
    except ValueError:
        raise SourceFormError("not a valid URL") from None
    if not host:
        raise SourceFormError("the URL has no host")
    if url.username is not None or url.password is not None:
        raise SourceFormError(
            "a URL with a user or password in it would leak; put the token into the environment"
        )
    if _SECRETS & {name.lower() for name in parse_qs(url.query, keep_blank_values=True)}:
        raise SourceFormError(
            "the URL holds a token; take ?token=… out and set CIVITAI_TOKEN instead"
        )
    if url.scheme == "http" and host not in _LOOPBACK:
        raise SourceFormError("http:// is not safe for weights; use https://")
    if host in _CIVITAI_HOSTS:
        return _parse_civitai_url(url.path, parse_qs(url.query))
    if host in _HF_HOSTS:
        return _parse_hf_url(url.path)
    return Source(provider="https", url=text)


def _parse_civitai_url(path: str, query: dict[str, list[str]]) -> Source:
    match = re.match(r"^/api/download/models/(\d{1,18})/?$", path)
    if match:
        file = query.get("fileId", [""])[0]
        if _NUMBER.fullmatch(file):
            return _civitai(version=match[1], file=file)
        wanted = tuple((name, query[name][0]) for name in _WANTED if name in query)
        return _civitai(version=match[1], wanted=wanted)
    match = re.match(r"^/(?:api/v1/)?model-versions/(\d{1,18})/?$", path)
    if match:
        return _civitai(version=match[1])
    match = re.match(r"^/models/(\d{1,18})(?:/.*)?$", path)
    version = query.get("modelVersionId", [""])[0]
    if match and _NUMBER.fullmatch(version):
        return _civitai(version=version, model=match[1])
    if match:
        raise SourceFormError(
            "this page names a model, not a version; choose the version on the page, "
            f"so that the address ends in /models/{match[1]}?modelVersionId=…"
        )
    raise SourceFormError("this CivitAI address names no model version; expected civitai:VERSION")


def _parse_hf_url(path: str) -> Source:
    match = re.match(r"^/([^/]+/[^/]+)/(?:resolve|blob|raw)/(refs/[^/]+/[^/]+|[^/]+)/(.+)$", path)
    if not match:
        raise SourceFormError(
            "this Hugging Face address names no file; expected hf://owner/repo@revision/path/to/file"
        )
    # Taken apart before it is decoded: a revision's own slashes are %2F in an address.
    return _hf(match[1], unquote(match[2]), unquote(match[3]))
