"""Pins of plain servers and local files, and the lock that comes of them."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bake.errors import MachineError, ManifestError, SourceError
from bake.lock import find_differences
from bake.weights.check import check_stored
from tests.integration.weights_case import VERSION, Case, open_case
from tests.standins import models
from tests.standins.civitai import (
    CivitaiModel,
)
from tests.standins.storage import Blob
from tests.standins.world import JIB_MIX, VAE_REPOSITORY, add_catalogue

SDXL = models.safetensors(models.SDXL, seed=5, padding_bytes=200_000)
SDXL_SHA256 = hashlib.sha256(SDXL).hexdigest()
BAD_TOKEN = "bad-token-0123456789abcdefgh"


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    with open_case(tmp_path) as opened:
        yield opened


# --- https and file ---


def test_an_ordinary_server_is_pinned_by_downloading_once(case: Case) -> None:
    url = case.world.plain_url("x.safetensors", Blob(data=SDXL))
    pin = case.pin(f"{url}?part=1")
    assert (pin.sha256, pin.size_bytes, pin.url) == (SDXL_SHA256, len(SDXL), url)
    before = len(case.world.requests)
    case.fetch(pin)
    assert len(case.world.requests) == before


def test_a_plain_refusal_says_what_to_do(case: Case) -> None:
    url = case.world.plain_url("x.safetensors", Blob(data=SDXL))
    with pytest.raises(SourceError, match="there is no such file") as raised:
        case.pin(url.replace("x.safetensors", "y.safetensors"))
    assert raised.value.hint == "check the address"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"<!DOCTYPE html><html>" + b"." * 900, "HTML page"),
        (SDXL[:-1000], "breaks off 1000 bytes before its end"),
        (b"nothing that anybody knows" * 50, "a text in place of the file"),
        (b"\xfe\xdcnothing" * 90, "no weights file"),
    ],
)
def test_what_is_no_weights_file_is_never_pinned(case: Case, data: bytes, text: str) -> None:
    url = case.world.plain_url("x.safetensors", Blob(data=data))
    with pytest.raises(SourceError, match=text):
        case.pin(url)
    assert case.stored() == []
    assert case.store.partials() == []


def test_a_local_file_is_copied_and_read_again_at_each_lock(case: Case) -> None:
    original = case.folder / "x.safetensors"
    original.write_bytes(SDXL)
    manifest = case.manifest("file:x.safetensors")
    lock = case.lock(manifest)
    stored = case.fetch(lock.pins[0])
    assert stored.stat().st_ino != original.stat().st_ino
    assert stored.stat().st_nlink == 1
    assert case.lock(manifest, lock).to_json() == lock.to_json()
    changed = models.safetensors(models.SDXL, seed=6)
    original.write_bytes(changed)
    assert case.lock(manifest, lock).pins[0].sha256 == hashlib.sha256(changed).hexdigest()
    stored.unlink()
    with pytest.raises(SourceError, match=r"the lock says .* it was changed"):
        case.fetch(lock.pins[0])


@pytest.mark.parametrize(("name", "text"), [("none", "no such file"), (".", "this is a folder")])
def test_local_files_that_are_not_there(case: Case, name: str, text: str) -> None:
    with pytest.raises(SourceError, match=text):
        case.pin(f"file:{name}")


def test_two_files_of_one_name_are_refused(case: Case) -> None:
    (case.folder / "x.safetensors").write_bytes(SDXL)
    manifest = case.manifest("file:x.safetensors", more="checkpoints:\n  x: file:x.safetensors\n")
    with pytest.raises(ManifestError, match="would both be named x in the image"):
        case.lock(manifest)


def test_the_disk_is_looked_at_before_a_download(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.add_civitai(SDXL)
    pin = dataclasses.replace(case.pin(f"civitai:{VERSION}"), size_bytes=1 << 60)
    before = len(case.world.requests)
    with pytest.raises(MachineError, match=r"case.safetensors needs 1048576.0 TiB") as raised:
        case.fetch(pin)
    assert "bake store gc" in (raised.value.hint or "")
    assert len(case.world.requests) == before


# --- locks ---


def test_the_same_answers_give_the_same_lock_byte_for_byte(case: Case) -> None:
    add_catalogue(case.world)
    manifest = case.manifest(
        f"civitai:{JIB_MIX}",
        more=f"vae: hf://{VAE_REPOSITORY}/sdxl_vae.safetensors\nloras:\n  b: civitai:135867\n",
    )
    first = case.lock(manifest)
    assert case.lock(manifest).to_json() == first.to_json()
    before = len(case.world.requests)
    assert case.lock(manifest, first).to_json() == first.to_json()
    assert len(case.world.requests) == before


def test_a_pin_without_a_size_is_completed_by_the_next_lock(case: Case) -> None:
    case.add_civitai(SDXL)
    manifest = case.manifest(f"civitai:{VERSION}")
    lock = case.lock(manifest)
    bare = dataclasses.replace(lock, pins=(dataclasses.replace(lock.pins[0], size_bytes=None),))
    assert case.lock(manifest, bare).pins[0].size_bytes == len(SDXL)
    wrong = dataclasses.replace(
        lock, pins=(dataclasses.replace(lock.pins[0], size_bytes=None, sha256="1" * 64),)
    )
    with pytest.raises(SourceError, match="the lock says 1111"):
        case.lock(manifest, wrong)


def test_a_model_whose_page_is_gone_is_pinned_without_licence(case: Case) -> None:
    case.world.civitai.models[400] = CivitaiModel(model_id=400, gone=True)
    case.add_civitai(SDXL)
    pin = case.pin(f"civitai:{VERSION}")
    assert pin.licence.commercial_use is None
    assert any("no licence" in text for text in case.console.warnings)


def test_a_config_lies_beside_its_checkpoint(case: Case) -> None:
    (case.folder / "my model.safetensors").write_bytes(SDXL)
    (case.folder / "own.yaml").write_text("model: {target: sgm.models.diffusion.DiffusionEngine}\n")
    more = (
        "config: builtin:sdxl-v-prediction\ncheckpoints:\n  other: file:my model.safetensors\n"
        "configs:\n  other: file:own.yaml\n"
    )
    manifest = case.manifest("file:my model.safetensors", more=more)
    lock = case.lock(manifest)
    pins = [(each.key, each.role, each.name, each.suffix) for each in lock.pins]
    assert pins[2:] == [
        ("config", "config", "my_model", ".yaml"),
        ("configs.other", "config", "other", ".yaml"),
    ]
    assert lock.pin("config").url == "builtin:sdxl-v-prediction"
    assert find_differences(manifest, lock) == []
    assert case.lock(manifest, lock) == lock
    for each in lock.pins:
        case.store.path_of(each.sha256).unlink(missing_ok=True)
        check_stored(case.fetch(each), manifest, each)
    (case.folder / "own.yaml").write_text("model: {target: os.system}\n")
    with pytest.raises(SourceError, match=r"the config's target names os\.system"):
        case.lock(manifest)
