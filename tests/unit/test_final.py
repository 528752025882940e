"""What a worker image is made of, and in which order."""

import json
import tarfile
from pathlib import Path

import pytest

from bake.errors import BuildError
from bake.image.build.thin import pack_files, sdk_of
from bake.image.final.final import ENTRYPOINT, ThinLayers, assemble_final, place_weights
from bake.image.final.packages import Package
from bake.image.oci.layers import make_weights_layer
from bake.image.oci.model import GZIP_LAYER, Descriptor, Image, Layer, canonical_json, make_manifest
from bake.lock import Lock, Pin
from runtime.worker import Webui, Weights, Worker

BASE_LAYER = "sha256:" + "1" * 64


def base() -> Image:
    descriptor = Descriptor(media_type=GZIP_LAYER, digest=BASE_LAYER, size_bytes=10)
    config_json = canonical_json(
        {
            "os": "linux",
            "architecture": "amd64",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [BASE_LAYER]},
        }
    )
    return Image(
        name="base",
        known_as="sha256:" + "2" * 64,
        manifest_json=make_manifest(config_json, [descriptor]),
        config_json=config_json,
        layers=(Layer(descriptor=descriptor, diff_id=BASE_LAYER, kind="base"),),
    )


def worker(checkpoint: Path) -> Worker:
    webui = Webui(
        name="w", version="1", revision="r", directory="/w", python="/p", script="/s",
        checkpoint_dir="/w/models",
    )  # fmt: skip
    weights = Weights(
        role="checkpoint", name="model", path="/w/models/model.safetensors",
        sha256="a" * 64, size_bytes=checkpoint.stat().st_size,
    )  # fmt: skip
    return Worker(name="example", family="sdxl", webui=webui, weights=(weights,))


def lock() -> Lock:
    pin = Pin(
        key="checkpoint", role="checkpoint", name="model", source="civitai:1",
        file_name="m.safetensors", size_bytes=1, sha256="a" * 64, url="https://example/m",
    )  # fmt: skip
    return Lock(manifest_name="example", family="sdxl", pins=(pin,))


def make_image(folder: Path) -> Image:
    folder.mkdir()
    checkpoint = folder / "checkpoint"
    checkpoint.write_bytes(b"weights")
    layers = {}
    for name in ("environment", "runtime", "files"):
        root = folder / name / "opt" / "bakery"
        root.mkdir(parents=True)
        (root / name).write_text(name)
        layers[name] = pack_files(
            folder / name, blob=folder / f"{name}.tar.gz", scratch=folder / name
        )
    return assemble_final(
        base(),
        worker=worker(checkpoint),
        weights=[
            make_weights_layer(place_weights(worker(checkpoint), lambda _: checkpoint)).as_layer()
        ],
        thin=ThinLayers(**layers),
        lock=lock(),
        packages=[Package(kind="deb", name="libc6", version="2.36")],
        documents=folder / "documents.tar.gz",
        sdk="runpod 1.2.3",
        harvest="reused",
    )


def test_weights_lie_between_the_base_and_the_thin_layers(tmp_path: Path) -> None:
    image = make_image(tmp_path / "a")
    assert [layer.kind for layer in image.layers] == [
        "base",
        "weights",
        "thin",
        "thin",
        "thin",
        "documents",
    ]
    assert image.layers[1].diff_id == image.layers[1].digest, "weights are not compressed"


def test_the_worker_starts_instead_of_the_base_s_command(tmp_path: Path) -> None:
    container = make_image(tmp_path / "a").config["config"]
    assert container["Entrypoint"] == list(ENTRYPOINT)
    assert "Cmd" not in container
    assert container["Env"][0] == "PATH=/bin"
    assert "PYTHONPATH=/opt/bakery" in container["Env"]


def test_it_says_what_it_was_made_from(tmp_path: Path) -> None:
    image = make_image(tmp_path / "a")
    labels = image.config["config"]["Labels"]
    assert labels["org.opencontainers.image.base.digest"] == "sha256:" + "2" * 64
    assert labels["bakery.checkpoint"] == "model sha256:" + "a" * 64
    assert json.loads(labels["bakery.lock"])["pins"][0]["source"] == "civitai:1"
    for said in (labels, image.manifest["annotations"]):
        assert said["bakery.sdk"] == "runpod 1.2.3"
        assert said["bakery.warmup"] == "reused"


def test_the_sdk_is_the_one_of_the_environment_s_lock(tmp_path: Path) -> None:
    lock_file = tmp_path / "runtime.txt"
    lock_file.write_text("    # via runpod==9\nrunpod==1.7.10 \\\n    --hash=sha256:00\n")
    assert sdk_of(lock_file) == "runpod 1.7.10"
    lock_file.write_text("requests==2\n")
    with pytest.raises(BuildError, match="pins no runpod"):
        sdk_of(lock_file)


def test_the_same_inputs_give_the_same_image(tmp_path: Path) -> None:
    assert make_image(tmp_path / "a").digest == make_image(tmp_path / "b").digest


def test_packed_files_start_at_the_root(tmp_path: Path) -> None:
    (tmp_path / "tree" / "opt").mkdir(parents=True)
    (tmp_path / "tree" / "opt" / "link").symlink_to("/elsewhere")
    layer = pack_files(tmp_path / "tree", blob=tmp_path / "out" / "x.tar.gz", scratch=tmp_path)
    with tarfile.open(layer.blob) as tar:
        assert [(each.name, each.linkname) for each in tar] == [
            ("opt", ""),
            ("opt/link", "/elsewhere"),
        ]
