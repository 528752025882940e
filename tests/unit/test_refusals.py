"""What CivitAI, the hub and their storages mean by a refusal: one message and one next step for each, and which may pass."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import requests
from urllib3 import HTTPResponse

from bake.weights.sites import huggingface
from bake.weights.sites.answers import MAX_ANSWER_BYTES, get_json, is_html, read_json
from bake.weights.sites.civitai_errors import (
    TokenState,
    explain_api,
    explain_download,
    explain_storage,
)
from bake.weights.transfer.judge import Lead, Options, RestartError, judge_lead, judge_segment
from runtime.files.answers import RetryableError
from runtime.files.errors import WeightsError
from runtime.files.http import MAX_REDIRECTS

API = "https://civitai.com/api/v1/model-versions/500"
DOWNLOAD = "https://civitai.com/api/download/models/500?token=secret"
STORAGE = "https://x.r2.cloudflarestorage.com/a?X-Amz-Signature=secret"
SHOWN = "https://civitai.com/api/download/models/500"
TOKEN = "set CIVITAI_TOKEN to an API key from https://civitai.com/user/account"
HUB_TOKEN = "set HF_TOKEN to a token from https://huggingface.co/settings/tokens"


def answer(status: int, body: Any = b"", **headers: str) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    response.raw = HTTPResponse(io.BytesIO(data), preload_content=False)
    return response


def page(status: int) -> requests.Response:
    return answer(status, b"<html>", Content_Type="Text/HTML; charset=utf-8")


def told(error: Exception) -> tuple[str, str, str | None]:
    """Kind, what and hint; of one that may pass, `*` and the tries or seconds before the kind."""
    mark = ""
    if isinstance(error, RetryableError):
        mark = f"*{error.attempts or ''}{'' if error.wait_s is None else f'{error.wait_s:g}s'} "
        error = error.failure
    assert isinstance(error, WeightsError)
    assert error.where
    assert "secret" not in str(error)
    return mark + error.kind, error.what, error.hint


QUOTA = (
    "CivitAI's quota is used up (429): it counts downloads per account, or per address "
    "without a token, over the last 24 hours"
)
BUSY = "CivitAI is in maintenance or overloaded (HTTP {})"
CHALLENGE = "CivitAI answers with a page for browsers (HTTP {}): a challenge, or maintenance"
ELSEWHERE = "try again later, or from another network"
COMMON = [
    (answer(429), "quota", QUOTA, f"try again later; {TOKEN}"),
    (answer(429, Retry_After="30"), "*30s quota", f"{QUOTA}; it asks to wait 30 s", f"try again later; {TOKEN}"),
    (answer(451), "region", "CivitAI does not serve this region (451)", "fetch from a machine elsewhere, or through HTTPS_PROXY"),
    (answer(503), "* server", BUSY.format(503), "try again later"),
    (answer(503, Retry_After="7"), "*7s server", BUSY.format(503), "try again later"),
    (page(500), "* server", BUSY.format(500), "try again later"),
    (page(599), "* server", BUSY.format(599), "try again later"),
    (page(408), "* server", BUSY.format(408), "try again later"),
    (page(403), "page", CHALLENGE.format(403), ELSEWHERE),
    (page(418), "page", CHALLENGE.format(418), ELSEWHERE),
    (answer(502), "* server", "the server is in trouble (HTTP 502)", "try again later"),
    (answer(418), "http", "the server answers HTTP 418", None),
]  # fmt: skip


def unasked() -> TokenState:
    raise AssertionError("the token's state was asked for")


@pytest.mark.parametrize(("response", "kind", "what", "hint"), COMMON, ids=range(len(COMMON)))
def test_what_means_the_same_on_all_of_civitai(
    response: requests.Response, kind: str, what: str, hint: str | None
) -> None:
    assert told(explain_api(response, API)) == (kind, what, hint)
    assert told(explain_download(response, DOWNLOAD, token_state=unasked)) == (kind, what, hint)


CHECK = (
    "check the number on the model's page: it is the version's, ?modelVersionId=… in the address, not the model's; "
    "if the page shows it, try again in a day or two"
)
ABSENT = "CivitAI knows no such model or version: it was deleted, unpublished, or never there"


@pytest.mark.parametrize(
    ("response", "kind", "what", "hint"),
    [
        (answer(400), "http", "CivitAI does not accept the request (400)", "check the version and the file in the source"),
        (answer(404, {"error": "No File found"}), "missing", "CivitAI has the version's record, but no file of it (404)", "choose another version, or a copy of the file elsewhere"),
        (answer(404, {"error": "No version 5"}), "missing", ABSENT, CHECK),
        (answer(404, b"<html>"), "missing", ABSENT, CHECK),
        (answer(401), "login", "CivitAI refuses the token (401)", TOKEN),
        (answer(410), "http", "the file is gone (410)", "look for a copy elsewhere"),
    ],
)  # fmt: skip
def test_refusals_of_the_records(
    response: requests.Response, kind: str, what: str, hint: str | None
) -> None:
    assert told(explain_api(response, API)) == (kind, what, hint)


EARLY = "the version is in early or paid access"
WAIT = "wait, or buy access with the token's account"
NEEDS = "the file needs a login, and CivitAI does not accept the token for it"
OPEN = f"open the file's page with the token's account; {TOKEN}"
GRANT = "the token may not download this file (403)"
MAY = "make an API key that may download, with an account that sees the file"


@pytest.mark.parametrize(
    ("response", "token", "kind", "what", "hint"),
    [
        (answer(400), None, "http", "CivitAI does not accept the request (400)", "check the version and the file in the source"),
        (answer(404), None, "*3 missing", "CivitAI does not find the file (404): the version was deleted or unpublished, or its storage has trouble", "look at the model's page; if the file is still there, try again later"),
        (answer(410), None, "archived", "the version is archived: CivitAI no longer gives its file out (410)", "choose another version, or a copy of the file elsewhere"),
        (answer(401, {"message": "The creator has Disabled downloads"}), None, "disabled", "the creator has disabled downloads of this version", "no token changes that; choose another version or model"),
        (answer(401, {"error": "downloads are disabled"}), None, "disabled", "the creator has disabled downloads of this version", "no token changes that; choose another version or model"),
        (answer(401), "none", "login", "the file needs a login", TOKEN),
        (answer(401), "invalid", "login", "the token is wrong or has expired", TOKEN),
        (answer(401), "valid", "login", NEEDS, OPEN),
        (answer(401, b"["), "unknown", "login", NEEDS, OPEN),
        (answer(403), "none", "login", "the file needs a login (403)", TOKEN),
        (answer(403), "invalid", "login", "the token is wrong or has expired", TOKEN),
        (answer(403), "valid", "grant", GRANT, MAY),
        (answer(403, {"error": "Forbidden"}), "unknown", "grant", GRANT, MAY),
        (answer(403, {"error": "Early Access", "deadline": "2027-01-02T03:04:05Z"}), "valid", "early_access", f"{EARLY} until 2027-01-02T03:04", WAIT),
        (answer(403, {"deadline": "2027-01-02"}), "none", "early_access", f"{EARLY} until 2027-01-02, and no token is set", WAIT),
        (answer(403, {"error": "early access", "deadline": "soon"}), "valid", "early_access", EARLY, WAIT),
        (answer(403, {"message": "This is Paid content"}), "none", "early_access", f"{EARLY}, and no token is set", WAIT),
    ],
)  # fmt: skip
def test_refusals_of_a_download(
    response: requests.Response, token: TokenState | None, kind: str, what: str, hint: str
) -> None:
    error = explain_download(response, DOWNLOAD, token_state=lambda: token or unasked())
    assert told(error) == (kind, what, hint)
    failure = error.failure if isinstance(error, RetryableError) else error
    assert isinstance(failure, WeightsError)
    assert failure.where == SHOWN


@pytest.mark.parametrize(
    ("response", "kind", "what", "hint"),
    [
        (answer(400), "http", "the storage does not accept the request (400)", "a proxy that adds an Authorization header would cause this"),
        (answer(404), "*3 missing", "the storage does not have the file (404)", "try again later"),
        (answer(403), "http", "the server refuses access (403)", "open the address in a browser to see what it asks for"),
        (answer(503), "* server", "the server is in trouble (HTTP 503)", "try again later"),
    ],
)  # fmt: skip
def test_refusals_of_a_storage(
    response: requests.Response, kind: str, what: str, hint: str
) -> None:
    assert told(explain_storage(response, STORAGE)) == (kind, what, hint)
    error = explain_download(response, STORAGE, token_state=unasked)
    assert told(error) == (kind, what, hint)


NO_REPOSITORY = "there is no such repository, or it is private and the token does not open it"
DISABLED = "Hugging Face has disabled the repository: it gives out none of its files"
ACCEPT = "accept them on its page with the token's account, and let a fine-grained token read public gated repositories"
GATED = "the repository is gated: its conditions must be accepted first"
RATE = "the hub's rate limit is reached (429)"


@pytest.mark.parametrize(
    ("response", "kind", "what", "hint"),
    [
        (answer(404, X_Error_Code="RepoNotFound"), "missing", NO_REPOSITORY, f"check the name; {HUB_TOKEN}"),
        (answer(404, X_Error_Code="RevisionNotFound"), "missing", "the repository has no such revision", "take a commit, branch or tag from its Files page"),
        (answer(404, X_Error_Code="EntryNotFound"), "missing", "the repository has no such file at this revision", "copy the path from its Files page"),
        (answer(401, X_Error_Code="GatedRepo"), "gated", GATED, f"{ACCEPT}; {HUB_TOKEN}"),
        (answer(401), "login", "the hub does not show the repository (401): it is missing, private or gated, or the token is wrong", f"check the name; {HUB_TOKEN}"),
        (answer(403), "grant", "the token may not read this repository (403)", "give the token read access to it"),
        (answer(403, X_Error_Message="Access to this resource is disabled."), "disabled", DISABLED, "choose another repository, or a copy elsewhere"),
        (answer(404), "http", "there is no such file (404)", "check the address"),
        (answer(429), "quota", RATE, HUB_TOKEN),
        (answer(429, Retry_After="9"), "*9s quota", f"{RATE}; it opens again in 9 s", HUB_TOKEN),
        (answer(429, RateLimit='"api";r=0;t=55', Retry_After="9"), "*55s quota", f"{RATE}; it opens again in 55 s", HUB_TOKEN),
        (page(404), "page", "the hub answers with a page for browsers (HTTP 404)", None),
        (page(408), "* server", "the server is in trouble (HTTP 408)", "try again later"),
        (page(500), "* server", "the server is in trouble (HTTP 500)", "try again later"),
    ],
)  # fmt: skip
def test_refusals_of_the_hub(
    response: requests.Response, kind: str, what: str, hint: str | None
) -> None:
    for path in ("a/b/resolve/main/c.safetensors", "api/models/a/b"):
        error = huggingface.explain(response, f"https://huggingface.co/{path}?token=secret")
        assert told(error) == (kind, what, hint)


def test_the_hub_s_storage_has_no_codes_of_the_hub() -> None:
    error = huggingface.explain(answer(403, X_Error_Code="GatedRepo"), STORAGE)
    assert told(error)[1] == "the server refuses access (403)"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'"x"', b"\xff", b"[" * 100_000, b'{"a": "' + b"x" * MAX_ANSWER_BYTES + b'"}'],
    ids=range(7),
)  # fmt: skip
def test_what_is_no_object_is_no_answer(body: bytes) -> None:
    assert read_json(answer(200, body)) is None


def test_an_answer_is_read_up_to_its_bound() -> None:
    body = b'{"a": 1' + b" " * (MAX_ANSWER_BYTES - 8) + b"}"
    assert len(body) == MAX_ANSWER_BYTES
    assert read_json(answer(200, body)) == {"a": 1}
    assert read_json(answer(200, body + b" ")) is None
    assert is_html(page(200))
    assert not is_html(answer(200, Content_Type="application/json"))


# Whether an answer can be the file


def lead(response: requests.Response, start: int = 0, **known: Any) -> Lead:
    return judge_lead(response, start, Options(**known), STORAGE)


def refused(response: requests.Response, start: int = 0, **known: Any) -> tuple[str, str]:
    with pytest.raises(WeightsError) as caught:
        lead(response, start, **known)
    assert caught.value.where == STORAGE.partition("?")[0]
    return caught.value.kind, caught.value.what


def part(range_: str, body: bytes = b"x") -> requests.Response:
    return answer(206, body, Content_Range=range_)


def test_a_whole_file_and_a_part_of_it() -> None:
    whole = answer(200, b"x" * 9, Content_Length="9")
    assert lead(whole) == Lead(ends_at=9, total=9, has_ranges=False)
    assert lead(part("bytes 4-8/9"), 4) == Lead(ends_at=9, total=9, has_ranges=True)
    assert lead(part("bytes 0-3/9"), size_bytes=9) == Lead(ends_at=4, total=9, has_ranges=True)
    chunked = answer(200, Transfer_Encoding="Chunked")
    assert lead(chunked) == Lead(ends_at=None, total=None, has_ranges=False)
    for known in ({"size_bytes": 9}, {"sha256": "0" * 64}):
        assert lead(answer(200), **known) == Lead(ends_at=None, total=None, has_ranges=False)


def test_what_cannot_be_the_file() -> None:
    assert refused(answer(200)) == (
        "http",
        "the server does not say how long the file is, so a broken one could not be told",
    )
    assert refused(answer(200, Content_Length="0")) == ("not_weights", "the file is empty")
    whole = answer(200, b"x" * 9, Content_Length="9")
    assert refused(whole, size_bytes=8) == ("size", "the server has 9 bytes, 8 were expected")
    other = part("bytes 4-8/9")
    assert refused(other, 4, size_bytes=10) == ("size", "the server has 9 bytes, 10 were expected")
    strange = ("http", "the server answers with a range that nobody asked for")
    for wrong in ("", "bytes 5-8/9", "bytes 4-8/*", "bytes */9", "lines 4-8/9"):
        assert refused(part(wrong), 4) == strange
    assert refused(answer(416, Content_Range="bytes */0")) == (
        "size", "the server has no bytes to give",
    )  # fmt: skip
    assert refused(answer(416, Content_Range="bytes */7"), 9, size_bytes=12) == (
        "size", "the server has 7 bytes, 12 were expected",
    )  # fmt: skip
    assert refused(answer(416), 9, size_bytes=12) == (
        "size", "the server has a file of another length, 12 were expected",
    )  # fmt: skip


def test_what_cannot_be_continued_begins_again() -> None:
    whole = answer(200, b"x" * 9, Content_Length="9")
    with pytest.raises(RestartError, match=r"^the server does not continue downloads$"):
        lead(whole, 4)
    with pytest.raises(RestartError, match=r"^the file has become shorter$"):
        lead(answer(416, Content_Range="bytes */7"), 9)


def test_a_later_part_must_be_of_the_same_file() -> None:
    def judge(response: requests.Response, **known: Any) -> None:
        judge_segment(response, 4, 9, Options(**known), STORAGE)

    judge(part("bytes 4-8/9"))
    with pytest.raises(RestartError, match=r"^the server does not continue downloads$"):
        judge(answer(200, Content_Length="9"))
    with pytest.raises(RestartError, match=r"^the file has changed its length$"):
        judge(part("bytes 4-8/10"))
    with pytest.raises(WeightsError) as caught:
        judge(part("bytes 4-8/10"), size_bytes=9)
    assert caught.value.what == "the server has 10 bytes, 9 were expected"


# How often an API is asked


class Api:
    """A site's client: gives these answers one after the other, or raises them."""

    def __init__(self, *answers: requests.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []

    def request(self, url: str, *, method: str, headers: dict[str, str], stream: bool) -> Any:
        assert (headers, stream) == ({"Accept": "application/json"}, True)
        self.asked.append((method, url))
        given = self.answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    def redirected(self, response: requests.Response, _at: str) -> str:
        return response.headers["Location"]


def ask(*answers: requests.Response | Exception) -> tuple[Any, Api]:
    api = Api(*answers)
    client: Any = api
    return get_json(client, API, explain=explain_api, backoff_s=0.001), api


def test_a_record_is_asked_for_again_while_that_may_help() -> None:
    broken = requests.ConnectionError("reset")
    found, api = ask(broken, answer(502), answer(503), answer(200, {"id": 5}))
    assert found == {"id": 5}
    assert api.asked == [("GET", API)] * 4
    with pytest.raises(WeightsError, match="in trouble"):
        ask(*[answer(502)] * 4)
    with pytest.raises(WeightsError) as caught:
        ask(requests.exceptions.SSLError("self-signed"))
    assert caught.value.kind == "tls"
    with pytest.raises(WeightsError) as caught:
        ask(answer(401))
    assert caught.value.kind == "login"


def test_a_record_that_has_moved_is_followed_but_not_for_ever() -> None:
    moved = "https://civitai.com/api/v1/model-versions/501"
    found, api = ask(answer(308, Location=moved), answer(200, {}))
    assert (found, api.asked) == ({}, [("GET", API), ("GET", moved)])
    with pytest.raises(WeightsError) as caught:
        ask(*(answer(302, Location=API) for _ in range(MAX_REDIRECTS + 1)))
    assert (caught.value.kind, caught.value.what) == (
        "redirect", f"more than {MAX_REDIRECTS} redirects",
    )  # fmt: skip


def test_a_page_in_place_of_a_record_is_said() -> None:
    with pytest.raises(WeightsError) as caught:
        ask(answer(200, b"<html>"))
    assert told(caught.value) == (
        "page",
        "the server answers with a page in place of data: maintenance, or a challenge for browsers",
        "open the address in a browser; try again later, or from another network",
    )
