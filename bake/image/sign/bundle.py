"""Signed statements on an image, as data: an in-toto statement in a DSSE envelope in a Sigstore bundle, version 0.3.

This is what cosign 3 writes and verifies, and cosign 2.4 on with `--new-bundle-format`. Sources: cosign's
specs/BUNDLE_SPEC.md, protobuf-specs' sigstore_bundle.proto, dsse's protocol.md, attestation's spec/v1/statement.md.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bake.image.oci.model import canonical_json

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE = "https://sigstore.dev/cosign/sign/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
SBOM = "https://cyclonedx.org/bom"
KINDS = {SIGNATURE: "signature", PROVENANCE: "provenance", SBOM: "bill of materials"}
PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")


class Unreadable(ValueError):  # noqa: N818  # a finding about one bundle, which is said beside others
    """What was attached is no bundle of this form; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What is said of an image."""

    name: str
    """`registry/repository`, for people: what counts is the digest."""
    predicate_type: str
    digests: tuple[str, ...]
    """Of the images that it is about: `sha256:…`."""
    predicate: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """In words, or the type itself: anybody may attach anything, so it must stay on one line of a terminal."""
        plain = "".join(each if each.isprintable() else "?" for each in self.predicate_type[:200])
        return KINDS.get(self.predicate_type, plain)

    def to_json(self) -> bytes:
        """The bytes that are signed."""
        subject = [
            {"name": self.name, "digest": {"sha256": each.removeprefix("sha256:")}}
            for each in self.digests
        ]
        return canonical_json(
            {
                "_type": _STATEMENTS[0],
                "subject": subject,
                "predicateType": self.predicate_type,
                "predicate": self.predicate,
            }
        )


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A signed statement."""

    text: bytes
    """All of it: JSON."""
    payload: bytes
    """What is signed, with its type."""
    signature: bytes
    has_certificate: bool
    """Keyless; else signed with a key that is not in it."""
    statement: Statement


def signed_bytes(payload: bytes) -> bytes:
    """What a signature is made of: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload,
    )  # fmt: skip


def make_key_bundle(payload: bytes, signature: bytes, *, hint: str) -> bytes:
    """A bundle of what was signed with a key.

    Args:
        payload: The statement's bytes.
        signature: Of `signed_bytes`.
        hint: Which key: the base64 of the SHA256 of its public half in DER, as cosign has it.
    """
    return canonical_json(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": hint}},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(signature).decode()}],
            },
        }
    )


def parse_bundle(text: bytes) -> Bundle:
    """Reads a bundle, and proves nothing.

    Raises:
        Unreadable: it is no bundle, or holds something else than one signed statement.
    """
    try:
        document = json.loads(text)
        material, envelope = document["verificationMaterial"], document.get("dsseEnvelope")
        if not envelope or envelope["payloadType"] != PAYLOAD_TYPE:
            raise Unreadable("it signs no in-toto statement")
        if len(envelope["signatures"]) != 1:
            raise Unreadable("it does not have one signature")
        payload = base64.b64decode(envelope["payload"], validate=True)
        return Bundle(
            text=text,
            payload=payload,
            signature=base64.b64decode(envelope["signatures"][0]["sig"], validate=True),
            has_certificate=bool(
                material.get("certificate") or material.get("x509CertificateChain")
            ),
            statement=_parse_statement(payload),
        )
    except Unreadable:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, binascii.Error, RecursionError) as error:  # fmt: skip
        raise Unreadable("it is no Sigstore bundle") from error


def _parse_statement(payload: bytes) -> Statement:
    statement = json.loads(payload)
    if statement["_type"] not in _STATEMENTS:
        raise Unreadable("it signs no in-toto statement")
    digests = [each["digest"].get("sha256", "") for each in statement["subject"]]
    return Statement(
        name=str(statement["subject"][0].get("name") or ""),
        predicate_type=str(statement["predicateType"]),
        digests=tuple(f"sha256:{each}" for each in digests),
        predicate=statement.get("predicate") or {},
    )
