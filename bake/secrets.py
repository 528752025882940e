"""Secrets in text: found where it will be written down, masked where it is shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from bake.image.verify.secrets import FORMS, SECRET_NAME
from bake.weights.signed import find_credential

REMEDY = (
    "for a private git repository: the plain address, and BAKE_GIT_CREDENTIALS (docs/base.md); for a proxy: "
    "docker's config.json; for a package index: PIP_CONFIG_FILE"
)
"""How what needs a secret gets it without its being written down."""
_LEAST_LENGTH = 6
"""Shorter values are words that stand everywhere."""
_USER = re.compile(r"(?<=://)[^/@\s'\"]+(?=@)")
_PLAIN = re.compile(r"[^/@:\s]+:[^/@\s]+@(?!sha\d+:)[\w.-]+")
_QUERY = re.compile(r"(?<=\?)[^\s'\"<>)]*=[^\s'\"<>)]+")
_HEADER = re.compile(r"(?i)(?<=authorization)(['\"]?\s*[:=]\s*['\"]?)[^'\"\n]+")


def find_secret(text: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Why a text must not be written down, as `holds …`; None where nothing is known against it.

    Addresses with a user or a credential in their query, known forms of tokens, and this machine's own.
    """
    for word in re.split(r"[\s,'\"]+", text):
        reason = _of_address(word)
        if reason:
            return reason
    for form in FORMS:
        if form.is_in(text.encode()):
            return f"holds what looks like {form.kind}"
    own = _own_secrets(os.environ if environ is None else environ)
    return "holds a token of this machine's" if any(value in text for value in own) else None


def _of_address(word: str) -> str | None:
    if "://" not in word:
        return "holds an address with a user and a password in it" if _PLAIN.match(word) else None
    try:
        parts = urlsplit(word)
        user, password = parts.username, parts.password
    except ValueError:
        return None
    # ssh's user, such as git, is no secret
    if password is not None or (user is not None and not parts.scheme.endswith("ssh")):
        return "holds an address with a user or password in it"
    name = find_credential(word)
    return f"holds an address with {name}=… in it" if name else None


def mask_secrets(text: str, environ: Mapping[str, str] | None = None) -> str:
    """The text with `***` for this machine's tokens, known forms of tokens, users and queries of addresses."""
    values = set(_own_secrets(os.environ if environ is None else environ))
    masked = text
    for value in sorted(values, key=len, reverse=True):
        masked = masked.replace(value, "***")
    masked = _USER.sub("***", masked)
    masked = _QUERY.sub("***", masked)
    masked = _HEADER.sub(r"\1***", masked)
    data = masked.encode()
    for each in FORMS:
        data = each.form.sub(b"***", data)
    return data.decode()


def _own_secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """What the variables hold whose names say so, and the files that such names with `_FILE` point to."""
    for name, value in environ.items():
        text = ""
        if SECRET_NAME.search(name):
            text = value
        elif SECRET_NAME.search(name.removesuffix("_FILE")):
            with suppress(OSError, ValueError):
                text = Path(value).expanduser().read_text(encoding="utf-8").strip()
        if len(text) >= _LEAST_LENGTH:
            yield text
