"""The forms in which people name weights, parsed without touching the network, and the hosts of two sites.

One place for `bake` and the worker. CivitAI's forms, AIR among them, follow its own parser:
case-insensitive, with the `urn:`, `air:`, ecosystem and type parts optional. The ecosystem is never an
identity (Illustrious is `sdxl`). Every host of a site means the same files, so an address leads to one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit

from runtime.files.errors import WeightsError
from runtime.files.policy import is_loopback_host

Provider = Literal["civitai", "huggingface", "https", "file"]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A site and its other names."""

    url: str
    hosts: tuple[str, ...]
    """Any of them in an address means the site."""
    storage: tuple[str, ...]
    """Where it redirects to; a name that begins with a dot stands for all below it. Good for a redirect
    only, since anybody may have a bucket there."""


CIVITAI = Site(
    url="https://civitai.com",
    hosts=tuple(f"{www}civitai.{each}" for each in ("com", "green", "red") for www in ("", "www.")),
    storage=(
        *(f"{dot}civitai.{each}" for each in ("com", "green", "red") for dot in ("", ".")),
        ".r2.cloudflarestorage.com",
        ".backblazeb2.com",
    ),
)
HUGGING_FACE = Site(
    url="https://huggingface.co",
    hosts=("huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co"),
    storage=("huggingface.co", ".huggingface.co", "hf.co", ".hf.co"),
)
STORAGE_HOSTS = (*CIVITAI.storage, *HUGGING_FACE.storage)

FORMS = "civitai:VERSION, an AIR (urn:air:…), hf://owner/repo@revision/file, https://…"
_WANTED = ("type", "format", "size", "fp")
_CIVITAI = re.compile(r"^civitai:(?P<version>\d{1,18})(?:\+(?P<file>\d{1,18}))?$", re.IGNORECASE)
_AIR = re.compile(
    r"^(?:urn:)?(?:air:)?(?:[a-z0-9_-]+:)?(?:[a-z0-9_-]+:)?civitai:(?P<model>\d{1,18})"
    r"(?:@(?P<version>\d{1,18}))?(?:\+(?P<file>\d{1,18}))?(?P<format>\.[a-z]+)?$",
    re.IGNORECASE,
)
_COMMIT = re.compile(r"[0-9A-Fa-f]{40}")
_NUMBER = re.compile(r"\d{1,18}")
_HF_REPO = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_HF_KINDS = ("datasets/", "spaces/")
"""What stands before the name of a repository that is no model's; weights lie there as well."""
_HF_PAGE = re.compile(
    r"^/((?:datasets/|spaces/)?(?:[^/]+/)?[^/]+)/(?:resolve|blob|raw)/(refs/[^/]+/[^/]+|[^/]+)/(.+)$"
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where weights come from, as far as the text alone tells."""

    provider: Provider
    """`file` is `bake`'s own; nothing here gives it."""
    version_id: int | None = None
    """CivitAI's model version."""
    model_id: int | None = None
    file_id: int | None = None
    repository: str | None = None
    """Hugging Face `owner/name`; of another kind than models `datasets/owner/name` or `spaces/owner/name`."""
    revision: str | None = None
    path: str | None = None
    """The file in the repository, or the local file."""
    url: str | None = None
    wanted: tuple[tuple[str, str], ...] = ()
    """What a pasted CivitAI download address asks for (type, format, size, fp), to choose a file by."""


def resolve(text: str, *, civitai_url: str = CIVITAI.url, hub_url: str = HUGGING_FACE.url) -> str:
    """The address to fetch what `text` names from; what a worker does with a LoRA's `url` or `civitai`.

    Args:
        text: A CivitAI version's number, AIR, `civitai:`, page or download address; `hf://…`, a Hugging
            Face page (`/blob/`) or file (`/resolve/`); any other https address, which stays as it is.
        civitai_url: CivitAI, or a mirror of it.
        hub_url: Hugging Face, or a mirror of it.

    Raises:
        WeightsError: kind `address` or `form`, with the form that was expected; never with the text.
    """
    text = text.strip()
    source = parse_address(f"civitai:{text}" if _NUMBER.fullmatch(text) else text)
    if source.provider == "civitai":
        query = parse_qs(urlsplit(text).query) if "?" in text else {}
        # A token in the address is the caller's own; it is sent on, and shown nowhere.
        more = (*source.wanted, *(("token", each) for each in query.get("token", [])[:1]))
        return civitai_file(civitai_url, source.version_id or 0, source.file_id, more=more)
    if source.provider == "huggingface":
        return hub_file(hub_url, source, source.revision or "main")
    return source.url or ""


def civitai_file(
    base: str, version_id: int, file_id: int | None, *, more: tuple[tuple[str, str], ...] = ()
) -> str:
    """CivitAI's download address. Without a file's id, the token owner's account decides between files."""
    chosen = (("fileId", str(file_id)),) if file_id else ()
    query = urlencode((*chosen, *more))
    return f"{base}/api/download/models/{version_id}{'?' if query else ''}{query}"


def hub_file(base: str, source: Source, revision: str) -> str:
    """The hub's address of a file at a revision."""
    path = quote(source.path or "")
    return f"{base}/{source.repository}/resolve/{quote(revision, safe='')}/{path}"


def parse_address(text: str) -> Source:
    """What a text names. Raises WeightsError: kind `form` if it is of none, `address` if it names no file."""
    stripped = text.strip()
    scheme = stripped.split(":", 1)[0].lower()
    if scheme == "hf":
        return _parse_hf(stripped)
    if scheme in ("http", "https"):
        return _parse_url(stripped)
    match = _CIVITAI.match(stripped)
    if match:
        return _civitai(version=match["version"], file=match["file"])
    match = _AIR.match(stripped)
    if match:
        return _parse_air(match)
    if stripped.isdecimal():
        raise _wrong(f"a bare number is no source; did you mean civitai:{stripped}?")
    raise WeightsError("form", f"not a known source; expected {FORMS}")


def _wrong(what: str) -> WeightsError:
    return WeightsError("address", what)


def _parse_air(match: re.Match[str]) -> Source:
    if match["format"]:
        file = f"+{match['file']}" if match["file"] else ""
        raise _wrong(
            f"the format {match['format']} is glued to the id; "
            f"write civitai:{match['version'] or match['model']}{file}"
        )
    if not match["version"]:
        raise _wrong(
            "an AIR pins a model only with its version: "
            f"urn:air:sdxl:checkpoint:civitai:{match['model']}@VERSION"
        )
    return _civitai(version=match["version"], file=match["file"], model=match["model"])


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


def _parse_hf(text: str) -> Source:
    expected = "expected hf://owner/repo@revision/path/to/file.safetensors"
    text = text.partition("?")[0]  # `?download=true`, as the site's own addresses have it
    text = text[len("hf:") :].removeprefix("//")
    kind = next((each for each in _HF_KINDS if text.startswith(each)), "")
    parts = text.removeprefix(kind).split("/", 2)
    if len(parts) < 3 or not parts[2]:
        raise _wrong(f"the file is missing; {expected}")
    owner, name, path = parts
    name, _, revision = name.partition("@")
    if revision == "refs" and path.count("/") >= 2:  # as huggingface_hub: refs/pr/N, refs/convert/X
        of, number, path = path.split("/", 2)
        revision = f"refs/{of}/{number}"
    if not _HF_REPO.match(f"{owner}/{name}"):
        raise _wrong(f"the text names no Hugging Face repository; {expected}")
    return _hf(f"{kind}{owner}/{name}", unquote(revision), path)


def _hf(repository: str, revision: str, path: str) -> Source:
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise _wrong("the path is that of no file of a repository")
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
        raise _wrong("not a valid URL") from None
    if not host:
        raise _wrong("the URL has no host")
    if url.username is not None or url.password is not None:
        raise _wrong(
            "a URL with a user or password in it would leak; put the token into the environment"
        )
    if url.scheme == "http" and not is_loopback_host(host):
        raise _wrong("http:// is not safe for weights; use https://")
    if host in CIVITAI.hosts:
        return _parse_civitai_url(url.path, parse_qs(url.query))
    if host in HUGGING_FACE.hosts:
        return _parse_hf_url(url)
    return Source(provider="https", url=text)


def _parse_civitai_url(path: str, query: dict[str, list[str]]) -> Source:
    named = query.get("fileId", [""])[0]
    file = named if _NUMBER.fullmatch(named) else None
    match = re.match(r"^/api/download/models/(\d{1,18})/?$", path)
    if match and file:
        return _civitai(version=match[1], file=file)
    if match:
        wanted = tuple((name, query[name][0]) for name in _WANTED if name in query)
        return _civitai(version=match[1], wanted=wanted)
    match = re.match(r"^/(?:api/v1/)?model-versions/(\d{1,18})/?$", path)
    if match:
        return _civitai(version=match[1], file=file)
    match = re.match(r"^/models/(\d{1,18})(?:/.*)?$", path)
    version = query.get("modelVersionId", [""])[0]
    if match and _NUMBER.fullmatch(version):
        return _civitai(version=version, file=file, model=match[1])
    if match and version:
        raise _wrong("modelVersionId is no number of a version; copy the address of the page again")
    if match:
        raise _wrong(
            "this page names a model, not a version; choose the version on the page, "
            f"so that the address ends in /models/{match[1]}?modelVersionId=…"
        )
    raise _wrong("this CivitAI address names no model version; expected civitai:VERSION")


def _parse_hf_url(url: SplitResult) -> Source:
    match = _HF_PAGE.match(url.path)
    if not match:
        raise _wrong(
            "this Hugging Face address names no file; expected hf://owner/repo@revision/path/to/file"
        )
    # Taken apart before it is decoded: a revision's own slashes are %2F in an address.
    return _hf(match[1], unquote(match[2]), unquote(match[3]))
