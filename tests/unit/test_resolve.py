"""Choosing files, licences, names in the image, moving pins: what needs no network."""

import dataclasses
import re
from pathlib import Path

import pytest

from bake.errors import ManifestError, SourceError
from bake.lock import Licence, Lock
from bake.manifest.load import parse_manifest
from bake.weights.context import Newer, today
from bake.weights.licences import licence_warnings
from bake.weights.resolve import image_name, refuse_same_places
from bake.weights.sites.civitai_records import (
    choose_file,
    families_of,
    parse_licence,
    parse_version,
)
from bake.weights.sources import parse_source
from bake.weights.update import (
    Standing,
    describe_changes,
    edit_manifest,
    find_keys,
    next_source,
)
from tests.unit.test_lock import PINS, TEXT, pin


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("jibMix_v20.safetensors", "jibMix_v20"),
        ("My Model (v2.1).ckpt", "My_Model_v2.1"),
        ("../../etc/x.safetensors", "x"),
        ("...", "weights"),
        ("名.safetensors", "weights"),
    ],
)
def test_names_in_the_image(file_name: str, name: str) -> None:
    assert image_name(file_name) == name


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        (Licence(name="mit"), []),
        (Licence(name="creativeml-openrail-m"), []),
        (Licence(name="cc-by-nc-nd-4.0"), ["forbids commercial use", "forbids passing on changed"]),
        (Licence(name="cc-by-nc-4.0"), ["forbids commercial use"]),
        (Licence(), ["no licence is known"]),
        (Licence(commercial_use=()), ["forbids commercial use"]),
        (Licence(commercial_use=("None",)), ["forbids commercial use"]),
        (Licence(commercial_use=("Image", "Rent", "RentCivit", "Sell")), []),
        (
            Licence(commercial_use=("Image", "RentCivit")),
            ["paid generation service", "forbids selling it"],
        ),
        (Licence(commercial_use=("Rent", "Sell")), ["forbids selling pictures"]),
    ],
)
def test_licences_that_forbid_something(licence: Licence, expected: list[str]) -> None:
    lock = Lock(
        manifest_name="x", family="sdxl", pins=(pin("checkpoint", "civitai:1", licence=licence),)
    )
    warnings = licence_warnings(lock)
    assert len(warnings) == (1 if expected else 0)
    for text in expected:
        assert text in warnings[0]


def test_a_local_file_is_its_owners_business() -> None:
    lock = Lock(manifest_name="x", family="sdxl", pins=(pin("checkpoint", "file:x"),))
    assert licence_warnings(lock) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["Image", "Rent"], ("Image", "Rent")),
        ("{Image,RentCivit}", ("Image", "RentCivit")),
        ("Sell", ("Sell",)),
        ("{}", ()),
        ([], ()),
        (None, None),
        (7, None),
    ],
)
def test_commercial_use_on_the_wire(value: object, expected: tuple[str, ...] | None) -> None:
    assert parse_licence({"allowCommercialUse": value}).commercial_use == expected


@pytest.mark.parametrize(
    ("base_model", "families"),
    [
        *((each, ("sd1",)) for each in ("SD 1.4", "SD 1.5", "SD 1.5 LCM", "SD 1.5 Hyper")),
        *((each, ("sd2",)) for each in ("SD 2.0", "SD 2.0 768", "SD 2.1 768", "SD 2.1 Unclip")),
        *((each, ("sdxl",)) for each in ("SDXL 0.9", "SDXL 1.0", "SDXL 1.0 LCM", "SDXL Lightning")),
        *((each, ("sdxl",)) for each in ("SDXL Hyper", "SDXL Turbo", "SDXL Distilled")),
        *((each, ("sdxl",)) for each in ("Illustrious", "Pony", "pony v6 XL", "NoobAI")),
        *(
            (each, ())
            for each in ("Pony V7", "Pony V7.1", "AuraFlow", "Illustrious-Lumina", "SD 3")
        ),
        *(
            (each, ())
            for each in ("SD 3.5 Medium", "SD 3.5 Large Turbo", "Flux.1 D", "Flux.2 Klein 9B")
        ),
        *((each, ()) for each in ("Stable Cascade", "SVD", "SVD XT", "SDXS", "PixArt a", "Kolors")),
        *(
            (each, ())
            for each in ("Hunyuan 1", "Lumina", "Chroma", "HiDream", "Qwen", "ZImageTurbo")
        ),
        *(
            (each, ())
            for each in ("Wan Video 2.2 T2V-A14B", "LTXV", "Playground v2", "Anima", "ODOR")
        ),
        ("Other", None),
        (None, None),
    ],
)
def test_base_models(base_model: str | None, families: tuple[str, ...] | None) -> None:
    assert families_of(base_model) == families


def record(*files: dict[str, object]) -> dict[str, object]:
    return {"id": 1, "modelId": 2, "files": list(files)}


MODEL = {"id": 10, "name": "a.safetensors", "type": "Model", "primary": True}
OTHER = {"id": 11, "name": "b.safetensors", "type": "Model"}
PRUNED = {"id": 12, "name": "c.safetensors", "type": "Pruned Model"}
PICKLE = {"id": 13, "name": "a.ckpt", "type": "Model", "primary": True}
VAE = {"id": 15, "name": "v.safetensors", "type": "VAE"}
TRAINING = {"id": 14, "name": "t.zip", "type": "Training Data"}


@pytest.mark.parametrize(
    ("files", "source", "chosen"),
    [
        ([MODEL], "civitai:1", 10),
        ([MODEL, OTHER, TRAINING], "civitai:1", 10),
        ([OTHER, TRAINING], "civitai:1", 11),
        ([OTHER, MODEL], "civitai:1+11", 11),
        ([PICKLE, OTHER], "civitai:1", 11),
        ([PICKLE], "civitai:1", 13),
        ([VAE, OTHER], "civitai:1", 11),
        ([VAE, TRAINING], "civitai:1", 15),
        ([MODEL, VAE], "https://civitai.com/api/download/models/1?type=VAE", 15),
    ],
)
def test_one_file_of_a_version_is_chosen(
    files: list[dict[str, object]], source: str, chosen: int
) -> None:
    version = parse_version(record(*files), where="x")
    assert choose_file(version, parse_source(source), where="x").file_id == chosen


@pytest.mark.parametrize(
    ("files", "source", "text"),
    [
        ([], "civitai:1", "the version is archived"),
        ([TRAINING], "civitai:1", "none of the version's files is a model"),
        ([OTHER, PRUNED], "civitai:1", "has several files"),
        ([MODEL], "civitai:1+9", "has no file 9"),
    ],
)
def test_versions_of_which_no_file_can_be_chosen(
    files: list[dict[str, object]], source: str, text: str
) -> None:
    version = parse_version(record(*files), where="civitai:1")
    with pytest.raises(SourceError, match=text):
        choose_file(version, parse_source(source), where="civitai:1")


def test_records_with_anything_in_them() -> None:
    version = parse_version(
        {
            "id": 1,
            "model": None,
            "files": [None, {"sizeKB": "x", "hashes": {"SHA256": "zz"}, "metadata": None}],
            "trainedWords": None,
            "availability": "EarlyAccess",
        },
        where="x",
    )
    assert version.early_access
    assert (version.files[0].about_bytes, version.files[0].sha256) == (None, None)
    with pytest.raises(SourceError, match="is no model version"):
        parse_version({"error": "x"}, where="x")


def test_a_vae_beside_a_checkpoint_is_a_vae() -> None:
    data = record(MODEL, VAE, {"id": 16, "name": "x"})
    version = parse_version({**data, "model": {"type": "Checkpoint"}}, where="x")
    assert [version.role_of(file) for file in version.files] == ["checkpoint", "vae", "checkpoint"]


def test_names_hold_no_folder_and_steer_no_terminal() -> None:
    name = "..\\../etc/\x1b[31ma\nb.safetensors"
    version = parse_version(
        {**record({"id": 1, "name": name}), "name": "v\x1b[2J1", "trainedWords": [1, None, "a\0b"]},
        where="x",
    )
    assert version.files[0].name == "[31mab.safetensors"
    assert (version.name, version.trigger_words) == ("v[2J1", ("ab",))


NEWER = Newer(source="civitai:9", title="v9", published_at=None, base_model=None)


def test_an_edit_changes_one_text_and_keeps_the_rest(tmp_path: Path) -> None:
    text = "# top\n" + TEXT.replace("one: civitai:2", 'one: "civitai:2"  # why')
    manifest = parse_manifest(text, tmp_path / "x.yaml")
    edited, parsed = edit_manifest(manifest, text, {"loras.one": "civitai:9"})
    assert edited == text.replace("civitai:2", "civitai:9")
    assert parsed.loras == {"one": "civitai:9"}


@pytest.mark.parametrize(
    "loras",
    [
        "loras:\n  one: civitai:2 # was civitai:2 before",
        "loras:\n  one:\n    civitai:2",
        "loras: {one: civitai:2, two: 'civitai:22'}",
        "loras:\r\n  'one' : &x \"civitai:2\"  # é\r\n  v1.0: civitai:22",
    ],
)
def test_an_edit_is_made_where_the_value_stands(loras: str, tmp_path: Path) -> None:
    before = TEXT.replace("loras:\n  one: civitai:2", loras)
    manifest = parse_manifest(before, tmp_path / "x.yaml")
    edited, _ = edit_manifest(manifest, before, {"loras.one": "civitai:9"})
    at = before.index("civitai:2", before.index("one"))
    assert edited == before[:at] + "civitai:9" + before[at + len("civitai:2") :]


def test_a_folded_source_is_left_to_the_user(tmp_path: Path) -> None:
    text = TEXT.replace("checkpoint: civitai:1", "checkpoint: >-\n  civitai:1")
    manifest = parse_manifest(text, tmp_path / "x.yaml")
    with pytest.raises(ManifestError, match="cannot be edited by a program") as raised:
        edit_manifest(manifest, text, {"checkpoint": "civitai:9"})
    assert "write checkpoint: civitai:9 by hand" in str(raised.value)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            "upscalers.R-ESRGAN 4x+",
            "upscalers.RealESRGAN/RealESRGAN_x4plus",
            "would both lie at RealESRGAN/RealESRGAN_x4plus.pth in the image",
        ),
        (
            "upscalers.R-ESRGAN 4x+",
            "extension_models.RealESRGAN/RealESRGAN_x4plus.pth",
            "would both lie at RealESRGAN/RealESRGAN_x4plus.pth in the image",
        ),
        (
            "extension_models.A/b.pth/c.pth",
            "extension_models.A/b.pth",
            "would lie in the folder A/b.pth, and extension_models.A/b.pth is a file there",
        ),
    ],
)
def test_two_files_at_one_place(tmp_path: Path, first: str, second: str, message: str) -> None:
    manifest = parse_manifest(TEXT, tmp_path / "x.yaml")
    pins = [
        dataclasses.replace(
            PINS[0], key=key, file_name="a.pth", name=f"n{number}",
            role="upscaler" if key.startswith("u") else "extension_model",
        )
        for number, key in enumerate((first, second))
    ]  # fmt: skip
    with pytest.raises(ManifestError, match=re.escape(message)):
        refuse_same_places(manifest, pins)
    refuse_same_places(manifest, pins[:1])


def test_names_of_pins(tmp_path: Path) -> None:
    text = TEXT.replace("  one: civitai:2", "  one: civitai:2\n  vae: civitai:3")
    manifest = parse_manifest(text, tmp_path / "x.yaml")
    assert find_keys(manifest, None) == ["checkpoint", "vae", "loras.one", "loras.vae"]
    assert find_keys(manifest, "one") == ["loras.one"]
    assert find_keys(manifest, "vae") == ["vae"]
    assert find_keys(manifest, "loras.vae") == ["loras.vae"]
    with pytest.raises(ManifestError, match="names no source"):
        find_keys(manifest, "two")


def test_a_source_that_follows_a_branch_keeps_its_text() -> None:
    branch = Standing(pin=PINS[1], newer=(NEWER,))
    commit = Standing(
        pin=dataclasses.replace(PINS[1], source=f"hf://a/b@{'1' * 40}/v.safetensors"),
        newer=(NEWER,),
    )
    assert next_source(branch) is None
    assert next_source(commit) == "civitai:9"
    assert next_source(Standing(pin=PINS[0], newer=(NEWER,))) == "civitai:9"
    assert next_source(Standing(pin=PINS[0], newer=())) is None
    assert next_source(Standing(pin=PINS[0], newer=None)) is None


@pytest.mark.parametrize("epoch", ["9" * 20, "9" * 5000, "noon"])
def test_a_day_that_is_none_is_a_mistake(epoch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert today() == "1970-01-02"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(ManifestError, match="no number of seconds"):
        today()


def test_changes_are_described_without_the_day() -> None:
    before = dataclasses.replace(PINS[0], resolved_on="2026-01-01")
    after = dataclasses.replace(
        before,
        resolved_on="2026-02-02",
        size_bytes=None,
        licence=Licence(name="mit", no_credit=True),
        trigger_words=("a", "b"),
    )
    assert describe_changes(before, after) == [
        "size_bytes: 10 → unknown",
        "trigger_words: unknown → a, b",
        "licence: unknown → name=mit, no_credit=True",
    ]
