"""JSON from an API that may answer with anything: bounded, never assumed to be JSON, never printed."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from typing import Any

import requests

from bake.weights.transfer.remote import Explain
from runtime.files.answers import RetryableError, pause_after, transport_failure
from runtime.files.errors import WeightsError
from runtime.files.http import MAX_REDIRECTS, REDIRECTS, Client
from runtime.files.policy import show_url
from runtime.retry import Retry

MAX_ANSWER_BYTES = 8 << 20
_ATTEMPTS = 4


def get_json(client: Client, url: str, *, explain: Explain, backoff_s: float) -> Mapping[str, Any]:
    """A JSON object from `url`, asked again after failures that may pass.

    Raises:
        WeightsError: what `explain` makes of a refusal; kind `page` for an answer that is no JSON object.
    """
    response = _follow(client, url, explain=explain, backoff_s=backoff_s)
    with response:
        data = read_json(response)
    if data is None:
        raise WeightsError(
            "page",
            "the server answers with a page in place of data: maintenance, or a challenge for browsers",
            where=show_url(url),
            hint="open the address in a browser; try again later, or from another network",
        )
    return data


def _follow(client: Client, url: str, *, explain: Explain, backoff_s: float) -> requests.Response:
    """A renamed repository's record is at another address than it was."""
    at = url
    for _ in range(MAX_REDIRECTS + 1):
        response = ask(client, at, method="GET", explain=explain, backoff_s=backoff_s)
        if response.status_code not in REDIRECTS:
            return response
        at = client.redirected(response, at)
    raise WeightsError("redirect", f"more than {MAX_REDIRECTS} redirects", where=show_url(url))


def ask(
    client: Client, url: str, *, method: str, explain: Explain, backoff_s: float
) -> requests.Response:
    """An answer below 400 (redirects are not followed), asked again after failures that may pass."""
    for tries in itertools.count(1):
        try:
            return _ask_once(client, url, method=method, explain=explain)
        except RetryableError as failure:
            time.sleep(pause_after(failure, tries, Retry(attempts=_ATTEMPTS, backoff_s=backoff_s)))
    raise AssertionError("unreachable")


def _ask_once(client: Client, url: str, *, method: str, explain: Explain) -> requests.Response:
    try:
        response = client.request(
            url, method=method, headers={"Accept": "application/json"}, stream=True
        )
    except requests.RequestException as error:
        raise transport_failure(error, url) from error
    if response.status_code < 400:
        return response
    with response:
        raise explain(response, url)


def read_json(response: requests.Response) -> Mapping[str, Any] | None:
    """The body as a JSON object; None for anything else, and for more than `MAX_ANSWER_BYTES`."""
    body = bytearray()
    try:
        for chunk in response.iter_content(64 << 10):
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                return None
        data = json.loads(body)
    except (ValueError, RecursionError, requests.RequestException):
        return None
    return data if isinstance(data, Mapping) else None


def is_html(response: requests.Response) -> bool:
    """Whether the answer says that it is a page."""
    return "html" in response.headers.get("Content-Type", "").lower()
