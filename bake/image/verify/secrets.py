"""What must not be in an image: tokens, private keys, repositories, caches of downloads.

A finding never repeats what was found, only where it is and of what kind.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from bake.secrets import FORMS, SECRET_NAME, Form

OVERLAP_BYTES = 4096
"""Of each piece of a file, seen again with the next one, so that nothing is missed between two."""
_LEAST_LITERAL = 12
_NAMES: Sequence[tuple[str, re.Pattern[str]]] = (
    ("a git repository", re.compile(r"/\.git/")),
    ("pip's cache", re.compile(r"/\.cache/pip/")),
    ("a private key", re.compile(r"/\.ssh/id_[a-z0-9]+$")),
    (
        "credentials",
        re.compile(
            r"/(?:\.netrc|\.pypirc|\.git-credentials|\.docker/config\.json|\.aws/credentials"
            r"|\.config/containers/auth\.json"
            r"|\.cache/huggingface/(?:token|stored_tokens)|\.huggingface/token)$"
        ),
    ),
)
# Packages publish test keys and example keys; whoever installs them reveals nothing. A token is none.
_PUBLISHED_KINDS = frozenset({"a private key", "an AWS key"})
_PUBLISHED = re.compile(r"/(?:site|dist)-packages/|/usr/lib/|/usr/local/lib/python|/usr/share/")


OTHER_BYTES = "other bytes than its digest says"
OTHER_TREE = "another tree than the config says"
"""Kinds of what may be wrong with a base's layer as a whole."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that must not be there."""

    kind: str
    where: str
    is_published: bool = False
    """It came with a public package, so that it is no secret."""


def is_public(finding: Finding) -> bool:
    """Whether what was found in a base came with a public package, tokens of test servers among it."""
    is_form = finding.kind in {form.kind for form in FORMS}
    return finding.is_published or (is_form and bool(_PUBLISHED.search(finding.where)))


def is_waste(finding: Finding) -> bool:
    """Whether it only takes room: in a base that is somebody else's, no reason to refuse an image."""
    return finding.kind in ("a git repository", "pip's cache")


@dataclass(frozen=True, kw_only=True)
class SecretScanner:
    """Looks for known forms of secrets, and for this machine's own, word for word."""

    literals: Sequence[tuple[str, bytes]] = ()
    """Names of environment variables with their values."""
    forms: Sequence[Form] = FORMS

    @property
    def is_idle(self) -> bool:
        """Whether it looks for nothing."""
        return not self.literals and not self.forms

    @property
    def only_literals(self) -> SecretScanner:
        """For bytes that are numbers: what looks like a token in them is chance."""
        return SecretScanner(literals=self.literals, forms=())

    @property
    def version(self) -> str:
        """Changes with everything that this scanner looks for, this machine's own secrets included.

        These pass through scrypt, so that what is written down with it is of no use for guessing them.
        """
        forms = [
            (form.kind, form.form.pattern, form.before and form.before.pattern)
            for form in self.forms
        ]
        names = [(kind, pattern.pattern) for kind, pattern in _NAMES]
        known = repr((forms, names, _PUBLISHED.pattern)).encode()
        digest = hashlib.sha256(known).digest()
        if self.literals:
            own = repr(tuple(self.literals)).encode()
            digest = hashlib.scrypt(own, salt=digest, n=1 << 14, r=8, p=1, dklen=32)
        return digest.hex()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> SecretScanner:
        """Takes in every variable whose name says that its value is secret."""
        env = os.environ if environ is None else environ
        return cls(
            literals=tuple(
                (name, value.encode())
                for name, value in sorted(env.items())
                if SECRET_NAME.search(name) and len(value) >= _LEAST_LITERAL
            )
        )

    def look_at_path(self, path: PurePosixPath) -> Iterator[Finding]:
        """What a file's name gives away."""
        for kind, pattern in _NAMES:
            if pattern.search(str(path)):
                yield Finding(kind=kind, where=str(path))

    def look_at(self, data: bytes, *, where: str) -> Iterator[Finding]:
        """What some bytes hold; each kind once."""
        for name, value in self.literals:
            if value in data:
                yield Finding(kind=f"the value of {name}", where=where)
        for form in self.forms:
            if form.is_in(data):
                is_published = form.kind in _PUBLISHED_KINDS and bool(_PUBLISHED.search(where))
                yield Finding(kind=form.kind, where=where, is_published=is_published)
