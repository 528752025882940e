"""What CivitAI's refusals mean and what to do about each. docs/weights.md has the same table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import requests

from bake.weights.sites.answers import is_html, read_json
from runtime.files.answers import RetryableError, explain_plainly, retry_after_s
from runtime.files.errors import FailureKind, WeightsError
from runtime.files.policy import show_url
from runtime.retry import TRANSIENT_STATUSES

TokenState = Literal["none", "valid", "invalid", "unknown"]
_DATE = re.compile(r"^\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2})?")
GET_TOKEN = "set CIVITAI_TOKEN to an API key from https://civitai.com/user/account"  # noqa: S105


def explain_api(response: requests.Response, url: str) -> Exception:
    """Refusals of /api/v1."""
    where = show_url(url)
    if response.status_code == 400:
        kind, what, hint = _PLAIN[400]
        return WeightsError(kind, what, where=where, hint=hint)
    if response.status_code == 404:
        if "file" in str((read_json(response) or {}).get("error", "")).lower():
            return WeightsError(
                "missing",
                "CivitAI has the version's record, but no file of it (404)",
                where=where,
                hint="choose another version, or a copy of the file elsewhere",
            )
        return WeightsError(
            "missing",
            "CivitAI knows no such model or version: it was deleted, unpublished, or never there",
            where=where,
            # Its API lags behind its pages for some models: github.com/civitai/civitai/issues/1763.
            hint="check the number on the model's page: it is the version's, ?modelVersionId=… in the address, not the "
            "model's; if the page shows it, try again in a day or two",
        )
    if response.status_code == 401:
        return WeightsError("login", "CivitAI refuses the token (401)", where=where, hint=GET_TOKEN)
    return _explain_common(response, url) or explain_plainly(response, url)


def explain_download(
    response: requests.Response, url: str, *, token_state: Callable[[], TokenState]
) -> Exception:
    """Refusals of /api/download; the storage's own, at another host, are told apart by their address."""
    if not urlsplit(url).path.startswith("/api/download/"):
        return explain_storage(response, url)
    common = _explain_common(response, url)
    if common is not None:
        return common
    where = show_url(url)
    if response.status_code in _PLAIN:
        kind, what, hint = _PLAIN[response.status_code]
        error = WeightsError(kind, what, where=where, hint=hint)
        # A failure to resolve the storage looks like a missing file, and may pass.
        return RetryableError(error, attempts=3) if response.status_code == 404 else error
    body = read_json(response) or {}
    message = str(body.get("message") or body.get("error") or "").lower()
    if response.status_code == 401:
        return _explain_login(message, token_state, where)
    if response.status_code == 403:
        return _explain_access(body, message, token_state, where)
    return explain_plainly(response, url)


_PLAIN: dict[int, tuple[FailureKind, str, str]] = {
    400: (
        "http",
        "CivitAI does not accept the request (400)",
        "check the version and the file in the source",
    ),
    404: (
        "missing",
        "CivitAI does not find the file (404): the version was deleted or unpublished, "
        "or its storage has trouble",
        "look at the model's page; if the file is still there, try again later",
    ),
    410: (
        "archived",
        "the version is archived: CivitAI no longer gives its file out (410)",
        "choose another version, or a copy of the file elsewhere",
    ),
}


def _explain_common(response: requests.Response, url: str) -> Exception | None:
    """What means the same on every address of CivitAI."""
    where = show_url(url)
    status = response.status_code
    if status == 429:
        wait_s = retry_after_s(response)
        until = f"; it asks to wait {wait_s:.0f} s" if wait_s is not None else ""
        error = WeightsError(
            "quota",
            "CivitAI's quota is used up (429): it counts downloads per account, or per address "
            f"without a token, over the last 24 hours{until}",
            where=where,
            hint="try again later; " + GET_TOKEN,
        )
        return error if wait_s is None else RetryableError(error, wait_s=wait_s)
    if status == 451:
        return WeightsError(
            "region",
            "CivitAI does not serve this region (451)",
            where=where,
            hint="fetch from a machine elsewhere, or through HTTPS_PROXY",
        )
    if status == 503 or (is_html(response) and (status >= 500 or status in TRANSIENT_STATUSES)):
        error = WeightsError(
            "server",
            f"CivitAI is in maintenance or overloaded (HTTP {status})",
            where=where,
            hint="try again later",
        )
        return RetryableError(error, wait_s=retry_after_s(response))
    if is_html(response):
        return WeightsError(
            "page",
            f"CivitAI answers with a page for browsers (HTTP {status}): a challenge, or maintenance",
            where=where,
            hint="try again later, or from another network",
        )
    return None


def _explain_login(message: str, token_state: Callable[[], TokenState], where: str) -> WeightsError:
    if "disabled" in message:
        return WeightsError(
            "disabled",
            "the creator has disabled downloads of this version",
            where=where,
            hint="no token changes that; choose another version or model",
        )
    state = token_state()
    if state == "none":
        return WeightsError("login", "the file needs a login", where=where, hint=GET_TOKEN)
    if state == "invalid":
        return _invalid_token(where)
    return WeightsError(
        "login",
        "the file needs a login, and CivitAI does not accept the token for it",
        where=where,
        hint="open the file's page with the token's account; " + GET_TOKEN,
    )


def _explain_access(
    body: Mapping[str, Any], message: str, token_state: Callable[[], TokenState], where: str
) -> WeightsError:
    deadline = body.get("deadline")
    if "early access" in str(body.get("error", "")).lower() or deadline or "paid" in message:
        until = f" until {str(deadline)[:16]}" if _is_date(deadline) else ""
        who = "" if token_state() != "none" else ", and no token is set"
        return WeightsError(
            "early_access",
            f"the version is in early or paid access{until}{who}",
            where=where,
            hint="wait, or buy access with the token's account",
        )
    state = token_state()
    if state == "invalid":
        return _invalid_token(where)
    if state == "none":
        return WeightsError("login", "the file needs a login (403)", where=where, hint=GET_TOKEN)
    return WeightsError(
        "grant",
        "the token may not download this file (403)",
        where=where,
        hint="make an API key that may download, with an account that sees the file",
    )


def _invalid_token(where: str) -> WeightsError:
    # A wrong token is silently anonymous; only /api/v1/me tells.
    return WeightsError("login", "the token is wrong or has expired", where=where, hint=GET_TOKEN)


def _is_date(value: object) -> bool:
    return isinstance(value, str) and bool(_DATE.match(value))


def explain_storage(response: requests.Response, url: str) -> Exception:
    """Refusals of the storage that an origin redirects to."""
    where = show_url(url)
    if response.status_code == 400:
        return WeightsError(
            "http",
            "the storage does not accept the request (400)",
            where=where,
            hint="a proxy that adds an Authorization header would cause this",
        )
    if response.status_code == 404:
        missing = WeightsError(
            "missing",
            "the storage does not have the file (404)",
            where=where,
            hint="try again later",
        )
        return RetryableError(missing, attempts=3)
    return explain_plainly(response, url)
