"""Who signs, who has signed, and whom one trusts: what keys and keyless signing have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bake.errors import MachineError
from bake.image.sign.bundle import Bundle


class Untrusted(Exception):  # noqa: N818  # a finding about one bundle, which is said beside others
    """A signed statement that is not to be believed; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Who:
    """Somebody who has signed, as the signature proves it."""

    identity: str
    """An address or the URL of a workflow; for a key, its name: `sha256:…` of its public half in DER."""
    issuer: str = ""
    """Who says so: the OIDC issuer; empty for a key."""

    def __str__(self) -> str:
        return f"{self.identity}, says {self.issuer}" if self.issuer else f"the key {self.identity}"


class Signer(Protocol):
    """Signs statements: `KeySigner` or `KeylessSigner`."""

    def sign(self, payload: bytes) -> bytes:
        """A statement's bytes as a bundle's text."""
        ...


class Trust(Protocol):
    """Whose signatures count: `KeyTrust` or `KeylessTrust`."""

    @property
    def is_expected(self) -> bool:
        """Whether it was said who should have signed; else a signature only shows who has."""
        ...

    def check(self, bundle: Bundle) -> Who:
        """Proves a bundle's signature.

        Raises:
            Untrusted: it proves nothing, or was made by somebody else.
        """
        ...


def not_installed(error: ImportError) -> MachineError:
    """For the packages of the extra `sign`."""
    return MachineError(
        f"signatures need {error.name or 'packages'}, which is not installed",
        hint="pip install 'bakery[sign]'; in a checkout make venv",
    )
