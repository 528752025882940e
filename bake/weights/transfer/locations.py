"""Storage addresses that this process has asked for already.

`bake image` locks and fetches in one go; CivitAI counts each redirect against a quota, so the one that
told the size serves the download as well. In memory only: such an address is a secret for a day.
"""

from __future__ import annotations

import threading
import time

from bake.weights.transfer.remote import Remote
from runtime.files.http import Client

LIFETIME_S = 1800.0
"""B2's addresses live for about an hour, R2's for a day."""

_lock = threading.Lock()
_known: dict[tuple[str, str], tuple[str, float]] = {}


def remember(remote: Remote) -> None:
    """Keeps where the remote's address led to, for the same credentials: accounts may get other bytes."""
    if remote.location is not None and remote.location != remote.url:
        with _lock:
            _known[_key(remote.client, remote.url)] = (remote.location, time.monotonic())


def recall(client: Client, url: str) -> str | None:
    """Where `url` led to less than half an hour ago."""
    with _lock:
        location, since = _known.get(_key(client, url), (None, 0.0))
    return location if time.monotonic() - since < LIFETIME_S else None


def _key(client: Client, url: str) -> tuple[str, str]:
    return url, client.credentials.value if client.credentials else ""
