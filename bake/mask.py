"""Takes secrets out of text that nobody has vouched for, such as a traceback's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from bake.image.verify.secrets import FORMS, SECRET_NAME

_LEAST_LENGTH = 6
"""Shorter values are words that stand everywhere."""
_USER = re.compile(r"(?<=://)[^/@\s'\"]+(?=@)")
_QUERY = re.compile(r"(?<=\?)[^\s'\"<>)]*=[^\s'\"<>)]+")
_HEADER = re.compile(r"(?i)(?<=authorization)(['\"]?\s*[:=]\s*['\"]?)[^'\"\n]+")


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
