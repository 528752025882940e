"""Addresses of a registry: by TLS or not, where an upload goes on, where a download is redirected to."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit, urlunsplit

import requests

from bake.errors import PushError
from bake.settings import is_sealed
from runtime.files.http import Session, encoded_location


def find_scheme(session: Session, api_host: str, timeout_s: float) -> str:
    """TLS everywhere but on loopback, where a plain server answers a plain request properly."""
    if not is_sealed(f"http://{api_host}"):
        return "https"
    try:
        with session.get(
            f"http://{api_host}/v2/", timeout=timeout_s, allow_redirects=False, stream=True
        ) as probe:
            return "https" if probe.status_code == 400 else "http"
    except requests.exceptions.ConnectTimeout:
        return "http"
    except requests.RequestException as error:
        return "http" if "refused" in str(error) else "https"


def own_url(location: str, *, base: str, after: str, host: str) -> str:
    """The absolute form of a registry's Location.

    A proxy that ends TLS often makes registries name `http://`: scheme and port stay ours.

    Args:
        location: The header.
        base: The registry's address.
        after: The address that was asked, or its path.
        host: The registry's name, for the message.

    Raises:
        PushError: it leads to another host, which gets neither our bytes nor our token.
    """
    try:
        absolute = urlsplit(
            urljoin(after if "://" in after else base + after, encoded_location(location))
        )
        name = absolute.hostname
    except ValueError as error:
        raise PushError("the registry's Location is no address", where=host) from error
    own = urlsplit(base)
    if not location or name != own.hostname:
        raise PushError(
            f"the registry sent an upload to another host ({name})"
            if location
            else "the registry did not say where an upload goes on (no Location)",
            where=host,
        )
    return urlunsplit((own.scheme, own.netloc, absolute.path, absolute.query, ""))


def redirect_target(response: requests.Response, *, host: str) -> str:
    """Where a redirected download goes on.

    Raises:
        PushError: to no address, or to one that is neither of TLS nor on this machine.
    """
    try:
        target = urljoin(response.url, encoded_location(response.headers["Location"]))
    except (KeyError, ValueError) as error:
        raise PushError("the registry redirects to no address", where=host) from error
    if not is_sealed(target):
        raise PushError("the registry redirects to an address without TLS", where=host)
    return target


def is_same_origin(url: str, other: str) -> bool:
    """Whether two addresses are of one server."""
    first, second = urlsplit(url), urlsplit(other)
    return (first.scheme, first.netloc.lower()) == (second.scheme, second.netloc.lower())
