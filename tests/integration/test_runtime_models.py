"""Models beside the checkpoint, of a worker over the demo's webui: baked ones by name, embeddings by address."""

import base64
import hashlib
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
from tests.conformance.models import serving
from tests.integration.worker import SMALL, WEIGHTS, LocalApi, RunningWorker, running
from tests.ports import free_port
from tests.standins.pickles import state, torch_legacy

WIDTH = load_network(WEIGHTS / "shapes.safetensors").width
CHECK = "codeformer-v0.1.0"


def embedding(seed: int, width: int = WIDTH) -> bytes:
    vectors = np.random.default_rng(seed).normal(size=(2, width)).astype(np.float32)
    return save({"emb_params": vectors})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("files")
    (folder / "one.safetensors").write_bytes(embedding(1))
    (folder / "two.safetensors").write_bytes(embedding(2))
    (folder / "wide.safetensors").write_bytes(embedding(3, WIDTH + 1))
    with serving(folder) as address:
        yield address


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningWorker, LocalApi]]:
    folder, port = tmp_path_factory.mktemp("models"), free_port()
    for place in (
        "ESRGAN/4x-plain",
        f"Codeformer/{CHECK}",
        "GFPGAN/detection_Resnet50_Final",
        "GFPGAN/parsing_parsenet",
        "RealESRGAN/RealESRGAN_x4plus",
    ):
        path = folder / "models" / f"{place}.pth"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(torch_legacy(state({"x": (1,)})))
    (folder / "embeddings").mkdir()
    (folder / "embeddings" / "fog.safetensors").write_bytes(embedding(7))
    arguments = ("--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port))
    with running("runtime", folder, *arguments, BAKERY_LORA_LOOPBACK="1") as process:
        api = LocalApi(port)
        api.wait_until_up(process)
        yield process, api


def test_an_embedding_by_address_is_there_for_its_job_only(
    worker: tuple[RunningWorker, LocalApi], files: str
) -> None:
    _, api = worker
    said = {**SMALL, "prompt": "a red circle, mist"}
    plain = api.run(said)["images"]
    drawn: dict[str, Any] = {}
    for name in ("one", "two", "one"):
        asked = {**said, "embeddings": [{"name": "mist", "url": f"{files}/{name}.safetensors"}]}
        output = api.run(asked)
        (told,) = output["bakery"]["embeddings"]
        assert told["source"] == f"{files}/{name}.safetensors"
        assert told["was_cached"] == (name in drawn)
        assert drawn.setdefault(name, output["images"]) == output["images"]
        hashes = json.loads(output["info"])["extra_generation_params"]["TI hashes"]
        assert hashes == f"mist: {told['sha256'][:12]}", "the webui's own hash is the file's"
        assert api.run(said)["images"] == plain, "the next job knows nothing of it"
    assert len({*map(str, drawn.values()), str(plain)}) == 3


def test_an_embedding_that_the_webui_passes_over_fails_the_job(
    worker: tuple[RunningWorker, LocalApi], files: str
) -> None:
    _, api = worker
    wide = {"name": "mist", "url": f"{files}/wide.safetensors"}
    error = api.fail({**SMALL, "prompt": "mist", "embeddings": [wide]})
    assert error["code"] == "not_honoured"
    assert error["message"] == "the webui drew without the embedding 'mist'"
    gone = {"name": "mist", "url": f"{files}/gone.safetensors"}
    error = api.fail({**SMALL, "prompt": "mist", "embeddings": [gone]})
    assert (error["code"], error["fields"][0]["field"]) == ("embedding_refused", "embeddings[0]")


def test_a_baked_embedding_is_said_by_its_name(worker: tuple[RunningWorker, LocalApi]) -> None:
    _, api = worker
    plain = api.run(SMALL)["images"]
    said = {**SMALL, "prompt": f"{SMALL['prompt']}, Fog"}
    output = api.run(said)
    assert output["images"] != plain
    assert output["bakery"]["embeddings"] == []
    named = api.run({**said, "embeddings": ["fog"]})
    assert named["images"] == output["images"]
    assert named["bakery"]["embeddings"][0]["source"] == "baked"


def picture() -> str:
    out = io.BytesIO()
    Image.new("RGB", (16, 8), "red").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def size_of(output: dict[str, Any]) -> tuple[int, int]:
    return Image.open(io.BytesIO(base64.b64decode(output["image"]))).size


def test_what_is_baked_makes_pictures_larger_and_restores_faces(
    worker: tuple[RunningWorker, LocalApi],
) -> None:
    _, api = worker
    for name in ("4x-plain", "R-ESRGAN 4x+"):
        assert size_of(api.run({"image": picture(), "upscaler_1": name})) == (32, 16)
    plain, restored = api.run(SMALL), api.run({**SMALL, "restore_faces": True})
    assert restored["images"] != plain["images"]
    assert api.run(SMALL)["images"] == plain["images"]
    asked = {"image": picture(), "codeformer_visibility": 1, "upscaler_1": "Nearest"}
    assert size_of(api.run(asked)) == (32, 16)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"image": "x", "upscaler_1": "LDSR"}, "no upscaler of that name is baked"),
        ({"image": "x", "upscaler_1": "4x-plan"}, "did you mean '4x-plain'"),
        ({"image": "x", "gfpgan_visibility": 1}, "GFPGAN is not baked"),
        (
            {
                **SMALL,
                "restore_faces": True,
                "override_settings": {"face_restoration_model": "GFPGAN"},
            },
            "GFPGAN is not baked; there is CodeFormer",
        ),
        ({**SMALL, "prompt": "<hypernet:style:1>"}, "no hypernetwork 'style' is baked"),
        ({**SMALL, "embeddings": ["smoke"]}, "no embedding of that name is baked"),
    ],
)
def test_what_is_not_baked_is_refused(
    worker: tuple[RunningWorker, LocalApi], asked: dict[str, Any], message: str
) -> None:
    _, api = worker
    error = api.fail(asked)
    assert error["code"] == "invalid_request"
    assert message in error["message"]


def test_a_model_that_has_gone_is_no_picture(worker: tuple[RunningWorker, LocalApi]) -> None:
    process, api = worker
    file = process.folder / "models" / "Codeformer" / f"{CHECK}.pth"
    kept = file.read_bytes()
    file.unlink()
    try:
        error = api.fail({**SMALL, "restore_faces": True})
    finally:
        file.write_bytes(kept)
    assert error["code"] == "not_honoured"
    assert "the model of the upscaler or of the face restorer" in error["message"]
    assert hashlib.sha256(kept).digest() == hashlib.sha256(file.read_bytes()).digest()


def test_no_file_of_a_job_stays_in_the_webuis_sight(
    worker: tuple[RunningWorker, LocalApi], files: str
) -> None:
    process, api = worker
    one = {"name": "mist", "url": f"{files}/one.safetensors"}
    api.run({**SMALL, "prompt": "mist", "embeddings": [one]})
    folder: Path = process.folder / "embeddings"
    assert (folder / "from-requests" / "mist.safetensors").exists()
    api.run(SMALL)
    assert [each.name for each in folder.rglob("*") if each.is_file()] == ["fog.safetensors"]
