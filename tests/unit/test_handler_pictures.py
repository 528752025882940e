"""Jobs with pictures, from input to output: what goes to the webui, what comes back, what is never seen again."""

import base64
import io
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytest
from PIL import Image

from runtime.webui import generate
from runtime.webui.client import WebuiAnswerError, WebuiClient
from tests.fake_webui import FakeWebui
from tests.unit.test_handler import Bench


def png(width: int = 16, height: int = 8, colour: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "PNG")
    return out.getvalue()


PICTURE = base64.b64encode(png()).decode()
MASK = base64.b64encode(png(colour="white")).decode()
LARGER = {"image": PICTURE, "upscaler_1": "Lanczos"}


@pytest.fixture(autouse=True)
def _poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_POLL_S", 0.02)


def test_img2img_goes_to_its_endpoint_and_comes_back_as_text_does() -> None:
    bench = Bench(webui := FakeWebui())
    output = bench.run(
        {"prompt": "p", "init_images": [f"data:image/png;base64,{PICTURE}"], "seed": 3}
    )
    assert webui.endpoints == ["img2img"]
    assert webui.payloads[0]["init_images"] == [PICTURE]
    assert "mask" not in webui.payloads[0]
    assert set(output) == {"images", "parameters", "info", "bakery"}
    assert output["bakery"]["seeds"] == [3]
    assert "pictures_s" in output["bakery"]["timings"]


def test_loras_are_drawn_with_over_a_picture_too() -> None:
    bench = Bench(webui := FakeWebui())
    bench.run({"prompt": "p", "init_images": [PICTURE], "mask": MASK, "loras": ["detail"]})
    assert webui.payloads[0]["prompt"] == "<lora:detail:1>p"
    assert webui.payloads[0]["mask"] == MASK


def test_an_upscaling_comes_back_as_the_webui_gives_it() -> None:
    bench = Bench(webui := FakeWebui({"image": png(32, 16)}))
    output = bench.run(LARGER)
    assert webui.endpoints == ["extra-single-image"]
    assert webui.payloads == [{"upscaler_1": "Lanczos", "image": PICTURE}]
    assert set(output) == {"image", "html_info", "bakery"}
    assert base64.b64decode(output["image"]) == png(32, 16)
    assert (output["bakery"]["model"], output["bakery"]["seeds"]) == (None, [])


def test_an_upscaling_in_another_format() -> None:
    output = Bench(FakeWebui({"image": png(32, 16)})).run({**LARGER, "image_format": "jpeg"})
    assert base64.b64decode(output["image"]).startswith(b"\xff\xd8")


def test_an_upscaling_of_another_size_than_asked_for() -> None:
    error = Bench(FakeWebui({"image": png(16, 32)})).error(LARGER)
    assert (error["code"], error["message"]) == (
        "not_honoured",
        "the webui made a picture of another size than asked for",
    )


def test_an_upscaler_without_its_model() -> None:
    def without(_payload: Mapping[str, Any]) -> Any:
        webui.missing_models += 1
        return {"image": png(32, 16)}

    webui = FakeWebui(without)
    error = Bench(webui).error(LARGER)
    assert error["code"] == "not_honoured"
    assert "could not load the model of the upscaler" in error["message"]


def test_a_mask_with_nothing_in_it() -> None:
    blank = FakeWebui({"extra_generation_params": {}})
    value = {"init_images": [PICTURE], "mask": MASK}
    error = Bench(blank).error(value)
    assert error["code"] == "not_honoured"
    assert "the mask has nothing to draw in it" in error["message"]
    whole = FakeWebui({"extra_generation_params": {}})
    assert "images" in Bench(whole).run({**value, "inpaint_full_res": False})


def test_guidance_by_the_picture_is_noted_where_it_is_not_used() -> None:
    value = {"init_images": [PICTURE], "image_cfg_scale": 1.5}
    output = Bench(FakeWebui()).run(value)
    assert output["bakery"]["notes"] == ["image_cfg_scale: not used by this checkpoint"]
    used = FakeWebui({"infotexts": ["p\nSteps: 3, Image CFG scale: 1.5"]})
    assert Bench(used).run(value)["bakery"]["notes"] == []


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        ("OSError", "image file is truncated (22 bytes not processed)"),
        ("SyntaxError", "broken PNG file (chunk b'IDAT')"),
        ("HTTPException", "Invalid encoded image"),
        ("OSError", "broken data stream when reading image file"),
        ("OSError", "failed to read next frame"),
        ("OSError", "cannot load this image"),
    ],
)
def test_a_picture_that_only_the_webui_finds_broken(kind: str, detail: str) -> None:
    webui = FakeWebui(WebuiAnswerError(status=500, kind=kind, detail=detail))
    error = Bench(webui).error({"init_images": [PICTURE]})
    assert (error["code"], error["retryable"]) == ("invalid_request", False)
    assert error["message"] == "a picture is broken: it cannot be decoded"
    assert len(webui.payloads) == 1


def test_a_bad_picture_never_reaches_the_webui_nor_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret = base64.b64encode(b"<svg>a very private picture</svg>").decode()
    bench = Bench(webui := FakeWebui(), log_prompts=True)
    error = bench.error({"init_images": [secret]})
    assert error["fields"] == [
        {
            "field": "init_images[0]",
            "message": "is no PNG, JPEG or WebP picture but an XML answer",
        }
    ]
    assert webui.payloads == []
    assert "images" in bench.run({"init_images": [PICTURE], "mask": MASK, "prompt": "shown"})
    logged = capsys.readouterr().out
    assert "shown" in logged
    for each in (secret, PICTURE, MASK):
        assert each[:24] not in logged


def test_reports_carry_a_small_jpeg_where_previews_are_asked_for() -> None:
    def until_reported(_payload: Mapping[str, Any]) -> None:
        end = time.monotonic() + 60
        while not bench.reports and time.monotonic() < end:
            time.sleep(0.01)

    webui = FakeWebui(until_reported, until_reported)
    webui.preview = base64.b64encode(png(1000, 500)).decode()
    bench = Bench(webui, progress_s=0.05)
    bench.run({"prompt": "p", "previews": True})
    with Image.open(io.BytesIO(base64.b64decode(bench.reports[0]["preview"]))) as shown:
        assert (shown.format, shown.size) == ("JPEG", (256, 128))
    assert webui.payloads[0]["override_settings"]["show_progress_type"] == "Approx cheap"
    bench.reports.clear()
    bench.run({"prompt": "p"})
    assert "preview" not in bench.reports[0]


def test_a_job_from_text_imports_nothing_for_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "runtime.job.pictures", raising=False)
    Bench(FakeWebui()).run({"prompt": "p"})
    assert "runtime.job.pictures" not in sys.modules


def test_the_client_asks_for_the_endpoint_and_the_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def call(_self: WebuiClient, method: str, path: str, *_: Any, **__: Any) -> Any:
        asked.append((method, path))
        return {"image": "AAAA", "html_info": "x"}

    monkeypatch.setattr(WebuiClient, "call", call)
    client = WebuiClient(1)
    answer = client.draw({}, endpoint="extra-single-image", timeout_s=1)
    assert answer == {"images": ["AAAA"], "html_info": "x"}
    client.progress()
    client.progress(with_picture=True)
    assert asked == [
        ("POST", "/sdapi/v1/extra-single-image"),
        ("GET", "/sdapi/v1/progress?skip_current_image=true"),
        ("GET", "/sdapi/v1/progress?skip_current_image=false"),
    ]
    json.dumps(answer)
