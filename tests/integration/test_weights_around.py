"""Models beside the checkpoint from CivitAI and other servers: pinned, fetched, held against their keys."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bake.errors import SourceError
from bake.weights.check import check_stored
from bake.weights.update import find_keys
from tests.integration.weights_case import VERSION, Case, open_case
from tests.standins import models
from tests.standins.civitai import CivitaiFile, CivitaiModel, CivitaiVersion
from tests.standins.pickles import state, torch_zip
from tests.standins.storage import Blob

SDXL = models.safetensors(models.SDXL, seed=5)
WORD = models.safetensors({"clip_l": (2, 768), "clip_g": (2, 1280)})
UPSCALER = torch_zip(state({"model.0.weight": (64, 3, 3, 3)}))


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    with open_case(tmp_path) as opened:
        opened.add_civitai(SDXL)
        yield opened


def add(case: Case, number: int, kind: str, name: str, data: bytes) -> str:
    """A model of one version and one file; its source."""
    file = CivitaiFile(file_id=number + 2, name=name, blob=Blob(data=data))
    version = CivitaiVersion(
        version_id=number + 1, model_id=number, files=[file], base_model="SDXL 1.0"
    )
    case.world.civitai.models[number] = CivitaiModel(model_id=number, type=kind)
    case.world.civitai.add(version)
    return f"civitai:{number + 1}"


def test_each_kind_comes_under_its_key(case: Case) -> None:
    word = add(case, 7000, "TextualInversion", "My Word.safetensors", WORD)
    large = add(case, 7100, "Upscaler", "4x-UltraSharp.pth", UPSCALER)
    other = case.world.plain_url("RealESRGAN_x4plus.pth", Blob(data=UPSCALER + b"\0"))
    more = (
        f"allow_pickle: true\nembeddings:\n  word: {word}\n"
        f"upscalers:\n  4x-UltraSharp: {large}\n  R-ESRGAN 4x+: {other}\n"
    )
    manifest = case.manifest(f"civitai:{VERSION}", more=more)
    lock = case.lock(manifest)
    pins = {pin.key: pin for pin in lock.pins}
    assert pins["embeddings.word"].licence.commercial_use == ("Image", "Rent", "RentCivit")
    assert str(pins["upscalers.R-ESRGAN 4x+"].place) == "RealESRGAN/RealESRGAN_x4plus.pth"
    for pin in lock.pins[1:3]:
        assert all("a pickle" in each for each in check_stored(case.fetch(pin), manifest, pin))
    assert case.lock(manifest, lock) == lock
    assert find_keys(manifest, "R-ESRGAN 4x+") == ["upscalers.R-ESRGAN 4x+"]


def test_another_kind_is_refused_before_a_byte_is_fetched(case: Case) -> None:
    word = add(case, 7000, "TextualInversion", "word.safetensors", WORD)
    large = add(case, 7100, "Upscaler", "4x.safetensors", WORD)
    faces = "  detection_Resnet50_Final: file:a.pth\n  parsing_parsenet: file:b.pth\n"
    pickled = add(case, 7200, "TextualInversion", "word.pt", UPSCALER)
    for more, message in (
        (f"upscalers:\n  x: {word}\n", "the source is an embedding, not an upscaler"),
        (f"face_restorers:\n  CodeFormer: {word}\n{faces}", "not a face restorer"),
        (f"upscalers:\n  x: {large}\n", "the webui reads an upscaler from .pth only"),
        (f"embeddings:\n  x: {pickled}\n", "this is a pickle, which can run any code"),
    ):
        with pytest.raises(SourceError) as raised:
            case.lock(case.manifest(f"civitai:{VERSION}", more=more))
        assert message in raised.value.what
    assert len(case.stored()) <= 1
