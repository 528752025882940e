"""Every way in which `bake` ends: one class for each exit code, turned into an exit by `cli.main` only."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


class BakeError(Exception):
    """A failure that a user can act on.

    Args:
        what: What happened, in one sentence, with no secret, traceback or raw response body in it.
        where: The file, key, URL (without its query) or step that it happened at.
        hint: The next thing to do, ideally a command.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  → {self.hint}" if self.hint else text


class ManifestError(BakeError):
    """The manifest, the lock or the command line is wrong (exit 2)."""

    exit_code = 2


class MachineError(BakeError):
    """Something is missing on this machine: an engine, disk space, a tool (exit 3)."""

    exit_code = 3


class SourceError(BakeError):
    """A source of weights, or a download from it, failed (exit 4)."""

    exit_code = 4


class BuildError(BakeError):
    """A Dockerfile's build or the warm-up failed (exit 5)."""

    exit_code = 5


class VerifyError(BakeError):
    """The image is not what the lock says (exit 6)."""

    exit_code = 6


class PushError(BakeError):
    """A registry or the deployment refused (exit 7)."""

    exit_code = 7


def near_to(word: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown word: the nearest known one; empty where none is near.

    Capitals, spaces, dashes and underscores do not count: `RTX 6000 Ada` is `rtx-6000-ada`.
    """
    by_letters = {_letters(each): each for each in known}
    letters = _letters(word)
    longer = [each for each in by_letters if each.startswith(f"{letters}-")]
    close = [letters] if letters in by_letters else longer[:1]
    close = close or difflib.get_close_matches(letters, by_letters, n=1)
    return f"; did you mean {by_letters[close[0]]}?" if close else ""


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """As `near_to`; where none is near, all that are known, if they are few."""
    listed = f"; known are {', '.join(known)}" if known and len(known) <= 20 else ""
    return near_to(word, known) or listed


def _letters(word: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")
