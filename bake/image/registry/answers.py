"""What a registry's answer means: one table of (operation, status).

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

from collections.abc import Iterable
from typing import Literal

from bake.errors import PushError
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


def meaning_of(operation: Operation, status: int) -> Meaning:
    """What a status means as the answer to an operation; `status` may be any number."""
    meaning = _ROWS[operation].get(status) or _USUAL.get(status)
    return meaning or _ELSE.get(operation, "refused")
