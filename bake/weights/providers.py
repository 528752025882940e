"""The providers of weights whose bytes come over HTTP, in one ordered list. Another is another entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bake.errors import SourceError
from bake.lock import Pin
from bake.weights.context import Context, Found, Newer
from bake.weights.sites import civitai, huggingface, web
from bake.weights.sources import Provider, Source, SourceFormError, parse_source
from bake.weights.transfer.remote import Remote

Target = Found | Pin
"""What names one exact file: an answer, or what was pinned from one."""


@dataclass(frozen=True, kw_only=True)
class RemoteProvider:
    """What is to be known of a provider."""

    name: Provider
    find: Callable[[Context, Source], Found]
    """Asks what the source names now."""
    open: Callable[[Context, Source, Target], Remote]
    """The file itself, not yet asked for; the caller closes its client."""
    connections: int
    published_sha256: Callable[[Context, Source, Pin], str | None]
    """What the source says today that the pinned file's digest is; None where it publishes none."""
    newer: Callable[[Context, Source, Pin], list[Newer] | None]
    """What was published after the pin, the newest first; None where that cannot be asked."""


def _find_web(_context: Context, source: Source) -> Found:
    return web.find_web(source)


def _open_web(context: Context, source: Source, _target: Target) -> Remote:
    return web.open_web(context, source)


REMOTE_PROVIDERS: tuple[RemoteProvider, ...] = (
    RemoteProvider(
        name="civitai",
        find=civitai.find_civitai,
        open=civitai.open_civitai,
        connections=civitai.CONNECTIONS,
        published_sha256=civitai.published_sha256,
        newer=civitai.newer_civitai,
    ),
    RemoteProvider(
        name="huggingface",
        find=huggingface.find_huggingface,
        open=huggingface.open_huggingface,
        connections=huggingface.CONNECTIONS,
        published_sha256=huggingface.published_sha256,
        newer=huggingface.newer_huggingface,
    ),
    RemoteProvider(
        name="https",
        find=_find_web,
        open=_open_web,
        connections=web.CONNECTIONS,
        published_sha256=lambda _context, _source, _pin: None,
        newer=lambda _context, _source, _pin: None,
    ),
)


def provider_for(source: Source) -> RemoteProvider | None:
    """The provider of a source; None for a local file."""
    for provider in REMOTE_PROVIDERS:
        if provider.name == source.provider:
            return provider
    return None


def parse_pinned(text: str, *, where: str) -> Source:
    """Parses a source, with the error that a command ends with."""
    try:
        return parse_source(text)
    except SourceFormError as error:
        raise SourceError(str(error), where=where) from error
