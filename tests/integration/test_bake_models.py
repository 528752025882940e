"""Models beside the checkpoint, from the manifest into the image and into its answers, on the real engine."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from demo.webui.network import load_network
from tests.integration.bakery_case import BAKE, Bakery, Events, making_bakery
from tests.integration.conftest import ROOT, RUN, run
from tests.standins.pickles import state, torch_legacy, torch_zip

MORE = """\
allow_pickle: true
upscalers:
  4x-plain: file:plain.pth
  R-ESRGAN 4x+: file:RealESRGAN_x4plus.pth
face_restorers:
  CodeFormer: file:codeformer.pth
  detection_Resnet50_Final: file:detection_Resnet50_Final.pth
  parsing_parsenet: file:parsing_parsenet.pth
embeddings:
  fog: file:fog.safetensors
"""
PICKLES = {
    "plain": "model.0.weight",
    "RealESRGAN_x4plus": "body.0.rdb1.conv1.weight",
    "codeformer": "quantize.embedding.weight",
    "detection_Resnet50_Final": "ClassHead.0.conv1x1.weight",
    "parsing_parsenet": "out_mask_conv.conv2d.weight",
}
PROMPT = "a red circle on a white background"


@pytest.fixture(scope="module")
def bakery(
    engine: dict[str, str], slim_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bakery]:
    folder = tmp_path_factory.mktemp("models")
    with making_bakery(folder, engine, slim_image, name=f"bakery-models-{RUN}") as made:
        text = made.manifest.read_text()
        made.manifest.write_text(f"{text.rstrip()}\n{MORE}")
        for name, tensor in PICKLES.items():
            (folder / f"{name}.pth").write_bytes(torch_zip(state({tensor: (1,)})))
        width = load_network(ROOT / "demo/weights/shapes.safetensors").width
        vectors = np.random.default_rng(7).normal(size=(2, width)).astype(np.float32)
        (folder / "fog.safetensors").write_bytes(save({"emb_params": vectors}))
        yield made


@pytest.fixture(scope="module")
def baked(bakery: Bakery) -> Events:
    return bakery.bake()


def answer(bakery: Bakery, baked: Events, folder: Path, value: dict[str, Any]) -> dict[str, Any]:
    """What a container with no network says to one job."""
    folder.mkdir()
    reference = next(event["reference"] for event in baked if event["event"] == "image")
    run(
        "docker", "run", "--rm", "--network", "none", "--volume", f"{folder}:/out",
        "--env", "BAKERY_TEST_OUTPUT=/out/output.json", reference,
        "--test_input", json.dumps({"input": value}), env=bakery.environment,
    )  # fmt: skip
    output: dict[str, Any] = json.loads((folder / "output.json").read_text())
    return output


def test_what_is_baked_is_offered_by_its_name(
    bakery: Bakery, baked: Events, tmp_path: Path
) -> None:
    small = {"prompt": PROMPT, "seed": 1, "steps": 4, "width": 64, "height": 64}
    plain = answer(bakery, baked, tmp_path / "plain", small)["images"]
    said = answer(bakery, baked, tmp_path / "said", {**small, "prompt": f"{PROMPT}, fog"})
    assert said["images"] != plain
    hashes = json.loads(said["info"])["extra_generation_params"]["TI hashes"]
    assert hashes.startswith("fog: ")
    faces = answer(bakery, baked, tmp_path / "faces", {**small, "restore_faces": True})
    assert faces["images"] not in (plain, said["images"])
    larger = {"image": plain[0], "upscaler_1": "R-ESRGAN 4x+", "upscaler_2": "4x-plain"}
    made = answer(bakery, baked, tmp_path / "larger", larger)["image"]
    assert Image.open(io.BytesIO(base64.b64decode(made))).size == (128, 128)
    error = answer(bakery, baked, tmp_path / "none", {**small, "embeddings": ["smoke"]})["error"]
    assert "no embedding of that name is baked" in error


def test_they_are_in_the_lock_and_in_the_bill_of_materials(bakery: Bakery, baked: Events) -> None:
    lock = json.loads(bakery.manifest.with_suffix(".lock.json").read_text())
    roles = {pin["key"]: pin["role"] for pin in lock["pins"]}
    assert roles["upscalers.R-ESRGAN 4x+"] == "upscaler"
    assert roles["embeddings.fog"] == "embedding"
    command = bakery.command("inspect", "--engine", "--json")
    shown = run(*command, env=bakery.environment)
    assert shown.returncode == 0, shown.stderr
    parts = {each["name"]: each for each in json.loads(shown.stdout)["sbom"]["components"]}
    about = {each["name"]: each["value"] for each in parts["R-ESRGAN 4x+"]["properties"]}
    assert about["bakery:path"] == "/opt/webui/models/RealESRGAN/RealESRGAN_x4plus.pth"
    assert about["bakery:role"] == "upscaler"
    assert parts["fog"]["hashes"][0]["alg"] == "SHA-256"


def test_a_pickle_that_the_webui_would_not_read_is_not_locked(
    bakery: Bakery, tmp_path: Path
) -> None:
    manifest = tmp_path / "demo.yaml"
    manifest.write_text(bakery.manifest.read_text())
    for file in bakery.manifest.parent.glob("*.[ps]*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for data, message in (
        (
            torch_zip(state({"model.0.weight": (1,)}), "byteorder"),
            "torch 2.1 or newer has put archive/byteorder into it",
        ),
        (torch_legacy(state({"m_head.0.weight": (1,)})), "write ScuNET/4x-plain"),
    ):
        (tmp_path / "plain.pth").write_bytes(data)
        ended = run(str(BAKE), "lock", str(manifest), env=bakery.environment)
        assert ended.returncode == 4, ended.stderr
        assert "upscalers.4x-plain" in ended.stderr
        assert message in " ".join(ended.stderr.split())
