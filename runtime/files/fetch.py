"""Fetching one address into one file: what a worker does for a LoRA that a request names by URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runtime.files.answers import Options
from runtime.files.download import Download
from runtime.files.errors import WeightsError
from runtime.files.http import Client, Credentials, Timeouts
from runtime.files.locks import locked
from runtime.files.partial import PartFile
from runtime.files.policy import HostPolicy, show_url
from runtime.files.remote import Explain, Remote, explain_plainly


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A complete file."""

    path: Path
    size_bytes: int
    sha256: str
    """Lower-case hex, of the bytes that were received."""
    url: str
    """Where it came from, without query."""


def fetch_url(
    url: str,
    target: Path,
    *,
    policy: HostPolicy,
    max_bytes: int | None = None,
    timeouts: Timeouts | None = None,
    sha256: str | None = None,
    size_bytes: int | None = None,
    connections: int = 1,
    credentials: Credentials | None = None,
    ca_bundle: str | None = None,
    proxies_from_environment: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    explain: Explain = explain_plainly,
    backoff_s: float = 1.0,
) -> Fetched:
    """Downloads `url` to `target`, which appears complete or not at all.

    An unfinished download stays beside it (`<target>.part` with a journal) and is resumed by the next
    call. Two calls for one target, from threads or processes, download it once.

    Args:
        url: https only; http on loopback if the policy allows loopback. Redirects are judged alike.
        target: The file to make; its folder is made too.
        policy: Which hosts and addresses may be asked.
        max_bytes: More than this is refused, at the announced length or at the byte that exceeds it.
        timeouts: Connect, stall and total seconds; without `total_s` retries go on while there is progress.
        sha256: The digest that the file must have.
        size_bytes: The length that it must have.
        connections: How many at once, if the server serves ranges.
        credentials: A header for one origin; never sent anywhere else.
        ca_bundle: A file of certificates in place of certifi's.
        proxies_from_environment: Use HTTPS_PROXY and NO_PROXY; the proxy then resolves names.
        on_bytes: Progress, called in this thread; what it raises cancels the download.
        explain: Makes an error of a refusal.
        backoff_s: Seconds of the first pause between attempts.

    Raises:
        WeightsError: kinds `host`, `redirect`, `login`, `tls`, `connection`, `stalled`, `too_slow`,
            `http`, `server`, `quota`, `expired`, `page`, `size`, `too_large`, `hash`, `disk`, `not_weights`.
    """
    policy.check_url(url)
    timeouts = timeouts or Timeouts()
    options = Options(
        size_bytes=size_bytes,
        sha256=sha256,
        max_bytes=max_bytes,
        connections=connections,
        total_s=timeouts.total_s,
        on_bytes=on_bytes,
        backoff_s=backoff_s,
    )
    client = Client(
        policy,
        timeouts=timeouts,
        credentials=credentials,
        ca_bundle=ca_bundle,
        proxies_from_environment=proxies_from_environment,
    )
    part = PartFile(target.with_name(target.name + ".part"))
    try:
        with locked(target.with_name(target.name + ".lock")):
            if sha256 is not None and target.is_file():
                return _described(target, sha256, url)
            found = run_download(Remote(client, url, explain=explain), part, options)
            part.path.replace(target)
            return _described(target, found, url)
    finally:
        client.close()


def run_download(remote: Remote, part: PartFile, options: Options) -> str:
    """Runs one download and compares its digest; a wrong file is thrown away.

    If bytes of an earlier attempt were part of a wrong result, the fault may be theirs: the file is
    downloaded once more from its first byte before the server is blamed.
    """
    for _ in range(2):
        download = Download(remote, part, options)
        try:
            found = download.run()
        except WeightsError as error:
            is_other = error.kind in ("page", "size", "too_large", "not_weights")
            if is_other or not part.done.total:  # room that was reserved for nothing is given back
                part.reset()
            raise
        if options.sha256 in (None, found):
            return found
        part.reset()
        if not download.resumed_bytes:
            break
    raise WeightsError(
        "hash",
        f"the server sent a file with SHA256 {found}, {options.sha256} was expected",
        where=show_url(remote.url),
    )


def file_name_of(url: str) -> str:
    """The last part of an address's path, with nothing in it that a file name should not have."""
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".") or "file"


def _described(path: Path, sha256: str, url: str) -> Fetched:
    return Fetched(path=path, size_bytes=path.stat().st_size, sha256=sha256, url=show_url(url))
