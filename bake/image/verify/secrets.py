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

OVERLAP_BYTES = 4096
"""Of each piece of a file, seen again with the next one, so that nothing is missed between two."""
_LEAST_LITERAL = 12
SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIAL)(_ID)?$", re.IGNORECASE
)
_BEFORE_BYTES = 256
"""How far before a form it is looked for what must stand there."""
_NO_WORD = re.compile(rb"(?:\A|[^A-Za-z0-9_])\Z")
_NO_CAPITAL = re.compile(rb"(?:\A|[^A-Z0-9])\Z")
_HEX = rb"[0-9a-f]{32}(?![0-9a-f])"


@dataclass(frozen=True, kw_only=True)
class Form:
    """What one kind of secret looks like.

    Each `form` begins with literal characters, since Python then looks for these at 2 GB/s; what must not
    stand before it is a second expression, since one that begins with a look-behind is tried at every byte,
    at 0.05 GB/s (measured with 3.11 on a layer of 200 MB).
    """

    kind: str
    form: re.Pattern[bytes]
    before: re.Pattern[bytes] | None = None
    """Must be found in the bytes before the form; it ends with `\\Z`."""

    def is_in(self, data: bytes) -> bool:
        """Whether some bytes hold it."""
        position = 0
        while found := self.form.search(data, position):
            start = found.start()
            if self.before is None or self.before.search(
                data[max(0, start - _BEFORE_BYTES) : start]
            ):
                return True
            position = start + 1
        return False


FORMS: Sequence[Form] = (
    Form(kind="a Hugging Face token", form=re.compile(rb"hf_[A-Za-z0-9]{30}"), before=_NO_WORD),
    Form(
        kind="a CivitAI token",
        form=re.compile(rb"token=" + _HEX),
        before=re.compile(rb"(?:civitai[^\s\"']{0,200}|[?&])\Z"),
    ),
    Form(kind="a bearer token", form=re.compile(rb"Bearer\s+" + _HEX)),
    Form(
        kind="a CivitAI token",
        form=re.compile(rb"CIVITAI_(?:API_)?(?:TOKEN|KEY)[\"']?\s*[=:]\s*[\"']?" + _HEX),
    ),
    Form(kind="a RunPod key", form=re.compile(rb"rpa_[A-Z0-9]{40}"), before=_NO_WORD),
    Form(kind="a GitHub token", form=re.compile(rb"gh[pousr]_[A-Za-z0-9]{36}"), before=_NO_WORD),
    Form(kind="a GitHub token", form=re.compile(rb"github_pat_[A-Za-z0-9_]{60}"), before=_NO_WORD),
    Form(kind="an AWS key", form=re.compile(rb"AKIA[A-Z2-7]{16}(?![A-Z0-9])"), before=_NO_CAPITAL),
    Form(
        kind="a private key",
        # with a body: programs that read keys name the header in their source
        form=re.compile(
            rb"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(?:\\+[rn]|\s){1,80}"
            rb"(?:[A-Za-z-]+: [^\n]{0,200}\n\s{0,80}){0,8}"
            rb"(?:[A-Za-z0-9+/]{40}|[A-Za-z0-9+/=\\\s]{8,400}-----END )"
        ),
    ),
)
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
