"""Signing with a key and finding out who signed, in a registry with and without a list of referrers."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from in_toto_attestation.v1.statement import Statement as Judge

from bake.console import Console
from bake.errors import ManifestError, PushError, VerifyError
from bake.image.oci.model import Image, sha256_digest
from bake.image.oci.reference import Reference, parse_reference
from bake.image.registry.push import push_image
from bake.image.registry.referrers import attach
from bake.image.sign.bundle import (
    BUNDLE,
    SIGNATURE,
    Statement,
    Unreadable,
    make_key_bundle,
    parse_bundle,
)
from bake.image.sign.image import describe, find_signatures, sign_image, statements_of
from bake.image.sign.keys import KeySigner, name_of, read_signing_key, read_trusted_key
from tests.standins.registry_memory import HOST, MemoryRegistry
from tests.unit.test_final import make_image

CONSOLE = Console(quiet=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    made = make_image(tmp_path_factory.mktemp("image") / "a")
    # The base's one layer has no bytes of its own.
    return replace(made, layers=made.layers)


@pytest.fixture(params=[True, False], ids=["referrers", "tag"])
def registry(request: pytest.FixtureRequest, image: Image) -> MemoryRegistry:
    made = MemoryRegistry()
    made.lists_referrers = request.param
    made.blobs["you/model"] = {image.layers[0].digest: b""}
    push_image(image, f"{HOST}/you/model:1", console=CONSOLE, client=made.client())
    return made


@pytest.fixture
def pushed(image: Image) -> Reference:
    return parse_reference(f"{HOST}/you/model@{image.digest}")


def new_key() -> KeySigner:
    return KeySigner(key=ec.generate_private_key(ec.SECP256R1()))


def kinds(registry: MemoryRegistry, pushed: Reference, key: KeySigner) -> dict[str, str]:
    """What is attached, and what is wrong with it."""
    found = find_signatures(registry.client(), pushed, trust=key.trust)
    return {each.kind: each.problem for each in found}


def put(registry: MemoryRegistry, pushed: Reference, bundle: bytes) -> None:
    attach(registry.client(), pushed, bundle, media_type=BUNDLE, annotations={})


def test_an_image_and_its_documents_are_signed(registry: MemoryRegistry, pushed: Reference) -> None:
    key = new_key()
    sign_image(registry.client(), pushed, signer=key, console=CONSOLE)
    found = find_signatures(registry.client(), pushed, trust=key.trust)
    assert sorted(each.kind for each in found) == ["bill of materials", "provenance", "signature"]
    name = name_of(key.key.public_key())
    assert {str(each.who) for each in found} == {f"the key {name}"}
    assert [each.kind for each in found if each.is_signature] == ["signature"]
    assert f"signature by the key {name}" in describe(found)
    # The tag and the image are as they were.
    assert registry.tags["you/model:1"] == registry.tags.get(f"you/model:{pushed.digest}", registry.tags["you/model:1"])  # fmt: skip


def test_what_lies_in_the_registry_is_of_cosign_s_form(
    registry: MemoryRegistry, pushed: Reference
) -> None:
    """specs/BUNDLE_SPEC.md of cosign, word by word."""
    key = new_key()
    sign_image(registry.client(), pushed, signer=key, console=CONSOLE)
    artifacts = [json.loads(body) for body in registry.tags.values() if b'"subject"' in body]
    assert len(artifacts) == 3
    image_bytes = registry.tags["you/model:1"]
    for each in artifacts:
        assert each["artifactType"] == BUNDLE == each["layers"][0]["mediaType"]
        assert each["config"] == {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": "sha256:" + hashlib.sha256(b"{}").hexdigest(),
            "size": 2,
        }
        assert each["subject"] == {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": pushed.digest,
            "size": len(image_bytes),
        }
        assert each["annotations"]["dev.sigstore.bundle.content"] == "dsse-envelope"
        bundle = json.loads(registry.blobs["you/model"][each["layers"][0]["digest"]])
        assert bundle["mediaType"] == BUNDLE
        der = key.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        hint = base64.b64encode(hashlib.sha256(der).digest()).decode()
        assert bundle["verificationMaterial"] == {"publicKey": {"hint": hint}}
        envelope = bundle["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"])
        statement = json.loads(payload)
        if statement["predicateType"] != SIGNATURE:  # cosign's own has an empty predicate
            Judge.validate(_as_proto(statement))
        assert statement["predicateType"] == each["annotations"]["dev.sigstore.bundle.predicateType"]  # fmt: skip
        assert statement["subject"] == [
            {"name": f"{HOST}/you/model", "digest": {"sha256": pushed.digest[7:]}}
        ]
        pae = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
        (signature,) = envelope["signatures"]
        key.key.public_key().verify(
            base64.b64decode(signature["sig"]), pae, ec.ECDSA(hashes.SHA256())
        )
    index = registry.tags.get(f"you/model:{pushed.digest.replace(':', '-')}")
    if registry.lists_referrers:
        assert index is None
    else:
        entries = json.loads(index or b"{}")["manifests"]
        assert {each["artifactType"] for each in entries} == {BUNDLE}
        assert len(entries) == 3


def _as_proto(statement: dict[str, Any]) -> Any:
    from google.protobuf.json_format import Parse  # noqa: PLC0415
    from in_toto_attestation.v1 import statement_pb2  # noqa: PLC0415

    judge = Judge([], "", {})
    judge.pb = Parse(json.dumps(statement), statement_pb2.Statement())
    return judge


def test_nothing_is_signed_of_an_image_that_is_not_there(registry: MemoryRegistry) -> None:
    absent = parse_reference(f"{HOST}/you/model@sha256:{'0' * 64}")
    with pytest.raises(PushError, match="the registry has no such image"):
        sign_image(registry.client(), absent, signer=new_key(), console=CONSOLE)


def test_without_a_signature_nothing_is_found(registry: MemoryRegistry, pushed: Reference) -> None:
    assert kinds(registry, pushed, new_key()) == {}


def test_several_have_signed_and_each_is_judged_alone(
    registry: MemoryRegistry, pushed: Reference
) -> None:
    ours, theirs = new_key(), new_key()
    for key in (theirs, ours):
        sign_image(registry.client(), pushed, signer=key, console=CONSOLE)
    found = find_signatures(registry.client(), pushed, trust=ours.trust)
    assert len(found) == 6
    assert [each.kind for each in found if each.is_signature] == ["signature"]
    others = {each.problem for each in found if not each.who}
    assert others == {"it is not signed with this key, or was changed since"}


@pytest.mark.parametrize("what", ["payload", "signature", "digest", "attestation", "message", "junk"])  # fmt: skip
def test_what_proves_nothing_is_not_believed(
    what: str, registry: MemoryRegistry, pushed: Reference
) -> None:
    key = new_key()
    statement = statements_of(registry.client(), pushed)[0]
    bundle = json.loads(key.sign(statement.to_json()))
    envelope = bundle["dsseEnvelope"]
    changed = "it is not signed with this key, or was changed since"
    if what == "payload":
        other = replace(statement, predicate={"good": True}).to_json()
        envelope["payload"], problem = base64.b64encode(other).decode(), {"signature": changed}
    elif what == "signature":
        envelope["signatures"][0]["sig"], problem = "MAAA", {"signature": changed}
    elif what == "digest":
        other = replace(statement, digests=("sha256:" + "3" * 64,)).to_json()
        bundle = json.loads(key.sign(other))
        name = name_of(key.key.public_key())
        problem = {"signature": f"it is about another image, and signed by the key {name}"}
    elif what == "attestation":
        other = replace(statement, predicate_type="https://example.com/tested/v1").to_json()
        bundle, problem = json.loads(key.sign(other)), {"https://example.com/tested/v1": ""}
    elif what == "message":
        bundle["messageSignature"] = {"signature": "MAAA"}
        del bundle["dsseEnvelope"]
        problem = {"": "it signs no in-toto statement"}
    else:
        bundle, problem = [1], {"": "it is no Sigstore bundle"}
    put(registry, pushed, json.dumps(bundle).encode())
    assert kinds(registry, pushed, key) == problem
    found = find_signatures(registry.client(), pushed, trust=key.trust)
    assert not any(each.is_signature for each in found)


def test_what_refers_to_another_image_is_not_looked_at(
    registry: MemoryRegistry, pushed: Reference, image: Image
) -> None:
    """A registry that lists too much: the artifact itself says what it is about."""
    key = new_key()
    sign_image(registry.client(), pushed, signer=key, console=CONSOLE)
    for name, body in list(registry.tags.items()):
        document = json.loads(body)
        if "subject" in document and not registry.lists_referrers:
            document["subject"]["digest"] = "sha256:" + "4" * 64
            registry.tags[name] = json.dumps(document).encode()
    if not registry.lists_referrers:
        with pytest.raises(PushError, match="the registry sent another manifest"):
            kinds(registry, pushed, key)


def test_a_registry_that_loses_the_artifact_leaves_no_entry(
    registry: MemoryRegistry, pushed: Reference
) -> None:
    from tests.standins.registry_memory import Reply  # noqa: PLC0415

    before = dict(registry.tags)
    registry.rule = lambda operation, _: Reply(status=403) if operation == "put manifest" else None
    with pytest.raises(PushError, match="refuses access"):
        sign_image(registry.client(), pushed, signer=new_key(), console=CONSOLE)
    assert registry.tags == before


def test_bundles_of_others_are_read() -> None:
    """The form in which cosign 3 writes a signature: no name, annotations, a log entry."""
    payload = json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": "a" * 64}, "annotations": {}}],
            "predicateType": SIGNATURE,
            "predicate": {},
        }
    ).encode()
    text = json.loads(make_key_bundle(payload, b"x", hint="h"))
    text["verificationMaterial"] = {"certificate": {"rawBytes": "AA=="}, "tlogEntries": [{}]}
    bundle = parse_bundle(json.dumps(text).encode())
    assert bundle.has_certificate
    assert bundle.statement.kind == "signature"
    assert bundle.statement.digests == ("sha256:" + "a" * 64,)
    empty = json.dumps({**json.loads(payload), "subject": []}).encode()
    no_subject = make_key_bundle(empty, b"x", hint="h")
    for broken in (
        no_subject,
        b"",
        b"[]",
        b"{}",
        b'{"verificationMaterial": {}}',
        b"\xff",
        b"[" * 100_000,
    ):
        with pytest.raises(Unreadable):
            parse_bundle(broken)


def test_what_somebody_attaches_stays_on_its_line() -> None:
    odd = Statement(name="", predicate_type="x\nsignature by you\x1b[2J", digests=(), predicate={})
    assert odd.kind == "x?signature by you?[2J"


def pem(key: Any, password: bytes | None = None) -> bytes:
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()  # fmt: skip
    encoded: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how
    )
    return encoded


def public(key: Any) -> bytes:
    encoded: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def test_keys_are_read_or_refused_in_words(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "key"

    said: list[str] = []

    def signing(content: bytes, password: str | None = None) -> str:
        file.write_bytes(content)
        try:
            assert read_signing_key(file, password).key.curve.name == "secp256r1"
        except ManifestError as error:
            said.append(str(error))
            return error.what
        return "read"

    def trusted(content: bytes) -> str:
        file.write_bytes(content)
        try:
            read_trusted_key(file)
        except ManifestError as error:
            return error.what
        return "read"

    assert signing(pem(key)) == "read"
    assert signing(pem(key), "secret") == "read"
    assert signing(pem(key, b"secret"), "secret") == "read"
    assert signing(pem(key, b"secret")) == "is encrypted"
    assert signing(pem(key, b"secret"), "other") == "its password is wrong, or it is damaged"
    assert signing(b"nothing") == "is no private key in PEM"
    assert signing(public(key)) == "is no private key in PEM"
    cosign = b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n"
    assert signing(cosign, "secret") == "is in cosign's own encryption, which only cosign reads"
    large = ec.generate_private_key(ec.SECP384R1())
    curve = "is on the curve secp384r1, and cosign's keys are on P-256"
    assert signing(pem(large)) == curve
    of_rsa = rsa.generate_private_key(65537, 2048)
    assert signing(pem(of_rsa)) == "is a key of the kind RSA, and cosign's keys are ECDSA on P-256"
    assert trusted(public(key)) == "read"
    assert trusted(public(large)) == curve
    assert trusted(pem(key)) == "is a private key, which nobody needs who only verifies"
    assert trusted(b"nothing") == "is no public key in PEM"
    assert all(str(file) in each and "secret" not in each for each in said)
    with pytest.raises(ManifestError, match="cannot be read: No such file"):
        read_signing_key(tmp_path / "absent", None)


def test_the_command_says_what_fits_together(tmp_path: Path, image: Image) -> None:
    from bake.cli.signature import _judge, _trust  # noqa: PLC0415

    key = tmp_path / "key.pub"
    key.write_bytes(public(ec.generate_private_key(ec.SECP256R1())))
    trust = _trust(None, None, key, None)
    with pytest.raises(ManifestError, match="a key has no issuer"):
        _trust("me", None, key, None)
    with pytest.raises(ManifestError, match=r"--issuer is missing.*\n.*token.actions.github"):
        _trust("me", None, None, None)
    with pytest.raises(ManifestError, match="--identity is missing"):
        _trust(None, "https://issuer.example", None, None)
    with pytest.raises(VerifyError, match=r"nobody has signed it\n.*bake sign here@"):
        _judge([], trust, "here@sha256:1")
    assert sha256_digest(b"") != image.digest
