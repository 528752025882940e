"""Tokens and addresses from the environment; tokens are never shown."""

from pathlib import Path

import pytest

from bake.errors import ManifestError
from bake.settings import Settings

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
    first, second = tmp_path / "a.pem", tmp_path / "b.pem"
    first.touch()
    second.touch()
    environment = {"REQUESTS_CA_BUNDLE": str(first)}
    assert Settings.from_environment(environment).ca_bundle == first
    environment["BAKE_CA_BUNDLE"] = str(second)
    assert Settings.from_environment(environment).ca_bundle == second
    second.unlink()
    with pytest.raises(ManifestError, match=r"b\.pem does not exist"):
        Settings.from_environment(environment)
