"""Stands for Sigstore's services: a Fulcio that certifies whom a token names, and a Rekor whose log has one entry.

Written from fulcio's docs and OID list, rekor's API (v1) and RFC 6962, and held against sigstore-python, which checks
chain, SCT, inclusion proof, checkpoint and promise of all that comes from here as of the public services.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
import time
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ISSUER = "https://token.actions.example"
WORKFLOW = "https://github.com/you/models/.github/workflows/model.yml@refs/heads/main"
_ISSUER_V1 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ORIGIN = "rekor.example - 1"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


class _Key:
    """A key of a service, and its name: the SHA256 of its public half."""

    def __init__(self) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.public_der = self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.name = hashlib.sha256(self.public_der).digest()

    def sign(self, data: bytes) -> bytes:
        return self.private.sign(data, ec.ECDSA(hashes.SHA256()))

    def as_log(self, url: str) -> dict[str, Any]:
        """As a trusted root lists a log."""
        return {
            "baseUrl": url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": _b64(self.public_der),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": {"start": "2020-01-01T00:00:00Z"},
            },
            "logId": {"keyId": _b64(self.name)},
        }


class Sigstore:
    """The services, on one port of loopback. `late_s` is how long after its certificate an entry is logged."""

    def __init__(self) -> None:
        self.late_s = 0
        self.refuses = False
        self.entries: list[dict[str, Any]] = []
        self._authority, self._ct, self._rekor = _Key(), _Key(), _Key()
        self._root = self._make_root()
        sigstore = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if sigstore.refuses:
                    status, answer = 403, {"message": "no, and here is a-secret"}
                elif self.path == "/api/v2/signingCert":
                    token = self.headers["Authorization"].removeprefix("Bearer ")
                    status, answer = 200, sigstore._certify(token, body)
                else:
                    status, answer = 201, sigstore._log(body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def write_config(self, path: Path) -> Path:
        """The file for `--trust-config`."""
        always = {"start": "2020-01-01T00:00:00Z"}
        service = {"url": self.url, "majorApiVersion": 1, "validFor": always, "operator": "here"}
        root_der = self._root.public_bytes(serialization.Encoding.DER)
        config = {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [self._rekor.as_log(self.url)],
                "ctlogs": [self._ct.as_log(self.url)],
                "certificateAuthorities": [
                    {
                        "subject": {"organization": "example", "commonName": "authority"},
                        "uri": self.url,
                        "certChain": {"certificates": [{"rawBytes": _b64(root_der)}]},
                        "validFor": always,
                    }
                ],
                "timestampAuthorities": [],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service],
                "oidcUrls": [service],
                "rekorTlogUrls": [service],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": [],
                "tsaConfig": {"selector": "ANY"},
            },
        }
        path.write_text(json.dumps(config))
        return path

    def token(self, identity: str = WORKFLOW, *, audience: str = "sigstore", age_s: int = 0) -> str:
        """As a CI job gets one; nobody checks its signature but Fulcio, which this is."""
        now = int(time.time()) - age_s
        claims = {
            "iss": ISSUER,
            "sub": identity,
            "aud": audience,
            "iat": now,
            "nbf": now,
            "exp": now + 3 * 3600,
        }

        def part(data: Any) -> str:
            return base64.urlsafe_b64encode(_canonical(data)).decode().rstrip("=")

        return f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{part(claims)}.{part('x')}"

    def _make_root(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        now = datetime.now(timezone.utc)
        key = self._authority.private
        return (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(key, hashes.SHA256())
        )

    def _certify(self, token: str, body: dict[str, Any]) -> dict[str, Any]:
        middle = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        request = x509.load_pem_x509_csr(base64.b64decode(body["certificateSigningRequest"]))
        issuer = claims["iss"].encode()
        now = datetime.now(timezone.utc).replace(microsecond=0)
        authority = self._authority.private.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._root.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=5))
            .not_valid_after(now + timedelta(minutes=10))
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(claims["sub"])]), True
            )
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V1, issuer), False)
            .add_extension(
                x509.UnrecognizedExtension(_ISSUER_V2, bytes([12, len(issuer)]) + issuer), False
            )
        )
        before = builder.sign(self._authority.private, hashes.SHA256()).tbs_certificate_bytes
        stamped = builder.add_extension(
            x509.UnrecognizedExtension(_SCT_LIST, self._stamp(before)), False
        )
        certificate = stamped.sign(self._authority.private, hashes.SHA256())
        chain = [_pem(certificate), _pem(self._root)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _stamp(self, certificate: bytes) -> bytes:
        """RFC 6962: a list of one signed certificate timestamp, as an extension's value."""
        now_ms = int(time.time() * 1000)
        entry = self._authority.name + struct.pack("!I", len(certificate))[1:] + certificate
        signed = struct.pack("!BBQH", 0, 0, now_ms, 1) + entry + struct.pack("!H", 0)
        signature = self._ct.sign(signed)
        sct = struct.pack("!B32sQH", 0, self._ct.name, now_ms, 0)
        sct += struct.pack("!BBH", 4, 3, len(signature)) + signature
        listed = struct.pack("!H", len(sct)) + sct
        listed = struct.pack("!H", len(listed)) + listed
        return bytes([4, len(listed)]) + listed if len(listed) < 128 else bytes([4, 0x81, len(listed)]) + listed  # fmt: skip

    def _log(self, proposed: dict[str, Any]) -> dict[str, Any]:
        content = proposed["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        payload = base64.b64decode(envelope["payload"])

        def digest(data: bytes) -> dict[str, str]:
            return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}

        body = _canonical(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": digest(content["envelope"].encode()),
                    "payloadHash": digest(payload),
                    "signatures": [
                        {"signature": each["sig"], "verifier": content["verifiers"][0]}
                        for each in envelope["signatures"]
                    ],
                },
            }
        )
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"{_ORIGIN}\n1\n{_b64(root)}\n"
        signature = _b64(self._rekor.name[:4] + self._rekor.sign(note.encode()))
        entry: dict[str, Any] = {
            "body": _b64(body),
            "integratedTime": int(time.time()) + self.late_s,
            "logID": self._rekor.name.hex(),
            "logIndex": 0,
        }
        entry["verification"] = {
            "signedEntryTimestamp": _b64(self._rekor.sign(_canonical(entry))),
            "inclusionProof": {
                "checkpoint": f"{note}\n\u2014 {_ORIGIN.split(maxsplit=1)[0]} {signature}\n",
                "hashes": [],
                "logIndex": 0,
                "rootHash": root.hex(),
                "treeSize": 1,
            },
        }
        self.entries.append(entry)
        return {hashlib.sha256(body).hexdigest(): entry}


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
