"""Hugging Face: commits and digests, refusals, and where tokens go."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bake.errors import SourceError
from bake.lock import Pin
from bake.weights.check import check_stored
from tests.integration.weights_case import VERSION, Case, open_case
from tests.standins import models
from tests.standins.civitai import (
    GOOD_TOKEN,
)
from tests.standins.huggingface import HF_TOKEN, Repository, Revision, Trouble
from tests.standins.storage import Blob
from tests.standins.world import COMMIT, NEWER_COMMIT, VAE_REPOSITORY, add_catalogue

SDXL = models.safetensors(models.SDXL, seed=5, padding_bytes=200_000)
SDXL_SHA256 = hashlib.sha256(SDXL).hexdigest()
BAD_TOKEN = "bad-token-0123456789abcdefgh"


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    with open_case(tmp_path) as opened:
        yield opened


def hub(case: Case, trouble: Trouble = "none") -> str:
    add_catalogue(case.world)
    return f"hf://trouble/{trouble}/sdxl_vae.safetensors"


def pin_vae(case: Case, source: str) -> Pin:
    case.add_civitai(SDXL)
    manifest = case.manifest(f"civitai:{VERSION}", more=f"vae: {source}\n")
    return case.lock(manifest).pin("vae")


def test_a_branch_is_pinned_to_its_commit(case: Case) -> None:
    add_catalogue(case.world)
    source = f"hf://{VAE_REPOSITORY}/sdxl_vae.safetensors"
    case.add_civitai(SDXL)
    manifest = case.manifest(f"civitai:{VERSION}", more=f"vae: {source}\n")
    pin = case.lock(manifest).pin("vae")
    assert pin.revision == COMMIT
    assert (
        pin.url == f"https://huggingface.co/{VAE_REPOSITORY}/resolve/{COMMIT}/sdxl_vae.safetensors"
    )
    assert pin.licence.name == "mit"
    path = case.fetch(pin)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == pin.sha256
    check_stored(path, manifest, pin)


@pytest.mark.parametrize("kind", ["datasets", "spaces"])
def test_weights_of_a_data_set_or_a_space(case: Case, kind: str) -> None:
    """Embeddings above all are published there; the address is the one that the site's button copies."""
    data = models.safetensors(models.VAE, seed=12)
    files = {"v.safetensors": Blob(data=data)}
    revisions = [Revision(commit=COMMIT, files=files)]
    name = f"{kind}/a/b"
    case.world.huggingface.add(Repository(name=name, revisions=revisions, card={"license": "mit"}))
    address = f"https://huggingface.co/{name}/resolve/main/v.safetensors"
    pin = pin_vae(case, address)
    assert pin.url == address.replace("main", COMMIT)
    assert pin.licence.name == "mit"
    assert case.fetch(pin).read_bytes() == data


def test_a_plain_git_file_has_no_sha256_and_is_downloaded_once(case: Case) -> None:
    data = models.safetensors(models.VAE, seed=11)
    case.world.huggingface.add(
        Repository(
            name="a/b",
            revisions=[
                Revision(
                    commit=COMMIT, files={"v.safetensors": Blob(data=data)}, plain={"v.safetensors"}
                )
            ],
        )
    )
    pin = pin_vae(case, "hf://a/b/v.safetensors")
    assert pin.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("trouble", ["none", "renamed", "rate"])
def test_what_the_hub_can_be_asked_for_in_spite_of(case: Case, trouble: Trouble) -> None:
    source = hub(case, trouble)
    if trouble == "rate":
        with pytest.raises(SourceError, match="rate limit is reached"):
            pin_vae(case, source)
        asked = [each for each in case.world.huggingface.server.requests if "rate" in each.path]
        assert len(asked) == 4
        return
    pin = pin_vae(case, source)
    assert pin.revision == COMMIT
    assert pin.licence.name is not None


@pytest.mark.parametrize(
    ("trouble", "text", "hint"),
    [
        ("repo", "missing, private or gated", "HF_TOKEN"),
        ("private", "no such repository, or it is private", "HF_TOKEN"),
        ("gated", "the repository is gated", "accept them"),
        ("forbidden", "the token may not read this repository", "read access"),
        ("disabled", "Hugging Face has disabled the repository", "copy elsewhere"),
        ("rate_long", "opens again in 290 s", "HF_TOKEN"),
        ("maintenance", "the server is in trouble", "try again later"),
        ("error", "the server is in trouble", "try again later"),
        ("no_commit", "names no commit", "HF_ENDPOINT"),
    ],
)
def test_refusals_of_the_hub(case: Case, trouble: Trouble, text: str, hint: str) -> None:
    source = hub(case, trouble)
    with pytest.raises(SourceError) as raised:
        pin_vae(case, source)
    assert text in raised.value.what
    assert hint in (raised.value.hint or "")
    assert "vae" in (raised.value.where or "")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("hf://nobody/nothing/x.safetensors", "no such repository"),
        (f"hf://{VAE_REPOSITORY}@{NEWER_COMMIT}/sdxl_vae.safetensors", "no such revision"),
        (f"hf://{VAE_REPOSITORY}/other.safetensors", "no such file at this revision"),
    ],
)
def test_what_the_hub_does_not_have(case: Case, source: str, text: str) -> None:
    add_catalogue(case.world)
    with pytest.raises(SourceError, match=text):
        pin_vae(case, source)


@pytest.mark.parametrize("trouble", ["private", "gated"])
def test_a_token_opens_the_hub_and_goes_nowhere_else(case: Case, trouble: Trouble) -> None:
    case.with_tokens(huggingface=HF_TOKEN, civitai=GOOD_TOKEN)
    source = hub(case, trouble)
    case.add_civitai(SDXL)
    lock = case.lock(case.manifest(f"civitai:{VERSION}", more=f"vae: {source}\n"))
    for pin in lock.pins:
        case.fetch(pin)
    for server, foreign in (
        (case.world.civitai.server, HF_TOKEN),
        (case.world.huggingface.server, GOOD_TOKEN),
    ):
        assert not any(foreign in each.text for each in server.requests)
    assert not any(
        token in each.text
        for each in case.world.storage.server.requests
        for token in (HF_TOKEN, GOOD_TOKEN)
    )
    assert not any(
        token in each.target for each in case.world.requests for token in (HF_TOKEN, GOOD_TOKEN)
    )
    for path in case.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert HF_TOKEN.encode() not in content
            assert GOOD_TOKEN.encode() not in content


def test_netrc_neither_overrides_nor_adds_credentials(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = case.folder / "netrc"
    netrc.write_text("machine 127.0.0.1\nlogin somebody\npassword netrc-secret-000\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    case.with_tokens(civitai=GOOD_TOKEN)
    case.add_civitai(SDXL)
    case.fetch(case.pin(f"civitai:{VERSION}"))
    sent = [each.headers.get("authorization") for each in case.world.requests]
    assert {each for each in sent if each} == {f"Bearer {GOOD_TOKEN}"}


def test_proxies_and_certificates_of_the_environment_are_used(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(SourceError, match="the proxy cannot be reached"):
        case.pin("https://weights.example/x.safetensors")
