"""Jobs with pictures on a worker with the demo's webui: the webui's own picture, addresses, and what means harm."""

import base64
import io
import json
import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conformance.pictures import PICTURE, draw, mask
from tests.examples import EXAMPLES
from tests.hostile_pictures import hostile_texts, save
from tests.integration.test_runtime_local import Running
from tests.integration.worker import SMALL, LocalApi, running
from tests.ports import free_port
from tests.standins.storage import Blob, Fault, FaultKind, Storage, always, no_fault

OVER: dict[str, Any] = {**SMALL, "init_images": [PICTURE]}
LARGER: dict[str, Any] = {"image": PICTURE, "upscaler_1": "Lanczos"}
GROWTH_MB = 60
"""What a worker may gain over all hostile inputs: the heap's own slack, not one of them."""


def serve(folder: Path, **environment: str) -> Iterator[Running]:
    port = free_port()
    arguments = ("--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port))
    with running("runtime", folder, *arguments, **environment) as worker:
        api = LocalApi(port)
        api.wait_until_up(worker)
        yield Running(worker, api)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    environment = {
        "BAKERY_LORA_LOOPBACK": "1",
        "BAKERY_PICTURE_MAX_MB": "1",
        "BAKERY_LOG_PROMPTS": "1",
    }
    yield from serve(tmp_path_factory.mktemp("pictures"), **environment)


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Running]:
    """As an operator runs it: this machine itself is no source."""
    yield from serve(tmp_path)


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    made = Storage(blobs={"x.png": Blob(data=base64.b64decode(PICTURE))})
    yield made
    made.close()


def ask_webui(local: Running, endpoint: str, payload: Any) -> Any:
    """The same from the webui's own API."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{local.worker.worker.webui.port}/sdapi/v1/{endpoint}",
        json.dumps(payload).encode(),
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def pixels(text: str) -> Any:
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        return picture.convert("RGB")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"denoising_strength": 0.3, "batch_size": 2},
        {"mask": mask()},
        {"mask": mask(), "inpaint_full_res": False, "inpainting_mask_invert": True},
        {"init_images": [draw(120, 90)], "mask": mask(120, 90), "mask_blur": 0},
        {"init_images": [draw(150, 40)], "resize_mode": 1},
        {"init_images": [draw(), draw(64, 72)], "batch_size": 2},
    ],
)
def test_the_picture_is_the_webuis_own(local: Running, changes: dict[str, Any]) -> None:
    value = {**OVER, **changes}
    assert local.run(value)["images"] == ask_webui(local, "img2img", value)["images"]


def test_what_is_outside_of_the_mask_stays(local: Running) -> None:
    output = local.run({**OVER, "mask": mask(box=(20, 20, 40, 40)), "mask_blur": 0})
    before, after = pixels(PICTURE), pixels(output["images"][0])
    assert after.crop((0, 0, 64, 15)).tobytes() == before.crop((0, 0, 64, 15)).tobytes()
    assert after.tobytes() != before.tobytes()


def test_an_upscaling_is_the_webuis_own(local: Running) -> None:
    size = {"resize_mode": 1, "upscaling_resize_w": 160, "upscaling_resize_h": 96}
    two = {"upscaler_2": "Nearest", "extras_upscaler_2_visibility": 0.5}
    for value in (LARGER, {**LARGER, **size}, {**LARGER, **two}):
        output, direct = local.run(value), ask_webui(local, "extra-single-image", value)
        assert (output["image"], output["html_info"]) == (direct["image"], direct["html_info"])


def test_equal_pixels_in_another_shape_are_another_picture(local: Running) -> None:
    for size in ((64, 32), (32, 64)):
        picture = base64.b64encode(save("PNG", size=size)).decode()
        output = local.run({**LARGER, "image": picture})
        assert pixels(output["image"]).size == (size[0] * 2, size[1] * 2)


def test_a_picture_by_its_address(local: Running, storage: Storage) -> None:
    storage.fault = no_fault
    url = f"{storage.server.url}/plain/x.png?signed=secret"
    output = local.run({**OVER, "init_images": [url]})
    assert output["images"] == local.run(OVER)["images"]
    assert "secret" not in local.worker.log


@pytest.mark.parametrize(
    ("kind", "words"),
    [("html", "an HTML page in place of the file"), ("gzip", "packs the file"), ("empty", "empty")],
)
def test_answers_that_are_no_picture(
    local: Running, storage: Storage, kind: FaultKind, words: str
) -> None:
    storage.fault = always(Fault(kind=kind))
    error = local.fail({**OVER, "init_images": [f"{storage.server.url}/plain/x.png"]})
    assert words in error["fields"][0]["message"]


def test_a_file_that_is_no_picture_or_too_large(local: Running, storage: Storage) -> None:
    storage.fault = no_fault
    storage.blobs["weights"] = Blob(data=bytes(5000))
    storage.blobs["large"] = Blob(data=b"\x89PNG" + bytes(1_100_000))
    for name, words in (("weights", "is no PNG, JPEG or WebP"), ("large", "1000000 are allowed")):
        error = local.fail({**OVER, "init_images": [f"{storage.server.url}/plain/{name}"]})
        assert (error["code"], error["fields"][0]["field"]) == ("invalid_request", "init_images[0]")
        assert words in error["message"]


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def test_many_hostile_pictures_end_in_words(strict: Running) -> None:
    chance = random.Random(2)
    drawn, refused, before = 0, 0, 0.0
    webui = strict.worker.webui_pid()
    for number, text in enumerate(hostile_texts(EXAMPLES)):
        value = chance.choice(
            [
                {**OVER, "steps": 1, "init_images": [text], "resize_mode": chance.randrange(4)},
                {**OVER, "steps": 1, "mask": text, "inpaint_full_res": chance.random() < 0.5},
                {**LARGER, "image": text, "upscaling_resize": chance.choice([0.5, 2, 100])},
            ]
        )
        status, answer = strict.post(json.dumps({"input": value}).encode())
        assert status in (200, 400), (number, answer)
        if answer.get("status") == "COMPLETED":
            drawn += 1
        elif status == 200:
            refused += 1
            error = json.loads(answer["error"])
            assert error["code"] in {"invalid_request", "not_honoured"}, (number, text[:80], error)
            assert text[:60] not in error["message"] or len(text) < 60, number
        if number == min(100, EXAMPLES // 2):
            before = _resident_mb(strict.worker.pid)
    assert strict.worker.webui_pid() == webui, "the webui was replaced"
    assert refused > EXAMPLES // 2
    assert drawn > EXAMPLES // 40
    assert _resident_mb(strict.worker.pid) - before < GROWTH_MB
    assert "Traceback" not in "".join(str(each) for each in strict.worker.entries(level="ERROR"))
    assert strict.run(OVER)["images"]


def test_nothing_of_a_picture_is_in_the_log(local: Running) -> None:
    assert PICTURE[100:160] not in local.worker.log
    assert PICTURE[100:160] not in (local.worker.folder / "webui.log").read_text(errors="replace")
