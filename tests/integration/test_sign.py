"""`bake sign` and `bake verify --signature` in a real registry, with keys, and keyless with a stand-in for Sigstore."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bake.image.oci.reference import Reference, parse_reference
from bake.image.registry.client import RegistryClient
from bake.image.registry.credentials import Credentials
from bake.image.registry.referrers import attach, attached
from bake.image.sign.bundle import BUNDLE
from tests.command import call_bake
from tests.integration.conftest import need_program, run
from tests.integration.registry_case import QUICK, make_image, push
from tests.standins.sigstore import ISSUER, WORKFLOW, Sigstore


class Shell:
    """The command line, and an image in the registry."""

    def __init__(self, folder: Path, image: str, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.image, self._capfd = folder, image, capfd

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What it says, on both streams."""
        ended = call_bake(*arguments, "--build-dir", str(self.folder / "build"))
        said = "".join(self._capfd.readouterr())
        assert ended == code, said
        assert not any(each in said for each in ("Traceback", "a-secret", "eyJ", "pass word"))
        return said

    def verify(self, *arguments: str, code: int = 0, image: str = "") -> str:
        return self("verify", "--signature", image or self.image, *arguments, code=code)

    @property
    def reference(self) -> Reference:
        return parse_reference(self.image)

    def bundles(self) -> list[bytes]:
        with self._client() as client:
            return list(attached(client, self.reference, BUNDLE))

    def attach(self, bundle: bytes) -> None:
        with self._client() as client:
            attach(client, self.reference, bundle, media_type=BUNDLE, annotations={})

    def _client(self) -> RegistryClient:
        host = self.reference.host
        return RegistryClient(host, options=QUICK, credentials=Credentials())


@pytest.fixture
def shell(
    tmp_path: Path,
    repository: str,
    registry: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    for name in ("SIGSTORE_ID_TOKEN", "BAKE_KEY_PASSWORD", "ACTIONS_ID_TOKEN_REQUEST_URL", "GITHUB_ACTIONS"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    image = make_image(tmp_path)
    push(image, f"{registry}/{repository}:1")
    return Shell(tmp_path, f"{registry}/{repository}@{image.digest}", capfd)


@pytest.fixture
def sigstore() -> Iterator[Sigstore]:
    made = Sigstore()
    yield made
    made.close()


@pytest.fixture
def trust(sigstore: Sigstore, tmp_path: Path) -> tuple[str, str]:
    return ("--trust-config", str(sigstore.write_config(tmp_path / "trust.json")))


EXPECTED = ("--identity", WORKFLOW, "--issuer", ISSUER)


def make_key(folder: Path, name: str, password: bytes | None = None) -> tuple[str, str]:
    """The files of a private key and of its public half."""
    key = ec.generate_private_key(ec.SECP256R1())
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()  # fmt: skip
    private, public = folder / name, folder / f"{name}.pub"
    pem = serialization.Encoding.PEM
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, how))
    public.write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return str(private), str(public)


def test_a_key_signs_and_its_public_half_verifies(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = make_key(tmp_path, "ours", b"pass word")
    assert "nobody has signed it" in shell.verify("--key", public, code=6)
    said = shell("sign", shell.image, "--key", private, code=2)
    assert "is encrypted" in said
    assert "BAKE_KEY_PASSWORD" in said
    monkeypatch.setenv("BAKE_KEY_PASSWORD", "pass word")
    said = shell("sign", shell.image, "--key", private)
    assert said.startswith(f"signed   signature\n{shell.image}\n")
    assert "signature by the key sha256:" in shell.verify("--key", public)
    by_tag = shell.image.partition("@")[0] + ":1"
    assert shell.image in shell.verify("--key", public, image=by_tag)
    _, other = make_key(tmp_path, "other")
    said = shell.verify("--key", other, code=6)
    assert "no signature is believed: it is not signed with this key, or was changed since" in said
    events = [json.loads(line) for line in shell.verify("--key", public, "--json").splitlines()]
    (event,) = [each for each in events if each["event"] == "signature"]
    assert event["kind"] == "signature"
    assert event["identity"].startswith("sha256:")


def test_a_tag_is_not_signed(shell: Shell, tmp_path: Path) -> None:
    private, _ = make_key(tmp_path, "ours")
    said = shell("sign", shell.image.partition("@")[0] + ":1", "--key", private, code=2)
    assert "what is signed is a digest" in said
    assert "bake inspect" in said
    assert shell.bundles() == []


def test_whoever_the_token_names_signs_and_is_asked_for(
    shell: Shell,
    sigstore: Sigstore,
    trust: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", sigstore.token())
    shell("sign", shell.image, *trust)
    assert len(sigstore.entries) == 1
    said = shell.verify(*EXPECTED, *trust)
    assert f"signature by {WORKFLOW}, says {ISSUER}" in said
    # Nobody said who should have signed: it is shown, and not trusted.
    said = shell.verify(*trust, code=6)
    assert "it is signed, and nobody said by whom it should be" in said
    assert f"--identity {WORKFLOW} --issuer {ISSUER}" in said
    for wrong in (
        ("--identity", WORKFLOW.replace("main", "evil"), "--issuer", ISSUER),
        ("--identity", WORKFLOW, "--issuer", "https://issuer.evil"),
        ("--identity", "", "--issuer", ISSUER),
    ):
        code = 6 if wrong[1] else 2
        said = shell.verify(*wrong, *trust, code=code)
        if code == 6:
            assert f"no signature is believed: it is signed by {WORKFLOW}, says {ISSUER}" in said
    _, public = make_key(tmp_path, "ours")
    assert "it is signed without a key" in shell.verify("--key", public, code=6)


def test_what_does_not_hold_is_said(
    shell: Shell,
    sigstore: Sigstore,
    trust: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", sigstore.token())
    sigstore.late_s = 3600
    shell("sign", shell.image, *trust)
    said = shell.verify(*EXPECTED, *trust, code=6)
    assert "no signature is believed: it does not hold: " in said
    # Another Sigstore's roots
    sigstore.late_s = 0
    other = Sigstore()
    config = other.write_config(tmp_path / "other.json")
    other.close()
    said = shell.verify(*EXPECTED, "--trust-config", str(config), code=6)
    assert "it does not hold: " in said
    # What was signed, changed
    shell("sign", shell.image, *trust)
    good = json.loads(shell.bundles()[-1])
    assert f"signature by {WORKFLOW}" in shell.verify(*EXPECTED, *trust)
    statement = good["dsseEnvelope"]["payload"]
    good["dsseEnvelope"]["payload"] = statement[:-8] + "AAAAAAA="
    shell.attach(json.dumps(good).encode())
    # One that holds is enough; the others are named.
    said = shell.verify(*EXPECTED, *trust)
    assert f"signature by {WORKFLOW}" in said
    assert "is not believed" in said


def test_who_cannot_sign_is_told_why(
    shell: Shell, sigstore: Sigstore, trust: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = shell("sign", shell.image, *trust, code=2)
    assert "there is no OIDC token" in said
    assert "id-token: write" in said
    for token in (sigstore.token(age_s=4 * 3600), sigstore.token(audience="npm"), "eyJx"):
        monkeypatch.setenv("SIGSTORE_ID_TOKEN", token)
        said = shell("sign", shell.image, *trust, code=2)
        assert "the OIDC token is none that Sigstore takes" in said
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", sigstore.token())
    sigstore.refuses = True
    assert "Sigstore: does not sign (" in shell("sign", shell.image, *trust, code=7)
    sigstore.close()
    assert "Sigstore: cannot be reached (" in shell("sign", shell.image, *trust, code=7)
    assert "cannot be read" in shell("sign", shell.image, "--trust-config", "absent", code=2)
    assert shell.bundles() == []


def test_options_about_a_signature_need_it(shell: Shell) -> None:
    said = shell("verify", shell.image, "--identity", WORKFLOW, code=2)
    assert f"bake verify --signature {shell.image}" in said


def test_cosign_believes_it_and_nothing_that_was_changed(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cosign 3 reads bundles by itself."""
    need_program("cosign")
    private, public = make_key(tmp_path, "ours")
    _, other = make_key(tmp_path, "other")
    shell("sign", shell.image, "--key", private)

    def cosign(command: str, key: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        offline = ("--insecure-ignore-tlog", "--allow-http-registry")
        return run("cosign", command, shell.image, "--key", key, *offline, *arguments)

    believed = cosign("verify", public)
    assert believed.returncode == 0, believed.stderr
    (said,) = json.loads(believed.stdout)
    assert said["critical"]["image"]["docker-manifest-digest"] == shell.image.partition("@")[2]
    refused = cosign("verify", other)
    assert refused.returncode != 0
    assert "no matching signatures" in refused.stderr or "failed to verify" in refused.stderr


def test_cosign_believes_whom_the_certificate_names(
    shell: Shell,
    sigstore: Sigstore,
    trust: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need_program("cosign")
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", sigstore.token())
    shell("sign", shell.image, *trust)
    root = tmp_path / "root.json"
    root.write_text(json.dumps(json.loads(Path(trust[1]).read_text())["trustedRoot"]))

    def cosign(identity: str) -> subprocess.CompletedProcess[str]:
        who = ("--certificate-identity", identity, "--certificate-oidc-issuer", ISSUER)
        how = ("--trusted-root", root, "--allow-http-registry")
        return run("cosign", "verify", shell.image, *who, *how)

    believed = cosign(WORKFLOW)
    assert believed.returncode == 0, believed.stderr
    refused = cosign(WORKFLOW.replace("main", "evil"))
    assert refused.returncode != 0
    assert "no matching CertificateIdentity found" in refused.stderr
