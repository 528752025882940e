"""The stand-in webui over HTTP: every fact of the real one's API that the runtime is built on."""

import base64
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.integration.demo_case import PROMPT, QUICK, WEIGHTS, Start, Webui, starting


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with starting(tmp_path) as run:
        yield run


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """One that the tests without faults share."""
    started = Webui(
        tmp_path_factory.mktemp("webui"),
        *("--ckpt", str(WEIGHTS / "shapes.safetensors"), "--lora-dir", str(WEIGHTS)),
    )
    yield started.wait()
    started.stop()


def test_answers_as_the_webui_does(webui: Webui) -> None:
    status, answer = webui.call("POST", "/sdapi/v1/txt2img", {**QUICK, "negative_prompt": "blue"})
    assert status == 200
    assert answer["parameters"]["n_iter"] == 1
    assert answer["parameters"]["override_settings_restore_afterwards"] is True
    info = json.loads(answer["info"])
    assert (info["seed"], info["all_seeds"], info["width"]) == (1, [1], 64)
    image = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    assert image.size == (64, 64)
    assert image.info["parameters"] == info["infotexts"][0]
    sha = webui.call("GET", "/sdapi/v1/sd-models")[1][0]["sha256"]
    assert info["infotexts"][0] == (
        f"{PROMPT}\nNegative prompt: blue\nSteps: 2, Sampler: Euler, CFG scale: 7.0, Seed: 1, "
        f"Size: 64x64, Model hash: {sha[:10]}, Model: shapes, Version: v1.9.3-demo"
    )


def test_batches_count_seeds_up_and_repeat_single_pictures(webui: Webui) -> None:
    _, answer = webui.draw(seed=5, batch_size=2, n_iter=2)
    assert json.loads(answer["info"])["all_seeds"] == [5, 6, 7, 8]
    pixels = [Image.open(io.BytesIO(base64.b64decode(each))).tobytes() for each in answer["images"]]
    assert len(set(pixels)) == 4
    _, alone = webui.draw(seed=7)
    assert Image.open(io.BytesIO(base64.b64decode(alone["images"][0]))).tobytes() == pixels[2]


def test_random_seed_is_told(webui: Webui) -> None:
    seeds = {json.loads(webui.draw(seed=-1)[1]["info"])["seed"] for _ in range(3)}
    assert len(seeds) == 3


@pytest.mark.parametrize("name", ["DPM++ 2M Karras", "no such", "k_euler"])
def test_unknown_sampler_is_404(webui: Webui, name: str) -> None:
    status, answer = webui.draw(sampler_name=name)
    assert (status, answer["detail"]) == (404, "Sampler not found")
    assert set(answer) == {"error", "detail", "body", "errors"}


@pytest.mark.parametrize(
    "request_part",
    [
        {"scheduler": "no such"},
        {"override_settings": {"sd_model_checkpoint": "no such"}},
        {"override_settings": {"sd_vae": "no such.safetensors"}},
        {"prompt": f"{PROMPT} <lora:no-such:1>"},
        {"no_such_field": 1},
        {"prompt": f"{PROMPT} <lora:outline:strong>"},
    ],
)
def test_ignored_in_silence(webui: Webui, request_part: dict[str, Any]) -> None:
    status, answer = webui.draw(**request_part)
    assert status == 200
    assert "Lora hashes" not in json.loads(answer["info"])["infotexts"][0]


@pytest.mark.parametrize(
    "request_part",
    [
        {"width": 4},
        {"height": -64},
        {"steps": 0},
        {"steps": -1},
        {"batch_size": 0},
        {"n_iter": 0},
        {"prompt": None},
        {"override_settings": {"no_such_setting": 1}},
    ],
)
def test_mistakes_that_are_500(webui: Webui, request_part: dict[str, Any]) -> None:
    status, answer = webui.draw(**request_part)
    assert status == 500
    assert set(answer) == {"error", "detail", "body", "errors"}
    assert webui.draw()[0] == 200, "the next request is fine"


@pytest.mark.parametrize(
    ("request_part", "detail"),
    [
        (
            {"steps": "abc"},
            [
                {
                    "loc": ["body", "steps"],
                    "msg": "value is not a valid integer",
                    "type": "type_error.integer",
                }
            ],
        ),
        (
            {"prompt": ["a"]},
            [{"loc": ["body", "prompt"], "msg": "str type expected", "type": "type_error.str"}],
        ),
        ({"script_name": "no such"}, "Script 'no such' not found"),
    ],
)
def test_mistakes_that_are_422(webui: Webui, request_part: dict[str, Any], detail: Any) -> None:
    status, answer = webui.draw(**request_part)
    assert (status, answer["detail"]) == (422, detail)


def test_bad_bodies_are_422(webui: Webui) -> None:
    for body, kind in ((b"{", "value_error.jsondecode"), (b"[]", "type_error.dict")):
        status, answer = webui.call("POST", "/sdapi/v1/txt2img", body)
        assert (status, answer["detail"][0]["type"]) == (422, kind)


def test_lists(webui: Webui) -> None:
    samplers = webui.call("GET", "/sdapi/v1/samplers")[1]
    assert {"Euler", "Euler a", "DPM++ 2M", "DDIM"} <= {each["name"] for each in samplers}
    schedulers = webui.call("GET", "/sdapi/v1/schedulers")[1]
    assert {"Automatic", "Karras", "Uniform"} <= {each["label"] for each in schedulers}
    assert webui.call("GET", "/sdapi/v1/sd-vae") == (200, [])
    assert {"ram", "cuda"} == set(webui.call("GET", "/sdapi/v1/memory")[1])
    assert webui.call("GET", "/internal/ping")[0] == 404
    assert webui.call("GET", "/sdapi/v1/txt2img")[0] == 405


def test_lora_from_the_prompt_shows_in_the_infotext(webui: Webui) -> None:
    text = webui.infotext(prompt=f"{PROMPT} <lora:outline:1>")
    assert 'Lora hashes: "outline: ' in text
    assert text.startswith(f"{PROMPT} <lora:outline:1>\n")
    plain, changed = webui.draw()[1], webui.draw(prompt=f"{PROMPT} <lora:outline:1>")[1]
    assert plain["images"] != changed["images"]


def test_new_lora_is_found_by_itself_and_by_a_refresh(start: Start) -> None:
    webui = start().wait()
    folder = webui.data / "models" / "Lora"
    shutil.copy(WEIGHTS / "outline.safetensors", folder / "new.safetensors")
    assert [each["name"] for each in webui.call("GET", "/sdapi/v1/loras")[1]] == ["outline"]
    assert 'Lora hashes: "new: ' in webui.infotext(prompt="<lora:new:0.5>")
    shutil.copy(WEIGHTS / "outline.safetensors", folder / "newer.safetensors")
    assert webui.call("POST", "/sdapi/v1/refresh-loras") == (200, None)
    names = [each["name"] for each in webui.call("GET", "/sdapi/v1/loras")[1]]
    assert names == ["new", "newer", "outline"]


def test_hash_cache_is_used_until_the_file_is_newer(start: Start) -> None:
    first = start("--no-hashing", data="one").wait()
    assert "Model hash" not in first.infotext()
    webui = start(data="two").wait()
    webui.infotext(prompt="<lora:outline:1>")
    cache = webui.data / "cache" / "hashes.json"
    entries = json.loads(cache.read_text())
    assert set(entries) == {"hashes", "hashes-addnet"}
    webui.stop()
    entries["hashes"]["checkpoint/shapes.safetensors"]["sha256"] = "f" * 64
    cache.write_text(json.dumps(entries))
    assert "Model hash: ffffffffff" in start(data="two").wait().infotext()
    os.utime(webui.data / "models" / "Stable-diffusion" / "shapes.safetensors")
    assert "Model hash: ffffffffff" not in start(data="two").wait().infotext()


def test_overrides_leak_unless_config_json_has_the_key(start: Start) -> None:
    webui = start().wait()
    assert "Clip skip" not in webui.infotext()
    webui.infotext(override_settings={"CLIP_stop_at_last_layers": 2})
    assert "Clip skip: 2" in webui.infotext(), "config.json lacks the key: it leaks"
    everything = {**webui.call("GET", "/sdapi/v1/options")[1], "CLIP_stop_at_last_layers": 1}
    assert webui.call("POST", "/sdapi/v1/options", everything) == (200, None)
    assert "CLIP_stop_at_last_layers" in json.loads((webui.data / "config.json").read_text())
    assert "Clip skip: 2" in webui.infotext(override_settings={"CLIP_stop_at_last_layers": 2})
    assert "Clip skip" not in webui.infotext(), "put back"
    webui.infotext(
        override_settings={"CLIP_stop_at_last_layers": 2},
        override_settings_restore_afterwards=False,
    )
    assert "Clip skip: 2" in webui.infotext(), "asked to stay"


def test_one_bad_override_breaks_all_later_jobs(start: Start) -> None:
    webui = start().wait()
    assert webui.draw(override_settings={"CLIP_stop_at_last_layers": "abc"})[0] == 500
    assert webui.draw()[0] == 500


def test_another_checkpoint_by_override(start: Start) -> None:
    webui = start()
    folder = webui.data / "models" / "Stable-diffusion"
    shutil.copy(WEIGHTS / "shapes.safetensors", folder / "other.safetensors")
    webui.wait()
    webui.call("POST", "/sdapi/v1/refresh-checkpoints")
    text = webui.infotext(override_settings={"sd_model_checkpoint": "other"})
    assert "Model: other" in text
    assert "Model: shapes" in webui.infotext()
