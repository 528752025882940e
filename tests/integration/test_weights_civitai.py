"""CivitAI: what is pinned, how few redirects that costs, and one clear message for every refusal."""

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bake.errors import BakeError, SourceError
from bake.weights.transfer import locations
from tests.integration.weights_case import FILE, VERSION, Case, open_case
from tests.ports import free_port
from tests.standins import models
from tests.standins.civitai import (
    GOOD_TOKEN,
    OTHER_TOKEN,
    WEAK_TOKEN,
    Api,
    CivitaiFile,
    CivitaiVersion,
    Download,
)
from tests.standins.storage import Blob, Fault, always, in_turn
from tests.standins.world import JIB_MIX, add_catalogue

SDXL = models.safetensors(models.SDXL, seed=5, padding_bytes=200_000)
SDXL_SHA256 = hashlib.sha256(SDXL).hexdigest()
BAD_TOKEN = "bad-token-0123456789abcdefgh"


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    with open_case(tmp_path) as opened:
        yield opened


def refuse(case: Case, version: CivitaiVersion) -> BakeError:
    """The error of fetching a version that was pinned while it could be had."""
    allowed = dataclasses.replace(version, download="ok", needs_login=False)
    case.world.civitai.add(allowed)
    pin = case.pin(f"civitai:{version.version_id}")
    locations._known.clear()
    case.world.civitai.add(version)
    with pytest.raises(BakeError) as raised:
        case.fetch(pin)
    assert case.stored() == []
    return raised.value


# --- CivitAI: what is pinned ---


def test_a_version_is_pinned_with_all_that_its_record_says(case: Case) -> None:
    add_catalogue(case.world)
    pin = case.pin(f"civitai:{JIB_MIX}")
    data = case.world.civitai.versions[JIB_MIX].files[0].blob.data
    assert data is not None
    assert pin.sha256 == hashlib.sha256(data).hexdigest()
    assert pin.size_bytes == len(data)
    assert (pin.model_id, pin.version_id, pin.file_id) == (880001, JIB_MIX, 1490001)
    assert pin.title == "Jib Mix Illustrious Realistic v2.0"
    assert pin.base_model == "Illustrious"
    assert pin.licence.commercial_use == ("Image", "Rent", "RentCivit")
    assert pin.url == f"https://civitai.com/api/download/models/{JIB_MIX}"
    assert case.fetch(pin).read_bytes() == data


def test_locking_and_fetching_cost_one_redirect(case: Case) -> None:
    case.add_civitai(SDXL)
    case.fetch(case.pin(f"civitai:{VERSION}"))
    assert case.world.civitai.redirect_count == 1


def test_a_cut_download_costs_no_second_redirect(case: Case) -> None:
    case.add_civitai(SDXL)
    pin = case.pin(f"civitai:{VERSION}")
    locations._known.clear()
    case.world.civitai.redirects.clear()
    case.world.storage.fault = lambda _request, count: (
        Fault(kind="cut", after=20_000) if count % 2 else None
    )
    assert case.fetch(pin).read_bytes() == SDXL
    assert case.world.civitai.redirect_count == 1


def test_an_expired_address_is_asked_for_again_once(case: Case) -> None:
    case.add_civitai(SDXL)
    pin = case.pin(f"civitai:{VERSION}")
    case.world.storage.expire_all()
    assert case.fetch(pin).read_bytes() == SDXL
    assert case.world.civitai.redirect_count == 2


def test_a_storage_that_is_out_of_reach_is_asked_for_again_once(case: Case) -> None:
    case.add_civitai(SDXL)
    pin = case.pin(f"civitai:{VERSION}")
    gone = f"http://127.0.0.1:{free_port()}/bucket/x"
    for key in locations._known:
        locations._known[key] = (gone, time.monotonic())
    case.world.civitai.redirects.clear()
    assert case.fetch(pin).read_bytes() == SDXL
    assert case.world.civitai.redirect_count == 1


def test_the_backend_changes_in_mid_download(case: Case) -> None:
    case.add_civitai(SDXL)
    case.world.civitai.style = lambda count: "b2" if count % 2 else "r2"
    pin = case.pin(f"civitai:{VERSION}")
    case.world.storage._count = 0
    case.world.storage.fault = in_turn(Fault(kind="cut", after=70_000), Fault(kind="expired"))
    assert case.fetch(pin).read_bytes() == SDXL
    paths = [each.path for each in case.world.storage.server.requests]
    assert any(path.startswith("/bucket/") for path in paths)
    assert any(path.startswith("/file/bucket/") for path in paths)
    assert case.world.storage.server.requests[-1].headers["range"].startswith("bytes=70000-")


def test_a_storage_that_refuses_fresh_addresses_is_given_up_soon(case: Case) -> None:
    case.add_civitai(SDXL)
    pin = case.pin(f"civitai:{VERSION}")
    case.world.storage.fault = always(Fault(kind="expired"))
    with pytest.raises(SourceError, match="refuses its own signed address"):
        case.fetch(pin)
    assert case.world.civitai.redirect_count <= 5


def test_storage_gets_no_head_and_no_credentials(case: Case) -> None:
    case.with_tokens(civitai=GOOD_TOKEN)
    version = case.add_civitai(SDXL)
    version.needs_login = True
    assert case.fetch(case.pin(f"civitai:{VERSION}")).read_bytes() == SDXL
    requests = case.world.storage.server.requests
    assert requests
    assert {each.method for each in requests} == {"GET"}
    assert all("authorization" not in each.headers for each in requests)
    assert all(each.headers["accept-encoding"] == "identity" for each in requests)


def test_the_file_is_chosen_by_id_whatever_the_account_prefers(case: Case) -> None:
    version = case.add_civitai(SDXL)
    other = models.safetensors(models.SDXL, seed=99)
    version.files.append(
        CivitaiFile(
            file_id=FILE + 1, name="other.safetensors", blob=Blob(data=other), primary=False
        )
    )
    case.world.civitai.add(version)
    case.world.civitai.preferences[GOOD_TOKEN] = "other.safetensors"
    case.with_tokens(civitai=GOOD_TOKEN)
    assert case.fetch(case.pin(f"civitai:{VERSION}")).read_bytes() == SDXL
    assert case.fetch(case.pin(f"civitai:{VERSION}+{FILE + 1}")).read_bytes() == other


def test_a_pasted_download_address_chooses_by_its_query(case: Case) -> None:
    version = case.add_civitai(SDXL)
    full = models.safetensors(models.SDXL, seed=98, dtype="F32")
    version.files.append(
        CivitaiFile(
            file_id=FILE + 1,
            name="full.safetensors",
            blob=Blob(data=full),
            primary=False,
            metadata={"format": "SafeTensor", "size": "full", "fp": "fp32"},
        )
    )
    address = "https://civitai.com/api/download/models"
    pin = case.pin(f"{address}/{VERSION}?type=Model&format=SafeTensor&size=full&fp=fp32")
    assert pin.file_id == FILE + 1


def test_a_query_that_fits_no_file_is_said(case: Case) -> None:
    case.add_civitai(SDXL)
    address = f"https://civitai.com/api/download/models/{VERSION}"
    assert case.pin(f"{address}?type=Model&size=pruned").file_id == FILE
    asked = "no file is known to be size=full, fp=fp32"
    assert not any("no file is known" in text for text in case.console.warnings)
    assert case.pin(f"{address}?size=full&fp=fp32").file_id == FILE
    assert any(asked in text for text in case.console.warnings)


def test_a_checkpoints_version_may_hold_its_vae(case: Case) -> None:
    version = case.add_civitai(SDXL)
    version.files.append(
        CivitaiFile(
            file_id=FILE + 1, name="v.safetensors", blob=Blob(data=SDXL), type="VAE", primary=False
        )
    )
    with pytest.raises(SourceError, match="the source is a vae, not a checkpoint"):
        case.pin(f"civitai:{VERSION}+{FILE + 1}")
    more = f"vae: civitai:{VERSION}+{FILE + 1}\n"
    manifest = case.manifest(f"civitai:{VERSION}", more=more)
    assert [pin.file_id for pin in case.lock(manifest).pins] == [FILE, FILE + 1]


@pytest.mark.parametrize(
    ("name", "more", "text"),
    [
        ("a.ckpt", "", "this is a pickle, which can run any code"),
        ("a.ckpt", "allow_pickle: true\n", None),
        ("a.zip", "allow_pickle: true\n", "a.zip is no file of weights"),
    ],
)
def test_names_of_other_files_are_refused_before_the_download(
    case: Case, name: str, more: str, text: str | None
) -> None:
    case.add_civitai(SDXL).files[0].name = name
    manifest = case.manifest(f"civitai:{VERSION}", more=more)
    if text is None:
        assert case.lock(manifest).pins[0].file_name == name
        return
    with pytest.raises(SourceError, match=text):
        case.lock(manifest)
    assert case.world.civitai.redirect_count == 0


def test_a_kept_pin_is_held_against_a_family_that_has_changed(case: Case) -> None:
    case.add_civitai(SDXL)
    lock = case.lock(case.manifest(f"civitai:{VERSION}"))
    with pytest.raises(SourceError, match="made for Illustrious, the manifest's family is sd1"):
        case.lock(case.manifest(f"civitai:{VERSION}", family="sd1"), previous=lock)


def test_without_a_primary_file_the_source_must_say_which(case: Case) -> None:
    version = case.add_civitai(SDXL)
    version.files[0].primary = False
    version.files.append(
        CivitaiFile(file_id=502, name="b.safetensors", blob=Blob(data=SDXL), primary=False)
    )
    with pytest.raises(SourceError, match="several files") as raised:
        case.pin(f"civitai:{VERSION}")
    assert f"civitai:{VERSION}+502" in str(raised.value)
    with pytest.raises(SourceError, match="has no file 77"):
        case.pin(f"civitai:{VERSION}+77")


def test_without_a_digest_the_file_is_downloaded_once(case: Case) -> None:
    version = case.add_civitai(SDXL)
    version.files[0].publishes_hash = False
    pin = case.pin(f"civitai:{VERSION}")
    assert (pin.sha256, pin.size_bytes) == (SDXL_SHA256, len(SDXL))
    before = len(case.world.requests)
    assert case.fetch(pin).read_bytes() == SDXL
    assert len(case.world.requests) == before


def test_commercial_use_comes_in_three_spellings(case: Case) -> None:
    case.add_civitai(SDXL)
    licence = case.world.civitai.models[400].licence
    for spelling in (["Image", "Rent"], "{Image,Rent}"):
        licence["allowCommercialUse"] = spelling
        assert case.pin(f"civitai:{VERSION}").licence.commercial_use == ("Image", "Rent")
    licence["allowCommercialUse"] = "None"
    assert case.pin(f"civitai:{VERSION}").licence.commercial_use == ("None",)
    assert any("forbids commercial use" in text for text in case.console.warnings)


def test_a_busy_api_is_asked_again(case: Case) -> None:
    case.add_civitai(SDXL).api = "flaky"
    assert case.pin(f"civitai:{VERSION}").sha256 == SDXL_SHA256


# --- CivitAI: what is refused ---


@pytest.mark.parametrize(
    ("api", "text"),
    [
        ("not_found", "CivitAI knows no such model or version"),
        ("no_file", "CivitAI has the version's record, but no file of it"),
        ("bad_request", "CivitAI does not accept the request"),
        ("region", "does not serve this region"),
        ("error", "the server is in trouble"),
        ("maintenance", "in maintenance or overloaded"),
        ("challenge", "a page in place of data"),
    ],
)
def test_refusals_of_the_api(case: Case, api: Api, text: str) -> None:
    case.add_civitai(SDXL).api = api
    with pytest.raises(SourceError, match=text) as raised:
        case.pin(f"civitai:{VERSION}")
    assert raised.value.hint
    assert "checkpoint" in (raised.value.where or "")


@pytest.mark.parametrize(
    ("download", "text", "hint"),
    [
        ("quota", "quota is used up", "try again later"),
        ("quota_with_date", "over the last 24 hours; it asks to wait 3600 s", "try again later"),
        ("bad_request", "does not accept the request", "check the version"),
        ("not_found", "does not find the file", "look at the model's page"),
        ("archived", "is archived", "choose another version"),
        ("disabled", "the creator has disabled downloads", "no token changes that"),
        ("login", "the file needs a login", "CIVITAI_TOKEN"),
        ("early_access", "early or paid access until 2027-01-31T12:00", "buy access"),
        ("grant", "the file needs a login", "CIVITAI_TOKEN"),
        ("region", "does not serve this region", "HTTPS_PROXY"),
        ("maintenance", "in maintenance or overloaded", "try again later"),
        ("challenge", "a page for browsers", "another network"),
        ("error", "the server is in trouble", "try again later"),
        ("login_page", "the file needs a login", "CIVITAI_TOKEN"),
        ("strange_host", "evil.example is not a host that files may come", "BAKE_STORAGE_HOSTS"),
    ],
)
def test_refusals_of_a_download(case: Case, download: Download, text: str, hint: str) -> None:
    version = case.add_civitai(SDXL)
    error = refuse(case, dataclasses.replace(version, download=download))
    assert isinstance(error, SourceError)
    assert text in error.what
    assert hint in (error.hint or "")


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (None, "the file needs a login"),
        (BAD_TOKEN, "the token is wrong or has expired"),
        (WEAK_TOKEN, "the token may not download this file"),
        (OTHER_TOKEN, "CivitAI does not accept the token for it"),
    ],
)
def test_a_login_tells_the_tokens_apart(case: Case, token: str | None, text: str) -> None:
    case.with_tokens(civitai=token)
    download: Download = "login" if token == OTHER_TOKEN else "ok"
    version = case.add_civitai(SDXL)
    error = refuse(case, dataclasses.replace(version, download=download, needs_login=True))
    assert text in error.what


def test_what_cannot_be_downloaded_now_is_pinned_with_a_warning(case: Case) -> None:
    case.add_civitai(SDXL).download = "early_access"
    pin = case.pin(f"civitai:{VERSION}")
    assert (pin.sha256, pin.size_bytes) == (SDXL_SHA256, None)
    assert any("early or paid access" in text for text in case.console.warnings)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"files": []}, "archived"),
        ({"usage_control": "Generation"}, "not to be downloaded"),
        ({"base_model": "Flux.1 D"}, "made for Flux.1 D, the manifest's family is sdxl"),
        ({"base_model": "SD 1.5"}, "made for SD 1.5"),
    ],
)
def test_versions_that_cannot_be_used(case: Case, change: dict[str, object], text: str) -> None:
    version = case.add_civitai(SDXL)
    case.world.civitai.add(dataclasses.replace(version, **change))  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=text):
        case.pin(f"civitai:{VERSION}")
    assert case.world.civitai.redirect_count == 0


def test_dangerous_files_and_other_kinds_are_refused(case: Case) -> None:
    version = case.add_civitai(SDXL)
    version.files[0].pickle_scan = "Danger"
    with pytest.raises(SourceError, match=r"pickle scan of case.safetensors found danger"):
        case.pin(f"civitai:{VERSION}")
    version.files[0].pickle_scan = "Pending"
    case.pin(f"civitai:{VERSION}")
    assert any("pickle scan" in text for text in case.console.warnings)
    case.world.civitai.models[400].type = "LORA"
    with pytest.raises(SourceError, match="is a lora, not a checkpoint"):
        case.pin(f"civitai:{VERSION}")


def test_an_air_of_another_model_is_refused(case: Case) -> None:
    case.add_civitai(SDXL)
    assert case.pin(f"urn:air:sdxl:checkpoint:civitai:400@{VERSION}").version_id == VERSION
    with pytest.raises(SourceError, match="belongs to model 400"):
        case.pin(f"urn:air:sdxl:checkpoint:civitai:401@{VERSION}")


# --- wrong digests: who is to blame ---


def test_a_wrong_digest_blames_the_storage_when_pin_and_record_agree(case: Case) -> None:
    case.add_civitai(SDXL)
    pin = case.pin(f"civitai:{VERSION}")
    case.world.storage.fault = always(Fault(kind="other_bytes", after=100_000))
    with pytest.raises(SourceError, match="the storage or a cache on the way") as raised:
        case.fetch(pin)
    assert pin.sha256 in raised.value.what
    assert case.stored() == []


def test_another_length_is_explained_like_a_wrong_digest(case: Case) -> None:
    case.add_civitai(SDXL)
    pin = case.pin(f"civitai:{VERSION}")
    case.world.storage.fault = always(Fault(kind="other_length"))
    with pytest.raises(SourceError, match="so the lock's size or the storage is wrong"):
        case.fetch(pin)
    assert case.stored() == []


def test_a_page_of_another_length_is_said_to_be_a_page(case: Case) -> None:
    case.add_civitai(SDXL)
    pin = case.pin(f"civitai:{VERSION}")
    case.world.storage.blobs[f"{FILE}-case.safetensors"] = Blob(data=b'{"error": "no"}')
    with pytest.raises(SourceError, match="a JSON answer in place of the file"):
        case.fetch(pin)
    assert case.stored() == []


def test_a_storage_without_ranges_tells_the_size_too(case: Case) -> None:
    case.add_civitai(SDXL)
    case.world.storage.fault = always(Fault(kind="whole"))
    assert case.pin(f"civitai:{VERSION}").size_bytes == len(SDXL)


def test_a_wrong_digest_blames_the_record_when_that_has_changed(case: Case) -> None:
    version = case.add_civitai(SDXL)
    pin = case.pin(f"civitai:{VERSION}")
    replaced = bytearray(SDXL)
    replaced[-1] ^= 1
    version.files[0].blob = Blob(data=bytes(replaced))
    case.world.civitai.add(version)
    with pytest.raises(SourceError, match="replaced after it was pinned") as raised:
        case.fetch(pin)
    assert "bake update" in (raised.value.hint or "")
    assert case.stored() == []


def test_a_plain_server_publishes_no_digest_to_compare_with(case: Case) -> None:
    url = case.world.plain_url("x.safetensors", Blob(data=SDXL))
    pin = dataclasses.replace(case.pin(url), sha256="0" * 64)
    with pytest.raises(SourceError, match="publishes no digest"):
        case.fetch(pin)
