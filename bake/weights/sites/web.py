"""`https:` sources: any server. It publishes no digest, so the file is pinned by downloading it once."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from bake.weights.context import Context, Found
from bake.weights.sources import Source
from bake.weights.transfer.remote import Remote
from runtime.files.policy import HostPolicy, is_loopback_host, show_url

CONNECTIONS = 2
"""For a server of which nothing is known."""


def find_web(source: Source) -> Found:
    """Names the file by the address alone."""
    url = source.url or ""
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    return Found(file_name=name or "file", url=show_url(url), sha256=None)


def open_web(context: Context, source: Source) -> Remote:
    """The file; whoever wrote the address vouches for its host, not for where that redirects to."""
    url = source.url or ""
    host = (urlsplit(url).hostname or "").lower()
    policy = HostPolicy(loopback=is_loopback_host(host), private_hosts=(host,))
    return Remote(context.client(policy), url)
