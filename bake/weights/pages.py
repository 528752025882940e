"""Where people read about what is pinned: the page of a pin, as its site shows it."""

from __future__ import annotations

from urllib.parse import urlsplit

from bake.lock import Pin
from bake.settings import CIVITAI_URL


def page_of(pin: Pin) -> str | None:
    """An https address, or None: a file of this machine, or a server that is spoken to without TLS, has none."""
    if pin.model_id is not None:
        version = f"?modelVersionId={pin.version_id}" if pin.version_id is not None else ""
        return f"{CIVITAI_URL}/models/{pin.model_id}{version}"
    try:
        parts = urlsplit(pin.url)
    except ValueError:
        return None
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        return None
    # Hugging Face shows under blob what it gives under resolve.
    return pin.url.replace("/resolve/", "/blob/", 1) if pin.revision else pin.url
