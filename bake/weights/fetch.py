"""Bringing a pinned file into the store: resumed, hashed while it comes, and never twice at once."""

from __future__ import annotations

import hashlib
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import requests
from urllib3.exceptions import HTTPError

from bake.console import Console, format_bytes
from bake.errors import SourceError
from bake.lock import Pin
from bake.settings import Settings
from bake.weights.check import Facts, inspect_start, inspect_weights
from bake.weights.context import Context, Found, bake_errors, to_bake_error
from bake.weights.providers import RemoteProvider, parse_pinned, provider_for
from bake.weights.sites import local
from bake.weights.sources import Source
from bake.weights.store import Store
from bake.weights.transfer.download import run_download
from bake.weights.transfer.judge import Options
from bake.weights.transfer.locations import remember
from bake.weights.transfer.partial import PartFile
from bake.weights.transfer.remote import Remote
from runtime.files.answers import (
    RetryableError,
    content_length,
    parse_content_range,
    pause_after,
    refuse_page,
)
from runtime.files.errors import WeightsError
from runtime.files.sniff import SNIFF_BYTES, identify_start
from runtime.retry import Retry

LOOK_BYTES = 4 << 20
"""Enough for the header of nearly every file; only as much as the header has is read."""
_READ_BYTES = 64 << 10
_LOOK_ATTEMPTS = 3


def fetch_pin(
    pin: Pin, *, store: Store, settings: Settings, console: Console, folder: Path = Path()
) -> Path:
    """The pinned file in the store, verified, mode 0644, mtime WEIGHTS_MTIME.

    Args:
        pin: From the lock. Where its size is unknown, `store.size_of(pin.sha256)` tells it afterwards.
        store: Where it goes; a lease on the digest keeps `bake store gc` away from it.
        settings: Tokens and addresses.
        console: Progress.
        folder: The manifest's folder, from which `file:` sources start.

    Raises:
        SourceError: the source refuses, or has something else than the pin.
        MachineError: the disk is full.
    """
    if store.has(pin.sha256):
        store.touch(pin.sha256)
        return store.path_of(pin.sha256)
    context = Context(settings=settings, store=store, console=console, folder=folder)
    source = parse_pinned(pin.source, where=pin.key)
    provider = provider_for(source)
    if provider is None:
        with bake_errors(pin.key):
            local.take_file(context, source, where=pin.key, expected=pin.sha256)
        return store.path_of(pin.sha256)
    with store.lock(pin.sha256, console=console, label=pin.file_name):
        if not store.has(pin.sha256):
            _download_pin(context, provider, source, pin)
    return store.path_of(pin.sha256)


def _download_pin(context: Context, provider: RemoteProvider, source: Source, pin: Pin) -> None:
    if pin.size_bytes is not None:
        _check_space(context, pin.sha256, pin.size_bytes, what=pin.file_name)
    remote = provider.open(context, source, pin)
    try:
        _download(
            context,
            remote,
            key=pin.sha256,
            label=pin.file_name,
            connections=provider.connections,
            size_bytes=pin.size_bytes,
            sha256=pin.sha256,
        )
    except WeightsError as error:
        if error.kind in ("hash", "size"):
            raise _explain_mismatch(context, provider, source, pin, error) from error
        raise to_bake_error(error, where=pin.key) from error
    finally:
        remote.client.close()


def download_once(
    context: Context, provider: RemoteProvider, source: Source, found: Found, *, where: str
) -> tuple[str, int]:
    """Downloads a file of which no digest is known; gives its SHA256 and bytes, and keeps it in the store."""
    key = hashlib.sha256(found.url.encode()).hexdigest()
    remote = provider.open(context, source, found)
    try:
        with (
            bake_errors(where),
            context.store.lock(key, console=context.console, label=found.file_name),
        ):
            sha256 = _download(
                context,
                remote,
                key=key,
                label=found.file_name,
                connections=provider.connections,
                size_bytes=found.size_bytes,
                sha256=None,
            )
    finally:
        remote.client.close()
    return sha256, context.store.size_of(sha256)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the beginning of a file tells before it is fetched; None where it does not."""

    size_bytes: int | None = None
    facts: Facts | None = None


def look_at(context: Context, provider: RemoteProvider, source: Source, found: Found) -> Look:
    """The exact size of a file whose digest alone is published, and what its header says.

    It costs one redirect; the address that comes with it is kept for the download of this process. A
    refusal is no reason not to pin, but is said now rather than after an hour of building.

    Raises:
        WeightsError: the storage has a file of quite another size than the record says.
        SourceError: it is no file of weights.
    """
    remote = provider.open(context, source, found)
    try:
        with _open_start(context, remote) as response:
            size = found.size_bytes or _size_in(response)
            _compare_sizes(size, found)
            return Look(size_bytes=size, facts=_read_facts(response, size, found))
    except (RetryableError, requests.RequestException, HTTPError, OSError):
        return Look()
    except WeightsError as error:
        if error.kind == "size":
            raise
        context.console.warn(f"{found.file_name}: not to be downloaded now: {error}")
        return Look()
    finally:
        remember(remote)
        remote.client.close()


def _compare_sizes(size: int | None, found: Found) -> None:
    about = found.about_bytes
    if size is not None and about is not None and abs(size - about) > 4096 + about // 100:
        raise WeightsError(
            "size",
            f"the storage has {size} bytes, the record says about {about}",
            where=found.file_name,
            hint="try again later, or from another network",
        )


def _read_facts(response: requests.Response, size: int | None, found: Found) -> Facts | None:
    """None for a file whose header is longer than what was asked for."""
    start = response.raw.read(SNIFF_BYTES, decode_content=False)
    length = int.from_bytes(start[:8], "little")
    if size is None or (identify_start(start) == "safetensors" and length > LOOK_BYTES - 8):
        return None
    rest = iter(lambda: response.raw.read1(_READ_BYTES, decode_content=False), b"")
    return inspect_start(itertools.chain([start], rest), size, where=found.file_name)


def _size_in(response: requests.Response) -> int | None:
    """The size of the file whose beginning was asked for; a server without ranges gives all of it."""
    if response.status_code == 200:
        return content_length(response) or None
    served = parse_content_range(response.headers.get("Content-Range", ""))
    return served.total if served else None


def _open_start(context: Context, remote: Remote) -> requests.Response:
    retry = Retry(attempts=_LOOK_ATTEMPTS, backoff_s=context.settings.backoff_s)
    for tries in itertools.count(1):
        try:
            response = remote.open_range(0, LOOK_BYTES)
            refuse_page(response, remote.url)
            return response
        except RetryableError as failure:
            time.sleep(pause_after(failure, tries, retry))
    raise AssertionError("unreachable")


def _download(
    context: Context,
    remote: Remote,
    *,
    key: str,
    label: str,
    connections: int,
    size_bytes: int | None,
    sha256: str | None,
) -> str:
    part = PartFile(context.store.partial_path(key))
    console = context.console

    def say_retry(failure: WeightsError, wait_s: float) -> None:
        if wait_s >= 1:
            console.say(f"{label}: {failure.what}; again in {wait_s:.0f} s")

    with console.progress(label, size_bytes) as progress:
        options = Options(
            size_bytes=size_bytes,
            sha256=sha256,
            connections=context.settings.connections or connections,
            retry=Retry(backoff_s=context.settings.backoff_s),
            on_bytes=progress.advance,
            on_size=lambda size: _check_space(context, key, size, what=label),
            on_retry=say_retry,
        )
        found = run_download(remote, part, options)
    if sha256 is None:
        # Without a digest to compare with, the file itself must prove that it is whole.
        try:
            inspect_weights(part.path, where=label)
        except SourceError:
            part.reset()
            raise
    context.store.admit(part.path, found)
    return found


def _check_space(context: Context, key: str, size_bytes: int, *, what: str) -> None:
    part = context.store.partial_path(key)
    held = part.stat().st_blocks * 512 if part.exists() else 0
    if size_bytes > held:
        context.store.check_space(size_bytes - held, what=what)


def _explain_mismatch(
    context: Context, provider: RemoteProvider, source: Source, pin: Pin, error: WeightsError
) -> SourceError:
    """Says which of pin, source and storage is the odd one out. Nothing of the wrong file was kept."""
    try:
        published = provider.published_sha256(context, source, pin)
    except (SourceError, WeightsError):
        published = None
    if published is None:
        blame = "the source publishes no digest to compare with: the file was replaced or damaged"
        hint = "bake lock MANIFEST again, if the source is still to be trusted"
    elif published == pin.sha256 and error.kind == "size":
        blame = "pin and source agree on the digest, so the lock's size or the storage is wrong"
        hint = "if the lock was edited, delete it and bake lock MANIFEST; else try again later"
    elif published == pin.sha256:
        blame = "pin and source agree, so the storage or a cache on the way sends a wrong file"
        # CivitAI has records with another file's digest: github.com/civitai/civitai/issues/426.
        hint = (
            "try again later, or from another network; if that does not help, the source's record is wrong: "
            "download the file, look at it, and write file:path"
        )
    else:
        blame = f"the source itself now says {published}: the file was replaced after it was pinned"
        hint = "bake update MANIFEST shows the difference and moves the pin"
    return SourceError(f"{error.what}; {blame}", where=f"{pin.key} at {error.where}", hint=hint)


def describe_size(size_bytes: int | None) -> str:
    """Bytes for people; a size that only the first fetch will tell is said to be unknown."""
    return "size unknown" if size_bytes is None else format_bytes(size_bytes)
