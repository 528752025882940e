"""References, challenges and what the environment says of registries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests

from bake.errors import BuildError, ManifestError, PushError
from bake.image.oci.reference import parse_reference
from bake.image.registry.answers import error_code
from bake.image.registry.auth import parse_challenge
from bake.image.registry.credentials import Credentials, find_credentials
from bake.image.registry.transport import RegistryOptions
from bake.settings import is_sealed
from runtime.files.answers import retry_after_s


@pytest.mark.parametrize(
    ("text", "full", "api_host"),
    [
        ("name", "docker.io/library/name:latest", "registry-1.docker.io"),
        ("you/name:1.2", "docker.io/you/name:1.2", "registry-1.docker.io"),
        ("index.docker.io/you/name", "docker.io/you/name:latest", "registry-1.docker.io"),
        ("ghcr.io/you/name", "ghcr.io/you/name:latest", "ghcr.io"),
        ("localhost/x/y:t", "localhost/x/y:t", "localhost"),
        ("127.0.0.1:5005/x:t", "127.0.0.1:5005/x:t", "127.0.0.1:5005"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000"),
        (f"ghcr.io/x@sha256:{'a' * 64}", f"ghcr.io/x@sha256:{'a' * 64}", "ghcr.io"),
        (f"x:t@sha256:{'a' * 64}", f"docker.io/library/x:t@sha256:{'a' * 64}", "registry-1.docker.io"),
        ("registry-1.docker.io/x", "docker.io/library/x:latest", "registry-1.docker.io"),
        ("docker.io/a/b/c", "docker.io/a/b/c:latest", "registry-1.docker.io"),
        ("Host-1.example:65535/a.b_c__d--e/f", "Host-1.example:65535/a.b_c__d--e/f:latest", "Host-1.example:65535"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000"),
        (f"ghcr.io/x:{'_' * 128}", f"ghcr.io/x:{'_' * 128}", "ghcr.io"),
    ],
)  # fmt: skip
def test_references_are_read_as_docker_reads_them(text: str, full: str, api_host: str) -> None:
    reference = parse_reference(text)
    assert (str(reference), reference.api_host) == (full, api_host)


@pytest.mark.parametrize(
    "text",
    ["", "ghcr.io/You/x", "x:", "a//b", "ghcr.io/x:?", "x@sha256:12", "-/x", "ghcr.io/../x", "ghcr.io/",
     "/x", "x@", f"x@sha256:{'a' * 65}", f"x@sha256:{'A' * 64}", f"x@sha512:{'a' * 64}", "x/", "a___b",
     f"x:{'t' * 129}", "x:.t", "-.example/x", "ghcr.io:/x", "ghcr.io:123456/x", "[::1/x", "x y", "X"],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_reference(text)
    assert str(caught.value) == (
        f"{text!r} is not an image reference\n"
        "  → write it as registry.example.com/name:tag, in lower case"
    )


def test_a_manifest_is_asked_for_by_digest_where_there_is_one() -> None:
    digest = f"sha256:{'a' * 64}"
    tagged, both = parse_reference("ghcr.io/you/x:1"), parse_reference(f"ghcr.io/you/x:1@{digest}")
    assert (tagged.version, both.version) == ("1", digest)
    assert str(both.at("2")) == "ghcr.io/you/x:2"
    assert str(tagged.at(digest)) == f"ghcr.io/you/x@{digest}"
    with pytest.raises(BuildError, match=r"^'sha256:12' is not a sha256 digest$"):
        tagged.at("sha256:12")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("localhost:5000", True), ("127.8.9.1:1", True), ("[::1]:5000", True),
     ("ghcr.io", False), ("127.0.0.1.evil.example", False), ("10.0.0.1:5000", False)],
)  # fmt: skip
def test_only_loopback_is_spoken_to_without_tls(host: str, expected: bool) -> None:
    assert is_sealed(f"http://{host}/v2/") is expected
    assert is_sealed(f"https://{host}/v2/")
    assert not is_sealed(f"ftp://{host}/")


def test_challenges() -> None:
    bearer = parse_challenge(
        'Basic realm="x", Bearer realm="https://a.example/token",service="reg",scope="repository:a/b:pull,push"'
    )
    assert bearer is not None
    assert (bearer.scheme, bearer.realm) == ("bearer", "https://a.example/token")
    assert (bearer.service, bearer.scope) == ("reg", "repository:a/b:pull,push")
    basic = parse_challenge('Basic realm="registry"')
    assert basic is not None
    assert basic.scheme == "basic"
    assert parse_challenge("Negotiate") is None
    assert parse_challenge("") is None


def test_credentials_come_from_the_docker_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "auths": {
                    "ghcr.io": {"auth": "dXNlcjpwYXNz"},
                    "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldA=="},
                    "azure.example": {"auth": "eDp5", "identitytoken": "refresh"},
                },
                "credHelpers": {"helped.example": "standin", "broken.example": "broken"},
            }
        )
    )
    helper = tmp_path / "docker-credential-standin"
    helper.write_text(
        '#!/bin/sh\n[ "$1" = get ] || exit 1\nread host\n'
        'echo "{\\"ServerURL\\": \\"$host\\", \\"Username\\": \\"helper\\", \\"Secret\\": \\"s\\"}"\n'
    )
    broken = tmp_path / "docker-credential-broken"
    broken.write_text("#!/bin/sh\necho a-secret-in-an-error\nexit 1\n")
    for each in (helper, broken):
        each.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    assert find_credentials("ghcr.io") == Credentials(username="user", password="pass")
    assert find_credentials("docker.io") == Credentials(username="hub", password="secret")
    assert find_credentials("azure.example") == Credentials(identity_token="refresh")
    assert find_credentials("helped.example") == Credentials(username="helper", password="s")
    assert find_credentials("other.example").is_empty
    with pytest.raises(PushError, match=r"docker login broken\.example") as caught:
        find_credentials("broken.example")
    assert "a-secret-in-an-error" not in str(caught.value)
    shown = repr(Credentials(username="user", password="pass", identity_token="refresh"))
    assert shown == "Credentials(username='user')"


def _response(body: bytes, **headers: str) -> requests.Response:
    response = requests.Response()
    response._content = body
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


def test_error_codes_are_shown_and_free_text_is_not() -> None:
    denied = b'{"errors": [{"code": "DENIED", "message": "token abc"}]}'
    assert error_code(_response(denied)) == "DENIED"
    for body in (b"<html>", b"{}", b'{"errors": [{"code": "a token"}]}', b'{"errors": []}', b"[1]"):
        assert error_code(_response(body)) == ""


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after_s(_response(b"", Retry_After="7")) == 7
    assert retry_after_s(_response(b"", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")) == 0
    assert retry_after_s(_response(b"", Retry_After="soon")) is None
    assert retry_after_s(_response(b"")) is None
    assert retry_after_s(_response(b"", Retry_After="Mon, 01 Jan 0001 00:00:00 +2359")) in (None, 0)


def test_options_come_from_the_environment(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\n")
    options = RegistryOptions.from_environment(
        {"BAKE_PUSH_CHUNK_MIB": "8", "BAKE_PUSH_PARALLEL": "2", "SSL_CERT_FILE": str(bundle)}
    )
    assert (options.chunk_bytes, options.parallel, options.ca_bundle) == (8 << 20, 2, bundle)
    assert RegistryOptions.from_environment({}).chunk_bytes is None
    with pytest.raises(ManifestError, match="BAKE_PUSH_CHUNK_MIB: 0 does not fit; expected 1 to"):
        RegistryOptions.from_environment({"BAKE_PUSH_CHUNK_MIB": "0"})
    with pytest.raises(ManifestError, match=r"SSL_CERT_FILE: .*none does not exist"):
        RegistryOptions.from_environment({"SSL_CERT_FILE": str(tmp_path / "none")})
