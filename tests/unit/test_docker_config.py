"""Docker's config.json in every form that people have: only the host's own entry matters, and is understood."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bake import pipeline
from bake.cli.options import make_context
from bake.console import Console
from bake.errors import PushError
from bake.image.registry import credentials as module
from bake.image.registry.client import RegistryClient
from bake.image.registry.credentials import Credentials, find_credentials
from bake.image.registry.transport import RegistryOptions
from bake.pipeline import bake_image
from runtime.retry import Retry

PAIR = Credentials(username="u", password="p:w")
HUB_KEY = "https://index.docker.io/v1/"


def auth(text: str | bytes = "u:p:w") -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


GOOD = {"auth": auth()}
ENTRY_OF_ANOTHER: list[Any] = [None, {}, [], "x", 5, {"auth": ""}, {"auth": "!"}, {"auth": 5}, {"auth": auth("token")},
                    {"username": "u"}, {"auth": auth(b"\xff:\xff")}]  # fmt: skip


def find(folder: Path, config: Any, host: str = "ghcr.io", **env: str) -> Credentials:
    text = config if isinstance(config, (str, bytes)) else json.dumps(config)
    data = text.encode() if isinstance(text, str) else text
    (folder / "config.json").write_bytes(data)
    return find_credentials(host, {"DOCKER_CONFIG": str(folder), "PATH": os.defpath, **env})


def error_of(folder: Path, config: Any, host: str = "ghcr.io", **env: str) -> str:
    with pytest.raises(PushError) as caught:
        find(folder, config, host, **env)
    text = str(caught.value)
    assert str(folder / "config.json") in text
    assert "nothing was sent" in text
    assert "docker login" in text
    return text


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (GOOD, PAIR),
        ({"auth": auth().rstrip("=")}, PAIR),
        ({"auth": f" {auth()[:4]}\n{auth()[4:]}\n"}, PAIR),
        ({"auth": auth("u:p:w\0\0")}, PAIR),
        ({"auth": base64.urlsafe_b64encode("u:ÿÿÿ?>".encode()).decode()},
         Credentials(username="u", password="ÿÿÿ?>")),
        ({"auth": auth(":only-a-password")}, Credentials(password="only-a-password")),
        ({"auth": auth("u:")}, Credentials(username="u")),
        ({"username": "u", "password": "p:w"}, PAIR),
        ({"username": "u", "password": "p:w", "auth": ""}, PAIR),
        ({"username": "other", "password": "other", **GOOD}, PAIR),
        ({"username": "u", "password": "p:w", "email": None, "serveraddress": "x"}, PAIR),
        ({"identitytoken": "t"}, Credentials(identity_token="t")),
        # Azure's: a user of zeros, without a password
        ({"identitytoken": "t", "auth": auth("0000:")}, Credentials(identity_token="t")),
        ({"identitytoken": "", **GOOD}, PAIR),
        ({}, Credentials()),
    ],
)  # fmt: skip
def test_an_entry_is_read_as_docker_reads_it(
    tmp_path: Path, entry: dict[str, Any], expected: Credentials
) -> None:
    assert find(tmp_path, {"auths": {"ghcr.io": entry}}) == expected
    assert find(tmp_path, {"auths": {"ghcr.io": entry}}, "other.example") == Credentials()


@pytest.mark.parametrize("entry", ENTRY_OF_ANOTHER)
def test_another_registrys_entry_may_be_as_it_likes(tmp_path: Path, entry: Any) -> None:
    for auths in ({"other.example": entry, "ghcr.io": GOOD}, {"ghcr.io": GOOD, "": entry}):
        assert find(tmp_path, {"auths": auths}) == PAIR
        helpers = {"credHelpers": {"other.example": entry}}
        assert find(tmp_path, {"auths": auths, **helpers}) == PAIR


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (None, "it is no JSON object"),
        ([], "it is no JSON object"),
        ("x", "it is no JSON object"),
        ({"auth": ""}, "its auth is empty"),
        ({"auth": "!!!!"}, "its auth is no base64 of text"),
        ({"auth": auth(b"\xff:\xff")}, "its auth is no base64 of text"),
        ({"auth": auth("token")}, "its auth is not the base64 of user:password"),
        ({"auth": auth(":")}, "its auth is not the base64 of user:password"),
        ({"auth": 5}, "auth is no text"),
        ({"username": "u", "password": ["p"]}, "password is no text"),
        ({"username": "u"}, "it has username only"),
        ({"password": "p"}, "it has password only"),
        ({"registrytoken": "a-secret"}, "it has a registrytoken only"),
    ],
)
def test_the_hosts_own_entry_is_understood_or_an_error(
    tmp_path: Path, entry: Any, reason: str
) -> None:
    text = error_of(tmp_path, {"auths": {"ghcr.io": entry}})
    assert f"no credentials to be used for ghcr.io: {reason}" in text
    assert "a-secret" not in text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'\xef\xbb\xbf{"auths": {}}', "it begins with a byte order mark (BOM)"),
        (b'{"auths": {"ghcr.io": {}},}', "it is not JSON (line 1, column "),
        (b'{"auths": {"ghcr.io": {"auth": "a-secret', "it is not JSON (line 1, column "),
        (b"// docker\n{}", "it is not JSON (line 1, column 1"),
        (b"[]", "it is no JSON object"),
        (b'"x"', "it is no JSON object"),
        (b"null", "it is no JSON object"),
        (b'{"auths": {"\xff": {}}}', "it is not UTF-8"),
        ('{"auths": {}}'.encode("utf-16"), "it is not UTF-8"),
        (b"[" * 100_000, "it is not JSON"),
        (b'{"auths": []}', "auths is no JSON object"),
        (b'{"auths": "x"}', "auths is no JSON object"),
        (b'{"credHelpers": ["gcr"]}', "credHelpers is no JSON object"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, data: bytes, reason: str) -> None:
    text = error_of(tmp_path, data)
    assert f"the docker config cannot be read: {reason}" in text
    assert "a-secret" not in text


def test_what_is_not_there_or_empty_is_anonymous(tmp_path: Path) -> None:
    assert find_credentials("ghcr.io", {"DOCKER_CONFIG": str(tmp_path / "none")}) == Credentials()
    assert find_credentials("ghcr.io", {"HOME": str(tmp_path)}) == Credentials()
    configs: list[Any] = ["", "\n", {}, {"auths": None}, {"auths": {}, "credHelpers": None}]
    for config in configs:
        assert find(tmp_path, config) == Credentials()


def test_the_home_folders_config_is_read(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {"ghcr.io": GOOD}}))
    assert find_credentials("ghcr.io", {"HOME": str(tmp_path)}) == PAIR


def test_an_entry_in_the_environment_comes_first(tmp_path: Path) -> None:
    given = json.dumps({"auths": {"ghcr.io": {"username": "job", "password": "t"}, "x.io": {}}})
    config = {"auths": {"ghcr.io": GOOD, "x.io": GOOD, "y.io": GOOD}}
    env = {"DOCKER_AUTH_CONFIG": given}
    assert find(tmp_path, config, **env) == Credentials(username="job", password="t")
    assert find(tmp_path, config, "x.io", **env) == find(tmp_path, config, "y.io", **env) == PAIR
    assert find(tmp_path, config, DOCKER_AUTH_CONFIG=" ") == PAIR
    for text, reason in (("{", "it is not JSON"), ("[]", "it is no JSON object"),
                         ('{"auths": {"ghcr.io": {"auth": "a-secret!"}}}', "its auth is no base64")):  # fmt: skip
        with pytest.raises(PushError, match=reason) as raised:
            find(tmp_path, config, DOCKER_AUTH_CONFIG=text)
        assert "$DOCKER_AUTH_CONFIG" in str(raised.value)
        assert "nothing was sent" in str(raised.value)
        assert "a-secret" not in str(raised.value)


def test_a_file_that_is_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(PushError, match=r"config.json: .*cannot be read: Is a directory"):
        find_credentials("ghcr.io", {"DOCKER_CONFIG": str(tmp_path)})


@pytest.mark.parametrize(
    ("key", "host"),
    [("ghcr.io", "ghcr.io"), ("https://ghcr.io", "ghcr.io"), ("https://ghcr.io/v1/", "ghcr.io"),
     ("http://ghcr.io/v2", "ghcr.io"), ("ghcr.io/", "ghcr.io"), ("GHCR.io", "ghcr.io"),
     ("ghcr.io/you", "ghcr.io"),
     ("127.0.0.1:5005", "127.0.0.1:5005"), (HUB_KEY, "docker.io"), ("index.docker.io", "docker.io"),
     ("docker.io", "docker.io"), ("https://registry-1.docker.io/v2/", "docker.io")],
)  # fmt: skip
def test_a_host_is_found_under_every_name_of_it(tmp_path: Path, key: str, host: str) -> None:
    others = {"ghcr.io.evil.example": GOOD, "xghcr.io": GOOD, "https://evil.example/ghcr.io": GOOD}
    entry = {"username": "own", "password": "own"}
    found = find(tmp_path, {"auths": {**others, key: entry}}, host)
    assert found == Credentials(username="own", password="own")
    assert find(tmp_path, {"auths": others}, host) == Credentials()


def test_the_exact_name_comes_before_an_address(tmp_path: Path) -> None:
    auths = {"ghcr.io/other": None, "https://ghcr.io/v1/": None, "ghcr.io": GOOD}
    assert find(tmp_path, {"auths": auths}) == PAIR
    assert find(tmp_path, {"auths": {"docker.io": None, HUB_KEY: GOOD}}, "docker.io") == PAIR


def helper(folder: Path, name: str, script: str) -> dict[str, str]:
    """A credential helper; the environment in which it is found."""
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.defpath}"}


SAYS = 'read server; printf \'{"ServerURL":"%s","Username":"u","Secret":"%s"}\' "$server" "$server"'


def test_a_helper_is_asked_by_the_names_that_docker_uses(tmp_path: Path) -> None:
    env = helper(tmp_path, "x", SAYS)
    for config in ({"credsStore": "x"}, {"credHelpers": {"ghcr.io": "x"}, "credsStore": "none"}):
        assert find(tmp_path, config, **env) == Credentials(username="u", password="ghcr.io")
    for name in ("docker.io", HUB_KEY):
        found = find(tmp_path, {"credHelpers": {name: "x"}}, "docker.io", **env)
        assert found == Credentials(username="u", password=HUB_KEY)
    env = helper(tmp_path, "x", 'echo \'{"Username":"<token>","Secret":"t"}\'')
    assert find(tmp_path, {"credsStore": "x"}, **env) == Credentials(identity_token="t")


@pytest.mark.parametrize(
    "script",
    ["echo 'credentials not found in native keychain'; exit 1",
     'echo \'{"ServerURL":"","Username":"","Secret":""}\''],
)  # fmt: skip
def test_a_helper_that_has_nothing_leaves_the_file(tmp_path: Path, script: str) -> None:
    env = helper(tmp_path, "x", script)
    config = {"credsStore": "x", "auths": {"ghcr.io": GOOD, "other.example": {}}}
    assert find(tmp_path, config, **env) == PAIR
    assert find(tmp_path, config, "other.example", **env) == Credentials()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo a-secret; exit 3", "the credential helper docker-credential-x failed (exit 3)"),
        ("true", "answered with no credentials"),
        ("echo a-secret", "answered with no credentials"),
        ("echo '[\"a-secret\"]'", "answered with no credentials"),
        ('echo \'{"Username":"u","Secret":5}\'', "answered with no credentials"),
        ("exec /nowhere/at/all", "failed (exit"),
    ],
)
def test_a_helper_that_fails_is_an_error(tmp_path: Path, script: str, reason: str) -> None:
    text = error_of(tmp_path, {"credsStore": "x"}, **helper(tmp_path, "x", script))
    assert reason in text
    assert "a-secret" not in text


def test_a_helper_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELPER_TIMEOUT_S", 0.5)
    env = helper(tmp_path, "x", f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    began = time.monotonic()
    assert "gave no answer" in error_of(tmp_path, {"credsStore": "x"}, **env)
    assert time.monotonic() - began < 300
    left = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 120
    while Path(f"/proc/{left}/cmdline").exists() and Path(f"/proc/{left}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the helper's child lives on"
        time.sleep(0.05)


def test_a_helper_that_is_not_there_or_has_no_name(tmp_path: Path) -> None:
    assert "docker-credential-none is not installed" in error_of(tmp_path, {"credsStore": "none"})
    for name in ("../x", "a b", ["x"], {"x": 1}, True):
        assert "has no name of a helper" in error_of(tmp_path, {"credsStore": name})
    assert find(tmp_path, {"credsStore": ""}) == Credentials()
    config = {"credsStore": "none", "credHelpers": {"ghcr.io": ""}, "auths": {"ghcr.io": GOOD}}
    assert find(tmp_path, config) == PAIR  # as docker: an empty name means the file


BAKED = """
name: early
family: sdxl
checkpoint: civitai:1
warmup: {prompt: a red circle}
image: HOST/you/early
"""


def bake_and_push(
    folder: Path, monkeypatch: pytest.MonkeyPatch, config: str, host: str = "ghcr.io"
) -> list[str]:
    """What a bake warns of before its first step; its error, where it ends there."""
    (folder / "config.json").write_text(config)
    (folder / "early.yaml").write_text(BAKED.replace("HOST", host))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    warnings: list[str] = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "warn", warnings.append)
    monkeypatch.setattr(pipeline, "begin_run", reached)
    context = make_context(
        folder / "early.yaml", build_args=(), device="cpu", build_dir=folder / "build",
        console=console, push=True,
    )  # fmt: skip
    with pytest.raises(Reached):
        bake_image(context)
    return warnings


class Reached(Exception):
    """The bake has come to its first step."""


def reached(*_: object, **__: object) -> None:
    raise Reached


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ('{"auths": {"ghcr.io": {}},}', "it is not JSON"),
        ('{"auths": {"ghcr.io": {"auth": "!"}}}', "its auth is no base64 of text"),
        ('{"credsStore": "none"}', "docker-credential-none is not installed"),
        ('{"credHelpers": {"ghcr.io": "none"}}', "docker-credential-none is not installed"),
    ],
)
def test_a_bake_that_is_to_push_ends_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, reason: str
) -> None:
    with pytest.raises(PushError, match=reason) as raised:
        bake_and_push(tmp_path, monkeypatch, config)
    assert "nothing was sent" in str(raised.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.json", "early.yaml"]


def test_a_bake_that_is_to_push_says_that_it_has_no_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (warning,) = bake_and_push(tmp_path, monkeypatch, "{}")
    assert "no credentials for ghcr.io, which will be asked anonymously: docker login" in warning
    assert bake_and_push(tmp_path, monkeypatch, json.dumps({"auths": {"ghcr.io": GOOD}})) == []
    assert bake_and_push(tmp_path, monkeypatch, "{}", host="127.0.0.1:5000") == []


def test_nothing_is_sent_before_the_config_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("[]")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    client = RegistryClient("127.0.0.1:9", options=RegistryOptions(retry=Retry(attempts=1)))
    asked: list[Any] = []
    monkeypatch.setattr(client._session, "request", lambda *at, **_: asked.append(at))
    with pytest.raises(PushError, match="nothing was sent"):
        client.has_blob("you/model", "sha256:" + "0" * 64)
    assert asked == []
