"""Tokens and addresses from the environment; tokens are never shown."""

from pathlib import Path

import pytest

from bake.certificates import trusted_certificates
from bake.console import Console
from bake.errors import ManifestError
from bake.image.engine.buildx import build_secrets
from bake.image.registry.transport import RegistryOptions
from bake.settings import Settings, variables
from bake.weights.context import Context
from bake.weights.store import Store
from runtime.files.policy import HostPolicy

TOKEN = "secret-0123456789"


def test_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings.civitai_url == "https://civitai.com"
    assert settings.huggingface_url == "https://huggingface.co"
    assert settings.store == Path("~/.cache/bakery/store").expanduser()
    assert settings.civitai_token is None


@pytest.mark.parametrize("name", ["CIVITAI_TOKEN", "CIVITAI_API_KEY"])
def test_a_token_comes_from_the_environment_or_a_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    for environment in ({name: TOKEN}, {f"{name}_FILE": str(file)}):
        settings = Settings.from_environment(environment)
        assert settings.civitai_token == TOKEN
        assert TOKEN not in repr(settings)
        assert TOKEN not in str(settings)


def test_the_first_token_that_is_set_wins() -> None:
    both = {"CIVITAI_TOKEN": "one", "CIVITAI_API_KEY": "two"}
    assert Settings.from_environment(both).civitai_token == "one"
    assert Settings.from_environment({**both, "CIVITAI_TOKEN": ""}).civitai_token == "two"
    assert Settings.from_environment({"HF_TOKEN": TOKEN}).huggingface_token == TOKEN
    # What its own library still reads, and only where HF_TOKEN is not set.
    older = {"HUGGING_FACE_HUB_TOKEN": "old"}
    assert Settings.from_environment(older).huggingface_token == "old"
    assert Settings.from_environment({**older, "HF_TOKEN": TOKEN}).huggingface_token == TOKEN


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "ümlaut"])
def test_a_broken_token_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ManifestError, match="CIVITAI_TOKEN") as raised:
        Settings.from_environment({"CIVITAI_TOKEN": token})
    assert token not in str(raised.value)


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"CIVITAI_TOKEN_FILE": "/none"}, "/none cannot be read"),
        ({"CIVITAI_BASE_URL": "http://mirror.example"}, "is not an https address"),
        ({"HF_ENDPOINT": "ftp://x"}, "is not an https address"),
        ({"HF_ENDPOINT": "https://u:p@x"}, "would leak"),
        ({"HF_ENDPOINT": "https://[x"}, "not a valid address"),
        ({"HF_ENDPOINT": "http://127.0.0.1:port"}, "not a valid address"),
        ({"BAKE_CONNECTIONS": "99"}, "99 does not fit; expected 1 to 16"),
        ({"BAKE_STALL_SECONDS": "soon"}, "soon does not fit"),
    ],
)
def test_what_does_not_fit(environment: dict[str, str], text: str) -> None:
    with pytest.raises(ManifestError) as raised:
        Settings.from_environment(environment)
    assert text in str(raised.value)
    assert next(iter(environment)) in str(raised.value)


def test_loopback_may_be_plain_http() -> None:
    settings = Settings.from_environment(
        {
            "HF_ENDPOINT": "http://127.0.0.1:8000/",
            "CIVITAI_BASE_URL": "http://localhost:1",
            "BAKE_STORAGE_HOSTS": "S3.example, .cdn.example",
            "BAKE_CONNECTIONS": "8",
        }
    )
    assert settings.huggingface_url == "http://127.0.0.1:8000"
    assert settings.storage_hosts == ("s3.example", ".cdn.example")
    assert settings.connections == 8


def test_certificates_of_the_network(tmp_path: Path) -> None:
    system, ours = (
        certificates(tmp_path / "a.pem", "system"),
        certificates(tmp_path / "b.pem", "ours"),
    )
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        settings = Settings.from_environment({name: str(system)})
        assert trusted_certificates(settings) == system, "in place of the system's, as it stands"
    environment = {
        "SSL_CERT_FILE": str(system),
        "BAKE_CA_BUNDLE": str(ours),
        "BAKE_CACHE": str(tmp_path),
    }
    both = trusted_certificates(Settings.from_environment(environment))
    assert both is not None
    assert (
        both.read_bytes() == system.read_bytes().strip() + b"\n" + ours.read_bytes().strip() + b"\n"
    )
    assert trusted_certificates(Settings.from_environment(environment)) == both
    del environment["SSL_CERT_FILE"]
    added = trusted_certificates(Settings.from_environment(environment))
    assert added is not None
    assert added.stat().st_size > both.stat().st_size + 1000, "the system's own stay trusted"
    assert added.read_bytes().endswith(ours.read_bytes())
    assert trusted_certificates(Settings.from_environment({})) is None


def certificates(path: Path, name: str) -> Path:
    path.write_text(f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n")
    return path


def test_sources_registries_and_builds_trust_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = str(certificates(tmp_path / "ca.pem", "ours"))
    environment = {"BAKE_CA_BUNDLE": bundle, "BAKE_CACHE": str(tmp_path)}
    settings = Settings.from_environment(environment)
    wanted = trusted_certificates(settings)
    assert RegistryOptions.from_environment(environment).ca_bundle == wanted
    assert build_secrets(environment) == ["--secret", f"id=ca_bundle,src={wanted}"]
    context = Context(settings=settings, store=Store(tmp_path), console=Console(quiet=True))
    with context.client(HostPolicy()) as client:
        assert client.session.verify == str(wanted)


BAD = {
    "BAKE_STORE": "~no-such-user-of-mine/x",
    "BAKE_CACHE": "~no-such-user-of-mine/x",
    "BAKE_XFORMERS_WHEEL": "~no-such-user-of-mine/x",
    "BAKE_GIT_CREDENTIALS": "~no-such-user-of-mine/x",
    "BAKE_BUILD_ARGS": "PYTHON_IMAGE",
    "BAKE_DEVICE": "gpu",
    "BAKE_WARMUP_START_TIMEOUT_S": "abc",
    "BAKE_WARMUP_DRAW_TIMEOUT_S": "0",
    "BAKE_CA_BUNDLE": "/no/such/file",
    "SSL_CERT_FILE": "/dev/null",
    "BAKE_PUSH_CHUNK_MIB": "1.5",
    "BAKE_PUSH_PARALLEL": "-1",
    "BAKE_STORAGE_HOSTS": "https://x/",
    "BAKE_CONNECTIONS": "٣",
    "BAKE_STALL_SECONDS": "soon",
    "BAKE_DEBUG": "maybe",
    "CIVITAI_BASE_URL": "mirror",
    "HF_ENDPOINT": "ftp://mirror",
    "CIVITAI_TOKEN": "two words",
    "HF_TOKEN": "ümlaut",
    "RUNPOD_API_URL": "http://mirror.example",
    "RUNPOD_API_KEY": "two words",
    "BAKE_KEY_PASSWORD": "two\nlines",
    "SIGSTORE_ID_TOKEN": "two words",
}


def test_every_variable_of_the_table_is_checked() -> None:
    assert set(BAD) == {each.name for each in variables()}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_value_is_named_with_what_was_expected(name: str) -> None:
    with pytest.raises(ManifestError) as raised:
        Settings.from_environment({name: BAD[name]})
    assert raised.value.exit_code == 2
    shown = str(raised.value)
    assert shown.startswith(f"{name}: ")
    assert ("TOKEN" in name or "KEY" in name) != (BAD[name] in shown or "mirror" in shown), (
        "secrets are not shown"
    )
    assert any(word in shown for word in ("expected", "not an https address", "no token has"))


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(ManifestError, match="the environment has 24 mistakes") as raised:
        Settings.from_environment(BAD)
    assert all(f"  {name}: " in str(raised.value) for name in BAD)


def test_the_warm_up_s_deadlines() -> None:
    environment = {"BAKE_WARMUP_START_TIMEOUT_S": "60", "BAKE_WARMUP_DRAW_TIMEOUT_S": " 70 "}
    settings = Settings.from_environment(environment)
    assert (settings.warmup_start_timeout_s, settings.warmup_draw_timeout_s) == (60, 70)
    assert Settings().warmup_start_timeout_s == 900
