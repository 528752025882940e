"""What a server's answer means: a refusal, a page in place of the file, a range, a time to wait."""

from __future__ import annotations

import email.utils
import re
import time
from dataclasses import dataclass

import requests

from runtime.files.errors import WeightsError
from runtime.files.policy import show_url
from runtime.files.sniff import LFS_HINT, LFS_POINTER, SNIFF_BYTES, describe, identify_start
from runtime.retry import TRANSIENT_STATUSES, Retry

_CONTENT_RANGE = re.compile(r"^bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)$")
_RATE_LIMIT = re.compile(r"\bt=(\d{1,9})\b")
_PACKINGS = {"gzip", "x-gzip", "compress", "x-compress", "deflate", "br", "zstd", "dcb", "dcz"}
"""Of IANA's registry of content codings (EXI and pack200 are of XML and Java)."""
ANOTHER_WAY = (
    "a proxy or cache on the way may be at fault: try again later, or from another network"
)


class RetryableError(Exception):
    """A failure that may pass.

    Args:
        failure: What is raised when it does not.
        wait_s: Seconds that the server asks us to wait.
        attempts: Tries in all, at most; None for as many as the rule of the undertaking allows.
    """

    def __init__(
        self, failure: WeightsError, *, wait_s: float | None = None, attempts: int | None = None
    ) -> None:
        super().__init__(failure.what)
        self.failure = failure
        self.reached: int | None = None
        """The offset after the last byte that came before it."""
        self.wait_s = wait_s
        self.attempts = attempts


def pause_after(failure: RetryableError, tries: int, retry: Retry) -> float:
    """Seconds until the next try, after so many in a row.

    Raises:
        WeightsError: the failure itself, where there is no other try.
    """
    pause_s = retry.at_most(failure.attempts).pause_s(tries, asked_s=failure.wait_s)
    if pause_s is None:
        raise failure.failure
    return pause_s


def explain_plainly(response: requests.Response, url: str) -> Exception:
    """The meaning of a refusal by a server of which nothing else is known."""
    status = response.status_code
    where = show_url(url)
    wait_s = retry_after_s(response)
    if status == 429:
        error = WeightsError("quota", "the server refuses further requests (429)", where=where)
        return RetryableError(error, wait_s=wait_s) if wait_s is not None else error
    if status in TRANSIENT_STATUSES:
        error = WeightsError(
            "server",
            f"the server is in trouble (HTTP {status})",
            where=where,
            hint="try again later",
        )
        return RetryableError(error, wait_s=wait_s)
    what, hint = _MEANINGS.get(status, (f"the server answers HTTP {status}", None))
    return WeightsError("http", what, where=where, hint=hint)


_BROWSE = "open the address in a browser to see what it asks for"
_MEANINGS = {
    400: ("the server does not accept the request (400)", "check the address"),
    401: ("the file needs a login (401)", _BROWSE),
    403: ("the server refuses access (403)", _BROWSE),
    404: ("there is no such file (404)", "check the address"),
    410: ("the file is gone (410)", "look for a copy elsewhere"),
    451: ("the file may not be served in this region (451)", "fetch it from a machine elsewhere"),
}


def retry_after_s(response: requests.Response) -> float | None:
    """Seconds of a `Retry-After` header, in either form, or of the hub's `RateLimit`; None without one."""
    limit = _RATE_LIMIT.search(response.headers.get("RateLimit", ""))
    if limit and response.status_code == 429:
        return float(limit[1])
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        at = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, at - time.time())


@dataclass(frozen=True, kw_only=True)
class ContentRange:
    """A parsed `Content-Range`; `start` and `end` (exclusive) are None where nothing was served."""

    start: int | None
    end: int | None
    total: int | None


def parse_content_range(text: str) -> ContentRange | None:
    """None if the text is of no valid form."""
    match = _CONTENT_RANGE.match(text.strip())
    if not match:
        return None
    total = None if match[3] == "*" else int(match[3])
    if match[1] is None:
        return ContentRange(start=None, end=None, total=total)
    start, end = int(match[1]), int(match[2]) + 1
    if end <= start or (total is not None and end > total):
        return None
    return ContentRange(start=start, end=end, total=total)


def refuse_page(response: requests.Response, url: str) -> None:
    """Raises WeightsError (kind `page`) for an HTML page, and for a body that is packed against our wish.

    Buckets give back whatever the uploader wrote there (nothing, `aws-chunked`, `binary`, `utf-8`): what is
    no packing that HTTP knows is no reason to refuse a file whose bytes are looked at anyway.
    """
    kind = response.headers.get("Content-Type", "").split(";", 1)[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise page_error("an HTML page", url)
    encodings = response.headers.get("Content-Encoding", "").lower().split(",")
    packed = {each.strip() for each in encodings} & _PACKINGS
    if packed:
        raise WeightsError(
            "http",
            f"the server packs the file ({min(packed)}), although we ask for it as it is",
            where=show_url(url),
            hint=ANOTHER_WAY,
        )


def refuse_start(chunk: bytes, url: str) -> None:
    """Raises WeightsError (kind `page`) if a file's first bytes are those of a page or message."""
    if identify_start(chunk[:SNIFF_BYTES]) == "page":
        raise page_error(describe(chunk[:SNIFF_BYTES]), url)


def page_error(found: str, url: str) -> WeightsError:
    """The error for a page that came in place of the file."""
    login = "it may need a login, or be in maintenance: open the address in a browser"
    return WeightsError(
        "page",
        f"the server sent {found} in place of the file",
        where=show_url(url),
        hint=LFS_HINT if found == LFS_POINTER else login,
    )


def validator_of(response: requests.Response) -> str | None:
    """What tells versions of a file apart where no digest is known. It is no digest itself."""
    return response.headers.get("ETag") or response.headers.get("Last-Modified")


def linked_sha256(response: requests.Response) -> str | None:
    """The digest that Hugging Face's hub names where it sends us on; its storage may say nothing of the file."""
    for each in response.history:
        etag = each.headers.get("X-Linked-Etag", "").strip('"').lower()
        if re.fullmatch(r"[0-9a-f]{64}", etag):
            return etag
    return None


def content_length(response: requests.Response) -> int | None:
    """What a whole answer says of its length."""
    return whole_number(response.headers.get("Content-Length", ""))


def whole_number(text: str) -> int | None:
    """A header's number of bytes; None for any other text, and for more than a file can have."""
    return int(text) if text.isdecimal() and len(text) < 19 else None


def stalled(url: str) -> WeightsError:
    """The error for a server that stays silent."""
    return WeightsError(
        "stalled", "the server stopped sending", where=show_url(url), hint="try again later"
    )


def transport_failure(error: requests.RequestException, url: str) -> Exception:
    """What a transport's failure means: a RetryableError, but for a certificate that is not trusted."""
    failure = connection_failure(error, url)
    return failure if failure.kind == "tls" else RetryableError(failure)


def connection_failure(error: requests.RequestException, url: str) -> WeightsError:
    """What a transport's failure means, without the address's query that its own text holds."""
    where = show_url(url)
    if isinstance(error, requests.exceptions.SSLError):
        return WeightsError("tls", "the server's certificate is not trusted here", where=where)
    if isinstance(error, requests.exceptions.ProxyError):
        return WeightsError("connection", "the proxy cannot be reached", where=where)
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return WeightsError("connection", "the server does not answer", where=where)
    if isinstance(error, requests.exceptions.ReadTimeout):
        return stalled(url)
    return WeightsError(
        "connection",
        "the server cannot be reached, or broke the connection",
        where=where,
        hint="check the network (a proxy goes into HTTPS_PROXY)",
    )
