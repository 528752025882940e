"""Who we are to a registry, and whom we believe: tokens, passwords, TLS."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
from pathlib import Path

import pytest
import requests

from bake.cli.commands.deploy import need_pushed
from bake.console import Console
from bake.errors import PushError
from bake.image.oci.model import sha256_digest
from bake.image.oci.reference import parse_reference
from bake.image.registry.client import RegistryClient
from bake.image.registry.credentials import Credentials
from bake.image.registry.transport import RegistryOptions, Transient, tls_failure
from bake.manifest.load import parse_manifest
from runtime.retry import Retry
from tests.integration.registry_case import (
    QUICK,
    fetch_and_compare,
    make_image,
    push,
    tag_digest,
)
from tests.standins.registry import (
    Action,
    Answer,
    Cut,
    Seen,
    Tokens,
    faulty_registry,
)


def test_tokens_are_bought_with_the_credentials_and_bought_again_in_mid_push(
    registry: str, repository: str, tmp_path: Path
) -> None:
    image = make_image(tmp_path)
    tokens = Tokens(uses=3)
    credentials = Credentials(username=tokens.username, password=tokens.password)
    with faulty_registry(registry, tokens=tokens) as proxy:
        push(image, f"{proxy.host}/{repository}:1", credentials=credentials)
        basic = [
            s.path for s in proxy.seen if s.headers.get("Authorization", "").startswith("Basic")
        ]
    fetch_and_compare(image, f"{registry}/{repository}:1")
    assert len(tokens.issued) > 2
    assert set(tokens.scopes) == {
        f"repository:{repository}:pull,push",
        f"repository:{repository}:pull",
    }
    assert basic
    assert all(path.startswith("/token?") for path in basic)


def test_a_token_server_that_fails_in_passing_is_asked_again(
    registry: str, repository: str, tmp_path: Path
) -> None:
    image = make_image(tmp_path)
    faults = [Answer(status=503), Answer(status=429, headers={"Retry-After": "0"})]
    tokens = Tokens(uses=3, faults=faults)
    credentials = Credentials(username=tokens.username, password=tokens.password)
    with faulty_registry(registry, tokens=tokens) as proxy:
        push(image, f"{proxy.host}/{repository}:1", credentials=credentials)
        tokens.uses, tokens.faults = 0, [Answer(status=500)] * 99
        with pytest.raises(PushError, match=r"the token server 127\.0\.0\.1 answers 500, 4 times"):
            push(make_image(tmp_path, seed=2), f"{proxy.host}/{repository}:1", credentials=credentials)  # fmt: skip
    fetch_and_compare(image, f"{registry}/{repository}:1")


def test_an_image_that_runpod_could_not_pull_is_warned_of(
    registry: str,
    repository: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else would say so: the job waits in the queue for a worker that waits for the image."""
    tokens = Tokens()
    image = make_image(tmp_path)
    credentials = Credentials(username=tokens.username, password=tokens.password)
    with faulty_registry(registry, tokens=tokens) as proxy:
        auth = base64.b64encode(f"{tokens.username}:{tokens.password}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {proxy.host: {"auth": auth}}}))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        closed = push(image, f"{proxy.host}/{repository}:1", credentials=credentials).reference
        for reference, named, is_warned in (
            (closed, "", True),
            (closed, "deploy: {registry: ghcr}", False),
            (f"{registry}/{repository}:1", "", False),
        ):
            text = f"name: a\nfamily: sd1\ngpu: l4\ncheckpoint: civitai:1\nimage: x/a\nwarmup: {{prompt: a}}\n{named}"
            manifest = parse_manifest(text, tmp_path / "a.yaml")
            need_pushed(parse_reference(reference), manifest, Console())
            said = capfd.readouterr().err
            assert ("cannot be read without a login" in said) == is_warned, said
            assert tokens.password not in said


def test_wrong_credentials_are_named_and_never_shown(
    registry: str, repository: str, tmp_path: Path
) -> None:
    image = make_image(tmp_path)
    secret = "a-wrong-password-8b1f"
    with (
        faulty_registry(registry, tokens=Tokens()) as proxy,
        pytest.raises(PushError, match="refuses the credentials") as caught,
    ):
        push(image, f"{proxy.host}/{repository}:1", credentials=Credentials(username="x", password=secret))  # fmt: skip
    assert f"docker login {proxy.host}" in str(caught.value)
    shown = f"{caught.value!r} {caught.value} {Credentials(username='x', password=secret)!r}"
    assert secret not in shown
    assert tag_digest(f"{registry}/{repository}:1") is None


def test_a_401_in_mid_push_that_no_new_token_can_answer(
    registry: str, repository: str, tmp_path: Path
) -> None:
    image = make_image(tmp_path)

    def rule(seen: Seen) -> Action:
        if "Authorization" not in seen.headers:
            return Answer(
                status=401, headers={"WWW-Authenticate": 'Basic realm="x"'}, reads_body=False
            )
        if seen.method == "PATCH" and seen.number == 2:
            return Answer(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return None

    credentials = Credentials(username="baker", password="pässword")
    with faulty_registry(registry, rule) as proxy, pytest.raises(PushError, match="refuses access"):
        push(image, f"{proxy.host}/{repository}:1", credentials=credentials)
    assert tag_digest(f"{registry}/{repository}:1") is None


def test_basic_authentication(registry: str, repository: str, tmp_path: Path) -> None:
    image = make_image(tmp_path)
    credentials = Credentials(username="baker", password="pässword")
    expected = "Basic " + base64.b64encode("baker:pässword".encode()).decode()

    def rule(seen: Seen) -> Action:
        if seen.headers.get("Authorization") == expected:
            return None
        return Answer(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'}, reads_body=False)

    with faulty_registry(registry, rule) as proxy:
        push(image, f"{proxy.host}/{repository}:1", credentials=credentials)
    fetch_and_compare(image, f"{registry}/{repository}:1")


def test_a_token_server_without_tls_gets_no_credentials(
    registry: str, repository: str, tmp_path: Path
) -> None:
    realm = 'Bearer realm="http://192.0.2.1/token",service="x"'
    refuses = Answer(status=401, headers={"WWW-Authenticate": realm}, reads_body=False)
    with (
        faulty_registry(registry, lambda _: refuses) as proxy,
        pytest.raises(PushError, match="a token server without TLS, which gets no credentials"),
    ):
        push(make_image(tmp_path), f"{proxy.host}/{repository}:1", credentials=Credentials(username="a", password="b"))  # fmt: skip


def test_storage_that_a_download_is_redirected_to_gets_no_credentials(
    registry: str, repository: str, tmp_path: Path
) -> None:
    image = make_image(tmp_path)
    push(image, f"{registry}/{repository}:1")
    layer = image.layers[-1]
    tokens = Tokens()
    credentials = Credentials(username=tokens.username, password=tokens.password)
    with faulty_registry(registry) as storage:

        def rule(seen: Seen) -> Action:
            if "/blobs/" in seen.path and "Authorization" in seen.headers:
                return Answer(status=307, headers={"Location": f"http://{storage.host}{seen.path}"})
            return None

        with (
            faulty_registry(registry, rule, tokens=tokens) as proxy,
            RegistryClient(proxy.host, options=QUICK, credentials=credentials) as client,
        ):
            content = b"".join(client.blob_content(repository, layer.digest).chunks())
        assert sha256_digest(content) == layer.digest
        assert [seen.headers.get("Authorization") for seen in storage.seen] == [None]


def certificate_in(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate of our own for loopback, and a server's use of it."""
    certificate, key = folder / "ca.crt", folder / "ca.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=loopback", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context


def test_tls_with_a_certificate_of_our_own(registry: str, repository: str, tmp_path: Path) -> None:
    certificate, context = certificate_in(tmp_path)
    image = make_image(tmp_path)
    with faulty_registry(registry, tls=context) as proxy:
        with pytest.raises(PushError, match="TLS certificate is not trusted") as caught:
            push(image, f"{proxy.host}/{repository}:1")
        assert "BAKE_CA_BUNDLE" in str(caught.value)
        trusting = RegistryOptions(retry=Retry(attempts=2, backoff_s=0.01), ca_bundle=certificate)
        push(image, f"{proxy.host}/{repository}:1", options=trusting)
        folder = tmp_path / "certs.d" / proxy.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(certificate.read_bytes())
        by_folder = RegistryOptions(retry=Retry(attempts=2), certs_folder=tmp_path / "certs.d")
        push(image, f"{proxy.host}/{repository}:2", options=by_folder)
    fetch_and_compare(image, f"{registry}/{repository}:1")


def test_a_connection_that_breaks_under_tls_is_no_matter_of_trust(
    registry: str, repository: str, tmp_path: Path
) -> None:
    certificate, context = certificate_in(tmp_path)
    image = make_image(tmp_path)

    def rule(seen: Seen) -> Action:
        if seen.method == "PATCH" and seen.number <= 3:
            return Cut(after_bytes=50_000 * seen.number)
        if seen.method in ("PUT", "POST") and seen.number == 2:
            return Cut(after_bytes=0, loses_answer=True)
        return None

    trusting = RegistryOptions(retry=Retry(attempts=5, backoff_s=0.01), ca_bundle=certificate)
    with faulty_registry(registry, rule, tls=context) as proxy:
        push(image, f"{proxy.host}/{repository}:1", options=trusting)
        assert len(proxy.methods("PATCH")) > 3
    fetch_and_compare(image, f"{registry}/{repository}:1")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", PushError, "is not trusted"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", PushError, "does not speak TLS"),
        ("EOF occurred in violation of protocol (_ssl.c:2426)", Transient, "the connection failed"),
    ],
)
def test_what_a_failure_of_tls_is(text: str, kind: type[Exception], message: str) -> None:
    failure = tls_failure("r.example", requests.exceptions.SSLError(text))
    assert type(failure) is kind
    assert message in str(failure)
