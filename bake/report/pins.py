"""The pins as a report holds them: with the licence in words, and the page where it can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from bake.lock import ExtensionPin, Lock, Pin
from bake.settings import CIVITAI_URL
from bake.weights.licences import describe_licence, extension_warnings, pin_warnings


def describe_pins(lock: Lock, sizes_bytes: Mapping[str, int]) -> list[dict[str, Any]]:
    """One entry for each pin, JSON; `sizes_bytes` by digest, where a lock does not know the size."""
    return [
        {
            "key": pin.key,
            "role": pin.role,
            "name": pin.name,
            "file_name": pin.file_name,
            "title": pin.title,
            "source": pin.source,
            "page": page_of(pin),
            "sha256": pin.sha256,
            "size_bytes": sizes_bytes.get(pin.sha256, pin.size_bytes),
            "base_model": pin.base_model,
            "published_at": pin.published_at,
            "trigger_words": list(pin.trigger_words),
            "licence": describe_licence(pin),
            "warnings": pin_warnings(pin),
        }
        for pin in lock.pins
    ] + [_describe_extension(pin) for pin in lock.extensions]


def _describe_extension(pin: ExtensionPin) -> dict[str, Any]:
    """An extension, in the form of a pin: its commit is its version."""
    return {
        "key": pin.key,
        "role": "extension",
        "name": pin.name,
        "file_name": pin.name,
        "title": f"{pin.name} {pin.ref or ''} {pin.commit[:12]}".replace("  ", " "),
        "source": pin.url,
        "page": pin.url if pin.url.startswith("https://") else None,
        "sha256": pin.sha256,
        "size_bytes": pin.size_bytes,
        "base_model": None,
        "published_at": None,
        "trigger_words": [],
        "licence": pin.licence or "not known",
        "warnings": extension_warnings(pin),
    }


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
