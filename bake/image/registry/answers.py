"""What a registry's answer means: one table of (operation, status), and one of what registries say.

Success is what distribution-spec says (github.com/opencontainers/distribution-spec, `spec.md`), and every
other 2xx that registries send in its place, as was reported of them:

- ECR answers a PATCH with 201 (distribution-spec: 202), and its `Range` does not advance;
- Pulp answers it with 204;
- Quay answers a manifest's PUT with 202;
- registry.k8s.io redirects the GET of a manifest, as most do that of a blob;
- what cannot or may not mount says 202 by the specification; others 401, 403, 404, 405 or 5xx;
- 520 to 530 are Cloudflare's, for an origin that it did not reach in time.

What a table cannot know is the caller's: a 401 may only ask for a token, and the digest decides at the end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import requests

from bake.errors import PushError
from bake.image.oci.reference import DOCKER_HUB
from runtime.files.http import REDIRECTS
from runtime.retry import TRANSIENT_STATUSES

Operation = Literal[
    "find blob", "get manifest", "list referrers", "get blob", "mount", "open upload", "send piece", "ask upload",
    "close upload", "put manifest", "give up upload", "get token",
]  # fmt: skip
Meaning = Literal[
    "done",
    "absent",  # there is no such thing, which is an answer
    "elsewhere",  # it is where Location says
    "otherwise",  # not this way: without it, things take longer
    "restart",  # this upload is lost: a new one begins
    "smaller",  # the body is too large for the way
    "ask",  # the place of a piece is in doubt
    "again",  # may be another answer the next time
    "login",
    "refused",
]


class Refused(PushError):  # noqa: N818  # one of bake's errors, with the registry's answer
    """A request that was not taken as it is: neither for its sender nor for the registry's state."""


_REFUSED = (401, 403)
_LOST = (400, 404, 409, 410, 416, 422)
"""An upload, or its digest, that a registry does not know or does not take."""


def _each(statuses: Iterable[int], meaning: Meaning) -> dict[int, Meaning]:
    return dict.fromkeys(statuses, meaning)


_USUAL: dict[int, Meaning] = {
    **_each(range(200, 300), "done"),
    **_each(TRANSIENT_STATUSES, "again"),
    **_each(_REFUSED, "login"),
}
_ROWS: dict[Operation, dict[int, Meaning]] = {
    # a blob that is said to be elsewhere is there
    "find blob": {404: "absent", **_each(REDIRECTS, "done")},
    "get manifest": {404: "absent", **_each(REDIRECTS, "elsewhere")},
    # a registry of before distribution-spec 1.1 has no such path, whatever it calls that
    "list referrers": _each((400, 404, 405, 406, 501), "absent"),
    # go-containerregistry's refuses a range without an end (`crane registry serve` 0.20.7)
    "get blob": {404: "absent", 416: "otherwise", **_each(REDIRECTS, "elsewhere")},
    # 202: an ordinary upload was opened
    "mount": {202: "otherwise", **_each(_REFUSED, "otherwise")},
    "open upload": {},
    "send piece": {404: "restart", 410: "restart", 413: "smaller", 416: "ask"},
    "ask upload": {},
    "close upload": _each(_LOST, "restart"),
    "put manifest": {},
    "give up upload": _each((*TRANSIENT_STATUSES, *_REFUSED), "done"),
    "get token": {},
}
"""What differs from the usual."""
_ELSE: dict[Operation, Meaning] = {
    "mount": "otherwise",
    "ask upload": "restart",  # who does not say how much has arrived gets a new upload
    "give up upload": "done",  # nothing depends on it: a registry forgets uploads by itself
}
"""All other statuses; a refusal if not given."""


class Why(NamedTuple):
    """Of a refusal, in our words."""

    what: str
    hint: str


_SAID: tuple[tuple[re.Pattern[str], Why], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), Why(what, hint))
    for pattern, what, hint in (
        (
            r"write_package|organization package|do(?:es)? not match expected scopes",  # GHCR, tuna-os/tunaOS#642
            "the token may not write this package",
            "in a workflow give the job `permissions: packages: write`; a package that was first pushed by hand needs "
            "the workflow's repository under Manage Actions access in its settings; elsewhere use a classic token "
            "with write:packages",
        ),
        (
            r"immutab",  # ECR (moby/buildkit#3776), Harbor (goharbor/harbor#18792), Docker Hub, Artifact Registry
            "the tag is there already, and this repository lets no tag be moved to another image",
            "write another tag into `image` of the manifest, or let the repository's tags be overwritten",
        ),
        (
            r"quota|storage limit|exceed\w* the configured",  # Harbor (goharbor/harbor#8802), Quay, GitLab
            "the quota of the place is used up",
            "delete images there that nobody uses, or have the quota raised",
        ),
        (
            r"token has expired|reauthenticate",  # ECR, aws/aws-cli#6580
            "the login has expired",
            "log in again; ECR's lasts 12 hours: aws ecr get-login-password | docker login --username AWS "
            "--password-stdin REGISTRY, or its credential helper",
        ),
        (
            r"uploadArtifacts",  # Artifact Registry
            "the account may not write there",
            "give it the role Artifact Registry Writer on the repository",
        ),
        (
            r"blob unknown|BLOB_UNKNOWN",  # Nexus's groups, sonatype/nexus-public#869
            "it does not find there the layers that it has just taken",
            "one address in front of several storages (a group, a proxy with replicas) loses them: push to the hosted "
            "repository itself",
        ),
        (
            r"rate limit|toomanyrequests",  # Docker Hub, docker/hub-feedback#2429
            "its limit of requests is reached",
            "log in (docker login), which raises it on Docker Hub, or try again in some hours",
        ),
    )
)
"""What registries say of themselves, by a piece of it: their own text may echo anything, and is never shown."""


def why_refused(response: requests.Response) -> Why | None:
    """What the body of a refusal means, where it is known."""
    said = " ".join(f"{each.get('code')} {each.get('message')}" for each in _errors_of(response))
    return next((why for pattern, why in _SAID if pattern.search(said)), None)


def error_code(response: requests.Response) -> str:
    """The registry's error code, such as `DENIED`; never its free text."""
    code = str(next((each.get("code") for each in _errors_of(response)), ""))
    return code if re.fullmatch(r"[A-Z_]{3,40}", code) else ""


def _errors_of(response: requests.Response) -> list[Mapping[str, Any]]:
    try:
        errors = json.loads(response.content[:65536])["errors"]
    except (ValueError, KeyError, TypeError, RuntimeError, requests.RequestException):
        return []
    return [each for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []


def shown_status(response: requests.Response) -> str:
    """`403 DENIED`."""
    return f"{response.status_code} {error_code(response)}".strip()


def refusal_of(response: requests.Response, url: str, *, host: str) -> PushError:
    """A refusal in words: the registry's reason where it is known, else what its status means."""
    status, shown = response.status_code, shown_status(response)
    where = f"{host}{urlsplit(url).path}"
    if why := why_refused(response):
        what = f"the registry refuses a request ({shown}): {why.what}"
        return PushError(what, where=where, hint=why.hint)
    if status in _REFUSED:
        # An account's name is often another on Docker Hub than on GitHub: docker/build-push-action#223.
        hub = f"; there names begin with that account's or an organisation's: {host}/ACCOUNT/NAME"
        return PushError(
            f"the registry refuses access ({shown})",
            where=where,
            hint=f"docker login {host}, with an account that may push there"
            + hub * (host == DOCKER_HUB),
        )
    if status == 507:
        return PushError(f"the registry's disk is full ({shown})", where=host)
    if status == 404:
        return PushError(
            f"the registry knows no such place ({shown})",
            where=where,
            hint="check the repository's name; some registries (ECR) want it created first",
        )
    return Refused(f"the registry refuses a request ({shown})", where=where)


def meaning_of(operation: Operation, status: int) -> Meaning:
    """What a status means as the answer to an operation; `status` may be any number."""
    meaning = _ROWS[operation].get(status) or _USUAL.get(status)
    return meaning or _ELSE.get(operation, "refused")
