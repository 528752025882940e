"""The same inputs give the same image, and an edit changes only what it must."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bake.errors import BuildError, MachineError, ManifestError
from bake.image.final.assemble import ImageConfig, assemble
from bake.image.layout import parse_layout, read_from_layout, write_layout
from bake.image.oci.model import (
    GZIP_LAYER,
    KIND,
    RAW_LAYER,
    BytesContent,
    Descriptor,
    FileContent,
    Image,
    Layer,
    LayerKind,
    canonical_json,
    make_manifest,
    sha256_digest,
)
from bake.image.oci.parse import pick_platform
from bake.image.saved import load_saved_image, save_image


def make_layer(data: bytes, *, kind: LayerKind = "thin", comment: str = "") -> Layer:
    descriptor = Descriptor(media_type=RAW_LAYER, digest=sha256_digest(data), size_bytes=len(data))
    return Layer(
        descriptor=descriptor,
        diff_id=descriptor.digest,
        kind=kind,
        comment=comment,
        content=BytesContent(data=data),
    )


def make_base(**config: Any) -> Image:
    layers = (make_layer(b"base 1", kind="base"), make_layer(b"base 2", kind="base"))
    full = {
        "os": "linux",
        "architecture": "amd64",
        "docker_version": "26",
        "container_config": {"Image": "x"},
        "config": {
            "Env": ["PATH=/bin", "A=base"],
            "Cmd": ["bash"],
            "Labels": {"bakery.contract": "1"},
            "WorkingDir": "/app",
            "Hostname": "x",
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": "2020", "created_by": "a"}, {"empty_layer": True}],
        **config,
    }
    config_json = canonical_json(full)
    manifest_json = make_manifest(config_json, [layer.descriptor for layer in layers])
    return Image(
        name="base",
        known_as=sha256_digest(b"b"),
        manifest_json=manifest_json,
        config_json=config_json,
        layers=layers,
    )


CONFIG = ImageConfig(entrypoint=["/worker"], env={"A": "ours", "B": "b"}, labels={"x": "y"})
WEIGHTS = make_layer(b"weights", kind="weights", comment="/models/a")
THIN = make_layer(b"runtime", comment="the runtime")


def make_image() -> Image:
    return assemble(make_base(), layers=[WEIGHTS, THIN], config=CONFIG, annotations={"k": "v"})


def test_the_manifest_and_config_are_those_of_an_oci_image() -> None:
    image = make_image()
    manifest, config = image.manifest, image.config
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["config"]["digest"] == sha256_digest(image.config_json)
    assert manifest["annotations"] == {"k": "v"}
    assert [each["digest"] for each in manifest["layers"]] == [x.digest for x in image.layers]
    assert [each.get("annotations") for each in manifest["layers"]] == [
        None, None, {KIND: "weights"}, {KIND: "thin"},
    ]  # fmt: skip
    assert config["rootfs"]["diff_ids"] == [layer.diff_id for layer in image.layers]
    with_layer = [entry for entry in config["history"] if not entry.get("empty_layer")]
    assert len(with_layer) == len(image.layers)
    assert with_layer[-2]["created_by"] == "bake: /models/a"
    assert config["created"] == "2024-01-01T00:00:00Z"
    assert config["config"] == {
        "Env": ["PATH=/bin", "A=ours", "B=b"],
        "Entrypoint": ["/worker"],
        "WorkingDir": "/app",
        "Labels": {
            "bakery.contract": "1",
            "x": "y",
            "bakery.base.layers": " ".join(layer.digest for layer in image.layers[:2]),
            "bakery.layers": f"{WEIGHTS.digest} {THIN.digest}",
        },
    }
    assert "container_config" not in config


def test_the_same_inputs_give_the_same_bytes() -> None:
    first, second = make_image(), make_image()
    assert (first.manifest_json, first.config_json) == (second.manifest_json, second.config_json)
    # what two engines write beside the specification makes no difference
    other = make_base(docker_version="20", container="abc")
    assert assemble(other, layers=[WEIGHTS, THIN], config=CONFIG, annotations={"k": "v"}).digest == first.digest  # fmt: skip


def test_an_edit_of_the_runtime_leaves_all_other_blobs() -> None:
    before = make_image()
    edited = make_layer(b"runtime, edited", comment="the runtime")
    after = assemble(make_base(), layers=[WEIGHTS, edited], config=CONFIG)
    assert {x.digest for x in after.layers} - {x.digest for x in before.layers} == {edited.digest}
    assert after.digest != before.digest


def test_a_base_whose_parts_do_not_fit_is_refused() -> None:
    base = replace(make_base(), layers=make_base().layers[:1])
    with pytest.raises(BuildError, match="the config and the layers do not fit"):
        assemble(base, layers=[], config=CONFIG)
    arm = make_base(architecture="arm64")
    with pytest.raises(BuildError, match="the image is for linux/arm64") as caught:
        assemble(arm, layers=[], config=CONFIG)
    assert "--platform linux/amd64" in str(caught.value)


@pytest.mark.parametrize("history", [[], [{"created_by": str(n)} for n in range(9)]])
def test_a_history_that_does_not_fit_the_layers_is_made_to(history: list[dict[str, str]]) -> None:
    image = assemble(make_base(history=history), layers=[THIN], config=CONFIG)
    assert len(image.config["history"]) == 3


def test_a_layout_is_written_and_read_back(tmp_path: Path) -> None:
    image = make_image()
    write_layout(image, tmp_path / "out", tag="1")
    index = json.loads((tmp_path / "out" / "index.json").read_bytes())
    assert index["manifests"][0]["digest"] == image.digest
    for blob in (tmp_path / "out" / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    back = read_from_layout(tmp_path / "out")
    assert back.digest == image.digest
    assert [layer.digest for layer in back.layers] == [layer.digest for layer in image.layers]
    write_layout(image, tmp_path / "out", tag="1")


def test_a_layout_keeps_its_other_tags(tmp_path: Path) -> None:
    image = make_image()
    for tag in ("1", "2", "1"):
        write_layout(image, tmp_path, tag=tag)
    index = json.loads((tmp_path / "index.json").read_bytes())
    names = [
        each["annotations"]["org.opencontainers.image.ref.name"] for each in index["manifests"]
    ]
    assert names == ["2", "1"]
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(BuildError, match="is no OCI index"):
        write_layout(image, tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci:build/out", (Path("build/out"), "latest")),
        ("oci:/tmp/out:1.0", (Path("/tmp/out"), "1.0")),
        ("oci:", None),
        ("oci:out:", None),
        ("oci:out:a/b", None),
    ],
)
def test_a_layout_is_named_as_skopeo_names_it(text: str, expected: tuple[Path, str] | None) -> None:
    if expected:
        assert parse_layout(text) == expected
        return
    with pytest.raises(ManifestError, match="does not name an OCI layout"):
        parse_layout(text)


def test_a_layout_that_cannot_be_written_is_the_machine_s_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be written: Not a directory"):
        write_layout(make_image(), tmp_path / "file" / "out")


def test_a_layout_with_a_wrong_byte_is_not_written(tmp_path: Path) -> None:
    wrong = replace(THIN, content=BytesContent(data=b"runtimE"))
    image = assemble(make_base(), layers=[wrong], config=CONFIG)
    with pytest.raises(BuildError, match="the runtime: its bytes are not those of its digest"):
        write_layout(image, tmp_path)
    names = {path.name for path in (tmp_path / "blobs" / "sha256").iterdir()}
    assert names == {layer.digest[7:] for layer in make_base().layers}


def test_a_folder_that_is_no_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="is not an OCI layout: FileNotFoundError"):
        read_from_layout(tmp_path)


def test_platforms_are_picked_and_attestations_passed_over() -> None:
    digests = [f"sha256:{n}" + "0" * 63 for n in range(3)]
    entries: list[dict[str, Any]] = [
        {"digest": digests[0], "platform": {"os": "linux", "architecture": "arm64"}},
        {"digest": digests[1], "platform": {"os": "unknown", "architecture": "unknown"},
         "annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
        {"digest": digests[2], "platform": {"os": "linux", "architecture": "amd64"}},
    ]  # fmt: skip
    assert pick_platform({"manifests": entries}, where="x") == digests[2]
    assert pick_platform({"manifests": [{"digest": digests[0]}, entries[1]]}, where="x") == digests[0]  # fmt: skip
    with pytest.raises(BuildError, match="x: there is no image for linux/amd64"):
        pick_platform({"manifests": entries[:2]}, where="x")


def test_an_image_is_saved_and_read_back_with_its_content(tmp_path: Path) -> None:
    blob = tmp_path / "layers" / "thin.tar"
    blob.parent.mkdir()
    blob.write_bytes(b"runtime")
    layer = replace(THIN, content=FileContent(path=blob))
    base = replace(
        make_base(), layers=tuple(replace(each, content=None) for each in make_base().layers)
    )
    image = assemble(base, layers=[layer], config=CONFIG)
    save_image(image, tmp_path)
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    back = load_saved_image(moved)
    assert (back.manifest_json, back.config_json) == (image.manifest_json, image.config_json)
    content = back.layers[-1].content
    assert content is not None
    assert b"".join(content.chunks(3)) == b"time"
    assert back.layers[0].content is None

    (moved / "image.json").write_text((moved / "image.json").read_text().replace("amd64", "arm64"))
    with pytest.raises(BuildError, match=r"image\.json: is damaged"):
        load_saved_image(moved)
    with pytest.raises(BuildError, match="there is no baked image here"):
        load_saved_image(moved / "layers")


def test_docker_media_types_become_oci_ones() -> None:
    data = {
        "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "digest": "sha256:" + "0" * 64,
        "size": 3,
    }
    assert Descriptor.from_json(data).media_type == GZIP_LAYER
    with pytest.raises(BuildError, match=r"'\.\./x' is not a sha256 digest"):
        Descriptor.from_json({**data, "digest": "../x"})
