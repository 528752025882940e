"""What a server's answer says of a file, and whether that can be the file that was asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import requests
from urllib3.exceptions import HTTPError

from runtime.files.answers import (
    ANOTHER_WAY,
    ContentRange,
    content_length,
    parse_content_range,
    refuse_page,
    refuse_start,
)
from runtime.files.errors import WeightsError
from runtime.files.policy import show_url
from runtime.files.sniff import SNIFF_BYTES
from runtime.retry import USUAL, Retry

SEGMENT_BYTES = 32 << 20


class RestartError(Exception):
    """What is there cannot be continued; the file begins again at its first byte."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a file is fetched, and what is known of it beforehand."""

    size_bytes: int | None = None
    """Any other length is an error."""
    sha256: str | None = None
    """Lower-case hex. With it, bytes of two servers may be mixed, since the digest judges the whole."""
    connections: int = 1
    segment_bytes: int = SEGMENT_BYTES
    retry: Retry = USUAL
    """How often in a row, without a byte between."""
    on_bytes: Callable[[int], None] | None = None
    """Called in the calling thread with the bytes that came since; what it raises ends the download."""
    on_size: Callable[[int], None] | None = None
    """Called with the size once it is known, before room is reserved for it."""
    on_retry: Callable[[WeightsError, float], None] | None = None
    """Called with the failure and the seconds of the pause after it."""


@dataclass(frozen=True, kw_only=True)
class Lead:
    """What the first answer says."""

    ends_at: int | None
    """Offset after the last byte that it will send; None if unknown."""
    total: int | None
    has_ranges: bool


def judge_lead(response: requests.Response, start: int, options: Options, url: str) -> Lead:
    """Judges the answer to a pass's first request, which asked for bytes from `start` on.

    Raises:
        WeightsError: this is not the file.
        RestartError: it is, but not to be continued at `start`.
    """
    refuse_page(response, url)
    if response.status_code == 200:
        if start:
            raise RestartError("the server does not continue downloads")
        total = content_length(response)
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if total is None and not chunked and options.size_bytes is None and options.sha256 is None:
            raise WeightsError(
                "http",
                "the server does not say how long the file is, so a broken one could not be told",
                where=show_url(url),
            )
        lead = Lead(ends_at=total, total=total, has_ranges=False)
    else:
        served = served_range(response, start, options, url)
        lead = Lead(ends_at=served.end, total=served.total, has_ranges=True)
    _judge_total(lead.total, response, start, options, url)
    return lead


def _judge_total(
    total: int | None, response: requests.Response, start: int, options: Options, url: str
) -> None:
    if total is None:
        return
    if total == 0:
        raise WeightsError("not_weights", "the file is empty", where=show_url(url))
    if options.size_bytes is not None and total != options.size_bytes:
        if start == 0:
            _refuse_body(response, url)
        raise wrong_size(total, options, url)


def _refuse_body(response: requests.Response, url: str) -> None:
    """As `refuse_start`, of a body of which nothing is read yet and nothing else is wanted."""
    with contextlib.suppress(HTTPError, OSError):
        refuse_start(response.raw.read(SNIFF_BYTES, decode_content=False), url)


def judge_segment(
    response: requests.Response, start: int, size_bytes: int, options: Options, url: str
) -> None:
    """Judges the answer to a later request. Raises like `judge_lead`."""
    refuse_page(response, url)
    if response.status_code == 200:
        # One backend knew ranges, this one does not: CivitAI has two, and chooses anew each time.
        raise RestartError("the server does not continue downloads")
    served = served_range(response, start, options, url)
    if served.total != size_bytes:
        if options.size_bytes is not None:
            raise wrong_size(served.total, options, url)
        raise RestartError("the file has changed its length")


def served_range(
    response: requests.Response, start: int, options: Options, url: str
) -> ContentRange:
    """The range of a 206, whose start and total must be right; a 416 raises."""
    served = parse_content_range(response.headers.get("Content-Range", ""))
    if response.status_code == 416:
        total = served.total if served else None
        if options.size_bytes is not None or start == 0:
            raise wrong_size(total, options, url)
        raise RestartError("the file has become shorter")
    if served is None or served.start != start or served.total is None:
        raise WeightsError(
            "http",
            "the server answers with a range that nobody asked for",
            where=show_url(url),
            hint=ANOTHER_WAY,
        )
    return served


def wrong_size(total: int | None, options: Options, url: str) -> WeightsError:
    """The error for a file of another length than the known one."""
    found = "a file of another length" if total is None else f"{total} bytes"
    if options.size_bytes is None:
        return WeightsError("size", "the server has no bytes to give", where=show_url(url))
    return WeightsError(
        "size",
        f"the server has {found}, {options.size_bytes} were expected",
        where=show_url(url),
    )
