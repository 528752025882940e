"""Signing with a key of one's own: ECDSA on the curve P-256 with SHA256, as cosign's keys are."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bake.errors import ManifestError
from bake.image.sign.bundle import Bundle, make_key_bundle, signed_bytes
from bake.image.sign.signer import Untrusted, Who, not_installed

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import (
        ECDSA,
        SECP256R1,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )
    from cryptography.hazmat.primitives.hashes import SHA256
except ImportError as error:
    raise not_installed(error) from error

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

MAKE_A_KEY = (
    "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes256 -out bakery.key; "
    "openssl pkey -in bakery.key -pubout -out bakery.pub"
)
PASSWORD_VARIABLE = "BAKE_KEY_PASSWORD"  # noqa: S105  # the variable's name


@dataclass(frozen=True, kw_only=True)
class KeySigner:
    """Signs with a private key."""

    key: EllipticCurvePrivateKey

    def sign(self, payload: bytes) -> bytes:
        signature = self.key.sign(signed_bytes(payload), ECDSA(SHA256()))
        return make_key_bundle(payload, signature, hint=_hint(self.key.public_key()))

    @property
    def trust(self) -> KeyTrust:
        """Of its own signatures."""
        return KeyTrust(key=self.key.public_key())


@dataclass(frozen=True, kw_only=True)
class KeyTrust:
    """Believes one key."""

    key: EllipticCurvePublicKey

    @property
    def is_expected(self) -> bool:
        return True

    def check(self, bundle: Bundle) -> Who:
        if bundle.has_certificate:
            raise Untrusted("it is signed without a key: give --identity and --issuer for it")
        try:
            self.key.verify(bundle.signature, signed_bytes(bundle.payload), ECDSA(SHA256()))
        except InvalidSignature as error:
            raise Untrusted("it is not signed with this key, or was changed since") from error
        return Who(identity=name_of(self.key))


def name_of(key: EllipticCurvePublicKey) -> str:
    """`sha256:…` of the public key in DER."""
    return f"sha256:{hashlib.sha256(_der(key)).hexdigest()}"


def _hint(key: EllipticCurvePublicKey) -> str:
    return base64.b64encode(hashlib.sha256(_der(key)).digest()).decode()


def _der(key: EllipticCurvePublicKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.DER, form)


def read_signing_key(path: Path, password: str | None) -> KeySigner:
    """Reads a private key in PEM.

    Raises:
        ManifestError: it is none that can sign, or its password is missing or wrong.
    """
    text = _read(path)
    if b"ENCRYPTED SIGSTORE" in text or b"ENCRYPTED COSIGN" in text:
        raise ManifestError(
            "is in cosign's own encryption, which only cosign reads",
            where=str(path),
            hint=f"sign with cosign, or with a key that others read too: {MAKE_A_KEY}",
        )
    is_encrypted = b"ENCRYPTED" in text
    if is_encrypted and not password:
        raise ManifestError("is encrypted", where=str(path), hint=f"set {PASSWORD_VARIABLE}, or name a file with it in {PASSWORD_VARIABLE}_FILE")  # fmt: skip
    secret = password.encode() if password and is_encrypted else None
    try:
        key = serialization.load_pem_private_key(text, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = "its password is wrong, or it is damaged" if is_encrypted else "is no private key in PEM"  # fmt: skip
        raise ManifestError(what, where=str(path), hint=MAKE_A_KEY) from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise _other_kind(path, key)
    _check_curve(path, key.public_key())
    return KeySigner(key=key)


def read_trusted_key(path: Path) -> KeyTrust:
    """Reads a public key in PEM, such as `cosign.pub`.

    Raises:
        ManifestError: it is none that cosign or bake signs with.
    """
    text = _read(path)
    if b"PRIVATE KEY" in text:
        what = "is a private key, which nobody needs who only verifies"
        raise ManifestError(what, where=str(path), hint=f"openssl pkey -in {path} -pubout")
    try:
        key = serialization.load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ManifestError("is no public key in PEM", where=str(path), hint=MAKE_A_KEY) from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise _other_kind(path, key)
    _check_curve(path, key)
    return KeyTrust(key=key)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror}", where=str(path), hint=MAKE_A_KEY) from error  # fmt: skip


def _check_curve(path: Path, key: EllipticCurvePublicKey) -> None:
    if not isinstance(key.curve, SECP256R1):
        what = f"is on the curve {key.curve.name}, and cosign's keys are on P-256"
        raise ManifestError(what, where=str(path), hint=MAKE_A_KEY)


def _other_kind(path: Path, key: PrivateKeyTypes | PublicKeyTypes) -> ManifestError:
    kind = type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey").lstrip("_")
    what = f"is a key of the kind {kind}, and cosign's keys are ECDSA on P-256"
    return ManifestError(what, where=str(path), hint=MAKE_A_KEY)
