"""Whose certificates count: the system's, and in addition those of BAKE_CA_BUNDLE, for all that bake connects to."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

from bake.files import write_atomically
from bake.settings import Settings


def trusted_certificates(settings: Settings) -> Path | None:
    """The file of all certificates that count; None where the system's alone do, as every program finds them.

    A program and a container take one file, so the two are written together into the cache, once for each content.
    """
    if settings.ca_bundle is None:
        return settings.system_certificates
    system = settings.system_certificates or _of_the_system()
    parts = [path.read_bytes().strip() for path in (system, settings.ca_bundle) if path]
    content = b"\n".join([*parts, b""])
    path = settings.cache / "certificates" / f"{hashlib.sha256(content).hexdigest()[:16]}.pem"
    if not path.is_file():
        write_atomically(path, content)
    return path


def _of_the_system() -> Path | None:
    """Where OpenSSL looks, else the list that requests brings."""
    found = ssl.get_default_verify_paths().cafile
    if found and Path(found).is_file():
        return Path(found)
    import certifi  # noqa: PLC0415  # requests has it

    return Path(certifi.where())
