"""The one error of this package; `bake` turns it into its own, a worker into a failed job's message."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

FailureKind = Literal[
    "address", "archived", "cancelled", "connection", "disabled", "disk", "early_access", "expired", "family", "form", "gated", "grant",
    "hash", "host", "http", "kind", "login", "missing", "not_weights", "page", "pickle", "quota", "redirect", "region",
    "role", "server", "size", "stalled", "stopped", "tls", "too_large", "too_slow", "truncated", "unauthorized",
    "unlisted",
]  # fmt: skip
"""What a program can tell failures apart by; `unlisted`: of a host that none of the sources has."""
RETRYABLE = {"connection", "stalled", "too_slow", "server", "quota", "expired", "disk"}
"""Kinds that may be gone another time."""


class WeightsError(Exception):
    """A download or a file of weights that cannot be used.

    Args:
        kind: What a program can tell it by.
        what: What happened, in one sentence, without secrets or a response's body.
        where: The file, or the address without its query.
        hint: The next thing to do.
    """

    def __init__(
        self, kind: FailureKind, what: str, *, where: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(what)
        self.kind = kind
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.hint}" if self.hint else text


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns what a disk says into WeightsError, kind `disk`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise WeightsError(
            "disk",
            "the disk is full" if full else f"cannot be written: {error.strerror or error}",
            where=str(path),
            hint="make room and start again" if full else None,
        ) from None
