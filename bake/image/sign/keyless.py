"""Signing without a key: a certificate of some minutes for whoever an OIDC token names, and a public log entry.

sigstore-python (github.com/sigstore/sigstore-python) does it, with the services and roots that Sigstore's TUF
repository names, or those of a file for a Sigstore of one's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from bake.errors import MachineError, ManifestError, PushError
from bake.image.sign.bundle import PAYLOAD_TYPE, Bundle
from bake.image.sign.signer import Untrusted, Who, not_installed

try:
    from cryptography.x509 import (
        Certificate,
        ExtensionNotFound,
        GeneralName,
        ObjectIdentifier,
        OtherName,
        SubjectAlternativeName,
        UnrecognizedExtension,
    )
    from sigstore import dsse
    from sigstore.errors import Error, VerificationError
    from sigstore.models import Bundle as SigstoreBundle
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import ExpiredIdentity, IdentityError, IdentityToken, detect_credential
    from sigstore.sign import Signer, SigningContext
    from sigstore.verify import Verifier
    from sigstore.verify.policy import Identity
except ImportError as error:
    raise not_installed(error) from error

# the list of OIDs in the documents of github.com/sigstore/fulcio
_ISSUER = ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_ISSUER_V1 = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_SAY_WHO = (
    "in GitHub Actions give the job `permissions: {id-token: write}`; elsewhere set SIGSTORE_ID_TOKEN, "
    "or sign with a key: --key FILE"
)


@dataclass(frozen=True, kw_only=True)
class KeylessSigner:
    """Signs as whoever the token names, for some minutes."""

    signer: Signer

    def sign(self, payload: bytes) -> bytes:
        try:
            return self.signer.sign_dsse(dsse.Statement(payload)).to_json().encode()
        except Exception as error:
            raise _refused(error) from error


@contextmanager
def open_signer(token: str | None, trust_config: Path | None) -> Iterator[KeylessSigner]:
    """Gets a certificate for whoever the token, or the CI job that this runs in, says that we are.

    Args:
        token: An OIDC token for `sigstore`; None to ask the CI job's own service for one.
        trust_config: A Sigstore of one's own (`ClientTrustConfig`), else the public one.

    Raises:
        ManifestError: there is no token, or it is none that Sigstore takes.
        MachineError: the roots of trust cannot be had.
        PushError: Sigstore does not give a certificate.
    """
    try:
        found = token or detect_credential()
        if not found:
            raise ManifestError("nobody says who signs: there is no OIDC token", hint=_SAY_WHO)
        identity = IdentityToken(found)
    except IdentityError as error:
        raise ManifestError("the OIDC token is none that Sigstore takes: it is expired, or not for it", hint=_SAY_WHO) from error  # fmt: skip
    config = _read_config(trust_config)
    with ExitStack() as stack:
        try:
            signer = stack.enter_context(SigningContext.from_trust_config(config).signer(identity))
        except Exception as error:
            raise _refused(error) from error
        yield KeylessSigner(signer=signer)


def _refused(error: Exception) -> PushError:
    """Sigstore's clients raise many kinds, some with an answer's body in them, which is not shown."""
    if isinstance(error, ExpiredIdentity):
        return PushError("the OIDC token has expired", where="Sigstore", hint="sign again")
    what = "cannot be reached" if isinstance(error, requests.ConnectionError) else "does not sign"
    kind = type(error).__name__
    return PushError(f"{what} ({kind})", where="Sigstore", hint="sign again; --debug says more")


def _read_config(path: Path | None) -> ClientTrustConfig:
    if path is None:
        try:
            return ClientTrustConfig.production()
        except Exception as error:
            what = f"Sigstore's roots of trust cannot be had ({type(error).__name__})"
            hint = "is the network there? A Sigstore of your own: --trust-config FILE"
            raise MachineError(what, hint=hint) from error
    try:
        return ClientTrustConfig.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (Error, ValueError) as error:
        raise ManifestError("is no ClientTrustConfig of Sigstore's", where=str(path)) from error


@dataclass(frozen=True, kw_only=True)
class KeylessTrust:
    """Believes one identity of one issuer; without them, shows who it was."""

    verifier: Verifier
    expected: Who | None

    @property
    def is_expected(self) -> bool:
        return self.expected is not None

    def check(self, bundle: Bundle) -> Who:
        if not bundle.has_certificate:
            raise Untrusted("it is signed with a key: give its public half, --key FILE")
        try:
            sound = SigstoreBundle.from_json(bundle.text)
            kind, payload = self.verifier.verify_dsse(sound, _Anybody())
            certificate = sound.signing_certificate
        except (Error, ValueError) as error:
            raise Untrusted(f"it does not hold: {_first_line(error)}") from error
        if (kind, payload) != (PAYLOAD_TYPE, bundle.payload):
            raise Untrusted("it does not hold: what is signed is not what it says")
        who = _who(certificate)
        if self.expected is not None:
            policy = Identity(identity=self.expected.identity, issuer=self.expected.issuer)
            try:
                policy.verify(certificate)
            except VerificationError as error:
                raise Untrusted(f"it is signed by {who}") from error
        return who


def open_trust(expected: Who | None, trust_config: Path | None) -> KeylessTrust:
    """Whom to believe, with the roots of trust of the public Sigstore or of one's own.

    Raises:
        MachineError: the roots of trust cannot be had.
        ManifestError: the file has none.
    """
    root = _read_config(trust_config).trusted_root
    return KeylessTrust(verifier=Verifier(trusted_root=root), expected=expected)


class _Anybody:
    """Who it was is looked at afterwards, so that it can be said."""

    def verify(self, cert: Certificate) -> None:
        """Refuses nobody."""


def _who(certificate: Certificate) -> Who:
    extensions = certificate.extensions
    try:
        names = extensions.get_extension_for_class(SubjectAlternativeName).value
        identity = ", ".join(_name(each) for each in names)
    except ExtensionNotFound:
        identity = "nobody"
    issuer = ""
    for oid in (_ISSUER_V1, _ISSUER):
        for each in extensions:
            if each.oid == oid and isinstance(each.value, UnrecognizedExtension):
                # the newer one is a DER UTF8String, of less than 128 bytes or with one byte of length more
                raw = each.value.value
                start = 0 if oid == _ISSUER_V1 else 2 if raw[1] < 128 else 3
                issuer = raw[start:].decode(errors="replace")
    return Who(identity=identity, issuer=issuer or "nobody")


def _name(name: GeneralName) -> str:
    value = name.value
    return value.decode(errors="replace") if isinstance(name, OtherName) else str(value)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
