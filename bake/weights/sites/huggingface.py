"""Hugging Face: a HEAD on the hub names commit, digest and size; a GET is sent on to a signed CDN address.

For LFS files the linked ETag is the SHA256; for plain git files it is a blob's SHA-1 of 40 digits,
which pins nothing, so such a file is downloaded once.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import requests

from bake.lock import Licence, Pin
from bake.weights.context import Context, Found, Newer
from bake.weights.sites.answers import ask, get_json, is_html
from bake.weights.sources import Source
from bake.weights.transfer.locations import recall
from bake.weights.transfer.remote import Remote
from runtime.files.addresses import HUGGING_FACE, hub_file
from runtime.files.answers import RetryableError, explain_plainly, retry_after_s, whole_number
from runtime.files.errors import FailureKind, WeightsError
from runtime.files.http import MAX_REDIRECTS, REDIRECTS, Client
from runtime.files.policy import show_url
from runtime.retry import TRANSIENT_STATUSES

CONNECTIONS = 4
"""Its CDN is made for several; its own client uses more."""
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_DISABLED = "Access to this resource is disabled"
"""Such a repository has no code of its own (huggingface_hub, `hf_raise_for_status`)."""
GET_TOKEN = "set HF_TOKEN to a token from https://huggingface.co/settings/tokens"  # noqa: S105


def find_huggingface(context: Context, source: Source) -> Found:
    """What the hub says of the file at the source's revision (`main` where it names none)."""
    path = source.path or ""
    with _client(context) as client:
        facts = _head(context, client, source, source.revision or "main")
        licence, title, base_model, changed_at = _describe(context, client, source, facts["commit"])
    return Found(
        file_name=path.rsplit("/", 1)[-1],
        url=hub_file(HUGGING_FACE.url, source, facts["commit"]),
        sha256=facts["sha256"] or None,
        size_bytes=whole_number(facts["size"]) or None,
        title=title,
        revision=facts["commit"],
        base_model=base_model,
        published_at=changed_at,
        licence=licence,
    )


def open_huggingface(context: Context, source: Source, target: Found | Pin) -> Remote:
    """The file at the target's commit."""
    url = _resolve_url(context, source, target.revision or "main")
    client = _client(context)
    return Remote(client, url, explain=explain, location=recall(client, url))


def published_sha256(context: Context, source: Source, pin: Pin) -> str | None:
    """The digest that the hub gives today for the pinned commit's file."""
    with _client(context) as client:
        return _head(context, client, source, pin.revision or "main")["sha256"] or None


def newer_huggingface(context: Context, source: Source, pin: Pin) -> list[Newer]:
    """The file at the tip of `main`, if that is another one than the pinned."""
    with _client(context) as client:
        facts = _head(context, client, source, "main")
        if facts["commit"] == pin.revision or facts["sha256"] == pin.sha256:
            return []
        _, _, _, changed_at = _describe(context, client, source, facts["commit"])
    return [
        Newer(
            source=f"hf://{source.repository}@{facts['commit']}/{source.path}",
            title=f"main at {facts['commit'][:12]}",
            published_at=changed_at,
            base_model=None,
        )
    ]


def _head(context: Context, client: Client, source: Source, revision: str) -> dict[str, str]:
    """Commit, SHA256 (empty for a plain git file) and size of a file, by the hub's own headers."""
    url = _resolve_url(context, source, revision)
    for _ in range(MAX_REDIRECTS):
        response = ask(
            client, url, method="HEAD", explain=explain, backoff_s=context.settings.backoff_s
        )
        response.close()
        target = response.headers.get("Location", "")
        # A renamed repository, its cache of small files (/api/resolve-cache/), or a mirror that sends on to the
        # hub itself; the token stays behind. Storage would answer a HEAD with 403.
        is_hub = "/resolve" in target or re.match(r"/(?!/)", target) is not None
        if (
            response.status_code not in REDIRECTS
            or "X-Repo-Commit" in response.headers
            or not is_hub
        ):
            break
        url = client.redirected(response, url)
    headers = response.headers
    commit = headers.get("X-Repo-Commit", "").lower()
    if not _COMMIT.match(commit):
        raise WeightsError(
            "page",
            "the answer names no commit: this is not a Hugging Face hub, or it is in maintenance",
            where=show_url(url),
            hint="check HF_ENDPOINT; try again later",
        )
    etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    size = headers.get("X-Linked-Size") or (
        headers.get("Content-Length", "") if response.status_code == 200 else ""
    )
    return {
        "commit": commit,
        "sha256": etag.lower() if _SHA256.match(etag.lower()) else "",
        "size": size,
    }


def _describe(
    context: Context, client: Client, source: Source, commit: str
) -> tuple[Licence, str | None, str | None, str | None]:
    """Licence, title, base model and date of a repository; a hub that does not say is no obstacle."""
    name = source.repository or ""
    named = name if name.startswith(("datasets/", "spaces/")) else f"models/{name}"
    url = f"{context.settings.huggingface_url}/api/{named}/revision/{commit}"
    try:
        data = get_json(client, url, explain=explain, backoff_s=context.settings.backoff_s)
    except WeightsError as error:
        context.console.warn(f"hf://{name}: no licence known ({error.what})")
        return Licence(), name, None, None
    card = data.get("cardData")
    card = card if isinstance(card, dict) else {}
    licence = card.get("license_name") if card.get("license") == "other" else card.get("license")
    base = card.get("base_model")
    base = base[0] if isinstance(base, list) and base else base
    changed = data.get("lastModified")
    return (
        Licence(name=licence if isinstance(licence, str) else None),
        name,
        base if isinstance(base, str) else None,
        changed if isinstance(changed, str) else None,
    )


def explain(response: requests.Response, url: str) -> Exception:
    """What the hub's refusals mean; its own code is in `X-Error-Code`."""
    if "/resolve/" not in urlsplit(url).path and "/api/" not in urlsplit(url).path:
        return explain_plainly(response, url)
    where = show_url(url)
    status = response.status_code
    code = response.headers.get("X-Error-Code", "")
    if _DISABLED in response.headers.get("X-Error-Message", ""):
        code = "DisabledRepo"
    if code in _BY_CODE:
        kind, what, hint = _BY_CODE[code]
        return WeightsError(kind, what, where=where, hint=hint)
    if status == 429:
        return _explain_rate(response, where)
    if status in _BY_STATUS:
        kind, what, hint = _BY_STATUS[status]
        return WeightsError(kind, what, where=where, hint=hint)
    if is_html(response) and status < 500 and status not in TRANSIENT_STATUSES:
        return WeightsError(
            "page", f"the hub answers with a page for browsers (HTTP {status})", where=where
        )
    return explain_plainly(response, url)


_BY_STATUS: dict[int, tuple[FailureKind, str, str]] = {
    401: (
        "login",
        "the hub does not show the repository (401): it is missing, private or gated, "
        "or the token is wrong",
        "check the name; " + GET_TOKEN,
    ),
    403: (
        "grant",
        "the token may not read this repository (403)",
        "give the token read access to it",
    ),
}
_BY_CODE: dict[str, tuple[FailureKind, str, str]] = {
    "RepoNotFound": (
        "missing",
        "there is no such repository, or it is private and the token does not open it",
        "check the name; " + GET_TOKEN,
    ),
    "RevisionNotFound": (
        "missing",
        "the repository has no such revision",
        "take a commit, branch or tag from its Files page",
    ),
    "EntryNotFound": (
        "missing",
        "the repository has no such file at this revision",
        "copy the path from its Files page",
    ),
    "DisabledRepo": (
        "disabled",
        "Hugging Face has disabled the repository: it gives out none of its files",
        "choose another repository, or a copy elsewhere",
    ),
    "GatedRepo": (
        "gated",
        "the repository is gated: its conditions must be accepted first",
        # A fine-grained token needs that besides: github.com/huggingface/huggingface_hub/issues/2844.
        "accept them on its page with the token's account, and let a fine-grained token read public gated "
        "repositories; " + GET_TOKEN,
    ),
}


def _explain_rate(response: requests.Response, where: str) -> Exception:
    wait_s = retry_after_s(response)
    until = f"; it opens again in {wait_s:.0f} s" if wait_s is not None else ""
    error = WeightsError(
        "quota", f"the hub's rate limit is reached (429){until}", where=where, hint=GET_TOKEN
    )
    return error if wait_s is None else RetryableError(error, wait_s=wait_s)


def _resolve_url(context: Context, source: Source, revision: str) -> str:
    return hub_file(context.settings.huggingface_url, source, revision)


def _client(context: Context) -> Client:
    return context.site_client(
        context.settings.huggingface_url,
        public=HUGGING_FACE.url,
        storage_hosts=HUGGING_FACE.storage,
        token=context.settings.huggingface_token,
        login_hint=GET_TOKEN,
    )
