"""The lock's form, and what is said when it no longer fits."""

import dataclasses
import json
from pathlib import Path

import pytest

from bake.errors import ManifestError
from bake.lock import Licence, Lock, Pin, find_differences, load_lock, lock_path, write_lock
from bake.manifest.load import load_manifest, parse_manifest
from bake.manifest.model import Manifest

ROOT = Path(__file__).parents[2]
TEXT = """name: x
family: sdxl
checkpoint: civitai:1
vae: hf://a/b/v.safetensors
loras:
  one: civitai:2
warmup:
  prompt: a cat
image: example.com/x
"""


def pin(key: str, source: str, **more: object) -> Pin:
    fields: dict[str, object] = {
        "key": key,
        "role": "lora" if key.startswith("loras") else key,
        "name": key.rsplit(".", 1)[-1],
        "source": source,
        "file_name": "x.safetensors",
        "size_bytes": 10,
        "sha256": "0" * 64,
        "url": "https://civitai.com/api/download/models/1",
        **more,
    }
    return Pin(**fields)  # type: ignore[arg-type]


PINS = (
    pin("checkpoint", "civitai:1", version_id=1, title="Größe"),
    pin("vae", "hf://a/b/v.safetensors", licence=Licence(commercial_use=("Image",))),
    pin("loras.one", "civitai:2", trigger_words=("a", "b"), size_bytes=None),
)
LOCK = Lock(manifest_name="x", family="sdxl", pins=PINS)


def manifest(folder: Path, text: str = TEXT) -> Manifest:
    path = folder / "x.yaml"
    path.write_text(text)
    return parse_manifest(text, path)


def test_a_lock_survives_its_json() -> None:
    text = LOCK.to_json()
    assert Lock.from_json(text) == LOCK
    assert Lock.from_json(text).to_json() == text
    assert text.endswith("}\n")
    assert "Größe" in text
    data = json.loads(text)
    assert list(data) == sorted(data)
    assert data["pins"][2]["size_bytes"] is None
    assert "title" not in data["pins"][1]


def test_it_is_written_once(tmp_path: Path) -> None:
    path = lock_path(manifest(tmp_path).path)
    assert path.name == "x.lock.json"
    assert write_lock(path, LOCK) is True
    assert write_lock(path, LOCK) is False
    assert load_lock(manifest(tmp_path)) == LOCK
    assert LOCK.pin("vae").key == "vae"
    with pytest.raises(KeyError):
        LOCK.pin("other")


def test_no_lock_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not locked yet") as raised:
        load_lock(manifest(tmp_path))
    assert raised.value.hint == f"bake lock {tmp_path / 'x.yaml'}"


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("civitai:1\n", "civitai:9\n", "checkpoint is civitai:9, the lock has civitai:1"),
        ("  one:", "  two:", "loras.two is not in the lock; loras.one is in the lock only"),
        ("name: x\n", "name: y\n", "name is y, the lock has x"),
        ("family: sdxl", "family: sd1", "family is sd1, the lock has sdxl"),
        ("vae: hf://a/b/v.safetensors\n", "", "vae is in the lock only"),
    ],
)
def test_every_difference_is_named(tmp_path: Path, before: str, after: str, text: str) -> None:
    changed = manifest(tmp_path, TEXT.replace(before, after))
    write_lock(lock_path(changed.path), LOCK)
    with pytest.raises(ManifestError) as raised:
        load_lock(changed)
    assert raised.value.what.endswith(f"no longer fits the manifest: {text}")


def test_another_order_is_a_difference(tmp_path: Path) -> None:
    turned = dataclasses.replace(LOCK, pins=PINS[::-1])
    assert find_differences(manifest(tmp_path), turned) == ["the keys stand in another order"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": 99}, "its format is not 1"),
        ({"pins": {}}, "`pins` is not a list"),
        ({"sha256": "A" * 64}, "no SHA256 of 64 lower-case"),
        ({"size_bytes": -1}, "a size_bytes that is no number of bytes"),
        ({"sha256": "a" * 64 + "\n"}, "no SHA256 of 64 lower-case"),
        ({"size_bytes": True}, "a size_bytes that is not a whole number"),
        ({"size_bytes": "5"}, "a size_bytes that is not a whole number"),
        ({"role": "hat"}, "a role that is not one of checkpoint, vae, lora"),
        ({"role": []}, "a role that is not one of"),
        ({"file_name": 7}, "a file_name that is not a text"),
        ({"name": "../../x"}, "a name that is no plain file name"),
        ({"version_id": "1&x=2"}, "a version_id that is not a whole number"),
        ({"trigger_words": 5}, "trigger_words that is not a list of texts"),
        ({"licence": "mit"}, "a licence that is not a mapping"),
        ({"licence": {"colour": "red"}}, "licence has colour, which this bake does not know"),
        ({"licence": {"commercial_use": 5}}, "a commercial_use that is not a list of texts"),
        ({"colour": "red"}, "has colour, which this bake does not know"),
        ({"url": None}, "lacks url"),
    ],
)
def test_a_broken_lock_says_what_is_wrong(
    tmp_path: Path, change: dict[str, object], text: str
) -> None:
    data = json.loads(LOCK.to_json())
    for name, value in change.items():
        where = data if name in data else data["pins"][0]
        where[name] = value
        if value is None:
            del where[name]
    made = manifest(tmp_path)
    lock_path(made.path).write_text(json.dumps(data))
    with pytest.raises(ManifestError, match="the lock cannot be read") as raised:
        load_lock(made)
    assert text in raised.value.what


@pytest.mark.parametrize("text", ["", "null", "[" * 100_000, "<<<<<<< ours", "\ufeff{}"])
def test_what_is_no_lock_at_all_is_an_error_too(tmp_path: Path, text: str) -> None:
    made = manifest(tmp_path)
    lock_path(made.path).write_text(text)
    with pytest.raises(ManifestError, match="the lock cannot be read"):
        load_lock(made)


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").glob("*.lock.json")))
def test_committed_locks_fit_and_are_as_bake_writes_them(path: Path) -> None:
    loaded = load_manifest(path.with_name(path.name.replace(".lock.json", ".yaml")))
    assert load_lock(loaded).to_json() == path.read_text()


def test_deliberate_is_pinned_as_the_facts_say() -> None:
    lock = load_lock(load_manifest(ROOT / "manifests" / "deliberate-v6.yaml"))
    (only,) = lock.pins
    assert only.sha256 == "bcce73a08e95a4d4a3332875342792a50ab9bf9f07fdedcab49fd425fac173be"
    assert only.revision == "740b11ddb4d7999a37069b4c5a3f3f3aeee97644"
    assert only.suffix == ".safetensors"
    # 2.13 GB is not a length: the first `bake lock` with network fills it in
    assert only.size_bytes is None


def test_a_role_that_was_edited_does_not_fit(tmp_path: Path) -> None:
    manifest = parse_manifest(TEXT, tmp_path / "x.yaml")
    edited = (dataclasses.replace(PINS[0], role="lora"), *PINS[1:])
    lock = Lock(manifest_name=manifest.name, family=manifest.family, pins=edited)
    assert "checkpoint is of the role checkpoint, the lock has lora" in find_differences(
        manifest, lock
    )
