"""A pinned file past the store, from its source to whoever reads it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import requests

from bake.console import Console
from bake.errors import SourceError
from bake.image.oci.model import FileContent, skip_bytes
from bake.image.oci.streamed import StreamedFile
from bake.lock import Pin
from bake.settings import Settings
from bake.weights.context import Context, bake_errors, to_bake_error
from bake.weights.providers import parse_pinned, provider_for
from bake.weights.sites.local import find_file
from bake.weights.store import Store
from bake.weights.transfer.remote import Remote
from runtime.files.answers import RetryableError, connection_failure, pause_after
from runtime.files.errors import WeightsError
from runtime.retry import USUAL, Retry

_READ_BYTES = 256 << 10


def read_remote(remote: Remote, *, retry: Retry = USUAL) -> Callable[[int], Iterator[bytes]]:
    """Reads a remote file from any offset; a cut connection is taken up where it broke.

    The function that is returned raises SourceError when the source refuses, or breaks too often.
    """

    def read(offset_bytes: int) -> Iterator[bytes]:
        position = offset_bytes
        tries = 0
        while True:
            try:
                with remote.open_range(position, None) as response:
                    if response.status_code == 416:
                        return  # nothing lies behind the end
                    body: Iterator[bytes] = response.iter_content(_READ_BYTES)
                    if response.status_code == 200:
                        body = skip_bytes(body, position)
                    for chunk in body:
                        position, tries = position + len(chunk), 0
                        yield chunk
                    return
            except RetryableError as error:
                failure = error
            except WeightsError as error:
                raise to_bake_error(error) from error
            except requests.RequestException as error:
                failure = RetryableError(connection_failure(error, remote.url))
            tries += 1
            try:
                pause_s = pause_after(failure, tries, retry)
            except WeightsError as last:
                raise to_bake_error(last) from last
            time.sleep(pause_s)

    return read


@contextmanager
def stream_pin(
    pin: Pin, path: PurePosixPath, *, settings: Settings, store: Store, console: Console, folder: Path = Path()
) -> Iterator[StreamedFile]:  # fmt: skip
    """The pinned file, for a `StreamedLayer` that is handed to `push_stream`; the store is only read.

    Args:
        pin: From the lock.
        path: Where the file lies in the image.
        settings: Tokens and addresses.
        store: Gives the file where it has it, which spares the download.
        console: Progress of the source.
        folder: The manifest's folder, from which `file:` sources start.

    Raises:
        SourceError: the lock does not say how long the file is, or the source is wrong.
    """
    if store.has(pin.sha256):
        yield _file(pin, path, FileContent(path=store.path_of(pin.sha256)), is_proven=True)
        return
    source = parse_pinned(pin.source, where=pin.key)
    provider = provider_for(source)
    context = Context(settings=settings, store=store, console=console, folder=folder)
    if provider is None:
        with bake_errors(pin.key):
            find_file(context, source, where=pin.key)
        yield _file(pin, path, FileContent(path=folder / (source.path or "")))
        return
    remote = provider.open(context, source, pin)
    try:
        yield _file(pin, path, read_remote(remote, retry=Retry(backoff_s=settings.backoff_s)))
    finally:
        remote.client.close()


def _file(
    pin: Pin,
    path: PurePosixPath,
    content: FileContent | Callable[[int], Iterator[bytes]],
    *,
    is_proven: bool = False,
) -> StreamedFile:
    if pin.size_bytes is None:
        raise SourceError(
            "the lock does not say how long the file is, so it cannot be streamed",
            where=pin.key,
            hint="bake lock MANIFEST again with network, or bake with the store",
        )
    return StreamedFile(
        path=path,
        size_bytes=pin.size_bytes,
        sha256=pin.sha256,
        open_at=content.chunks if isinstance(content, FileContent) else content,
        where=pin.key,
        is_proven=is_proven,
    )
