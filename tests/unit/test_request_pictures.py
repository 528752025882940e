"""Requests with pictures: what they are for follows from their fields; the same strictness as for text."""

from typing import Any

import pytest

from runtime.job.fields import BY_NAME, PREVIEWS
from runtime.job.rules.sizes import (
    check_init_pictures,
    check_upscaling,
    note_upscaling,
    upscaled,
)
from runtime.job.rules.together import check_samplers
from tests.samples import DEFAULT_LIMITS
from tests.unit.test_request import WEBUIAPI, errors_of, parse

OVER: dict[str, Any] = {"prompt": "p", "init_images": ["AAAA"]}
MASKED: dict[str, Any] = {**OVER, "mask": "BBBB"}
LARGER: dict[str, Any] = {"image": "CCCC", "upscaler_1": "Lanczos"}
WEBUIAPI_IMG2IMG: dict[str, Any] = {
    **{key: WEBUIAPI[key] for key in WEBUIAPI if not key.startswith(("hr_", "enable", "firstp"))},
    "init_images": ["data:image/png;base64,AAAA"],
    "mask": "data:image/png;base64,BBBB",
    "resize_mode": 0,
    "denoising_strength": 0.75,
    "mask_blur": 4,
    "inpainting_fill": 0,
    "inpaint_full_res": True,
    "inpaint_full_res_padding": 0,
    "inpainting_mask_invert": 0,
    "initial_noise_multiplier": 1,
    "image_cfg_scale": 1.5,
    "include_init_images": False,
}
"""What webuiapi sends for `img2img()`, by its source (webuiapi/webuiapi.py of 0.9.17)."""
WEBUIAPI_EXTRAS: dict[str, Any] = {
    "resize_mode": 0,
    "show_extras_results": True,
    "gfpgan_visibility": 0,
    "codeformer_visibility": 0,
    "codeformer_weight": 0,
    "upscaling_resize": 2,
    "upscaling_resize_w": 512,
    "upscaling_resize_h": 512,
    "upscaling_crop": True,
    "upscaler_1": "Lanczos",
    "upscaler_2": "None",
    "extras_upscaler_2_visibility": 0,
    "upscale_first": False,
    "image": "data:image/png;base64,CCCC",
}


def test_what_a_request_is_follows_from_its_fields() -> None:
    assert parse({"prompt": "p"}).endpoint == "txt2img"
    assert parse({"init_images": None, "image": "", "mask": None}).endpoint == "txt2img"
    over = parse({**MASKED, "init_images": ["A", "B"], "batch_size": 2})
    assert (over.endpoint, over.images) == ("img2img", 2)
    assert over.pictures == {"init_images[0]": "A", "init_images[1]": "B", "mask": "BBBB"}
    assert not {"init_images", "mask", "enable_hr"} & set(over.payload)
    larger = parse(LARGER)
    assert (larger.endpoint, larger.pictures) == ("extra-single-image", {"image": "CCCC"})
    assert larger.payload == {"upscaler_1": "Lanczos"}
    assert (larger.images, larger.checkpoint) == (1, "")


def test_webuiapis_img2img_and_extras_pass() -> None:
    request = parse(WEBUIAPI_IMG2IMG)
    assert request.notes == []
    for key in ("mask_blur", "inpaint_full_res", "image_cfg_scale", "denoising_strength", "seed"):
        assert request.payload[key] == WEBUIAPI_IMG2IMG[key]
    assert parse(WEBUIAPI_EXTRAS).notes == []


@pytest.mark.parametrize(
    ("value", "endpoint"),
    [
        ({"prompt": "p"}, "/sdapi/v1/txt2img"),
        (OVER, "/sdapi/v1/img2img"),
        (OVER, "sdapi/v1/img2img"),
        (LARGER, "/sdapi/v1/extra-single-image"),
    ],
)
def test_an_envelope_of_another_worker_is_opened(value: dict[str, Any], endpoint: str) -> None:
    request = parse({"api": {"method": "POST", "endpoint": endpoint}, "payload": value})
    assert request == parse(value)


@pytest.mark.parametrize(
    ("api", "payload", "field", "message"),
    [
        (
            {"method": "GET", "endpoint": "/sdapi/v1/sd-models"},
            {},
            "api",
            "this worker has POST of /sdapi/v1/txt2img, img2img, extra-single-image only",
        ),
        (
            {"method": "POST", "endpoint": "/sdapi/v1/interrogate"},
            {},
            "api",
            "this worker has POST of /sdapi/v1/txt2img, img2img, extra-single-image only",
        ),
        (
            7,
            {},
            "api",
            "this worker has POST of /sdapi/v1/txt2img, img2img, extra-single-image only",
        ),
        (
            {"method": "POST", "endpoint": "txt2img"},
            [],
            "payload",
            "must be an object with the request's fields",
        ),
        (
            {"method": "POST", "endpoint": "/sdapi/v1/img2img"},
            {"prompt": "p"},
            "api.endpoint",
            "img2img needs the field init_images",
        ),
        (
            {"method": "POST", "endpoint": "/sdapi/v1/txt2img"},
            OVER,
            "api.endpoint",
            "txt2img has no field init_images",
        ),
    ],
)
def test_an_envelope_that_asks_for_what_is_not_there(
    api: Any, payload: Any, field: str, message: str
) -> None:
    assert errors_of({"api": api, "payload": payload}) == {field: message}


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        ({"mask": "BBBB"}, "mask", "has no effect without init_images"),
        (
            {"init_images": []},
            "init_images",
            "must be one picture, or one for each of batch_size, not 0",
        ),
        (
            {"init_images": "AAAA"},
            "init_images",
            "must be a list of pictures: base64, data URLs or https addresses, not a string",
        ),
        (
            {"init_images": [7]},
            "init_images",
            "must be a list of pictures: base64, data URLs or https addresses, not a list",
        ),
        (
            {"init_images": [None]},
            "init_images",
            "must be a list of pictures: base64, data URLs or https addresses, not a list",
        ),
        (
            {**OVER, "mask": 7},
            "mask",
            "must be a picture: base64, a data URL or an https address, not 7",
        ),
        (
            {**OVER, "init_images": ["A", "B"]},
            "init_images",
            "must be one picture, or one for each of batch_size, not 2",
        ),
        (
            {**OVER, "init_images": ["A", "B"], "batch_size": 3},
            "init_images",
            "must be one picture, or one for each of batch_size, not 2",
        ),
        (
            {**OVER, "init_images": ["A"] * 9, "batch_size": 8},
            "init_images",
            "has 9 entries, at most 8 are allowed",
        ),
        ({**OVER, "enable_hr": True}, "enable_hr", "has no effect with init_images"),
        (
            {**OVER, "image": "CCCC"},
            "image",
            "is the picture of an upscaling, which has no init_images",
        ),
        ({**OVER, "denoising_strength": 1.1}, "denoising_strength", "must be at most 1, not 1.1"),
        ({**OVER, "resize_mode": 4}, "resize_mode", "must be at most 3, not 4"),
        ({**OVER, "resize_mode": None}, "resize_mode", "must be a whole number, not null"),
        ({**MASKED, "inpainting_fill": 4}, "inpainting_fill", "must be at most 3, not 4"),
        ({**MASKED, "mask_blur": -1}, "mask_blur", "must be at least 0, not -1"),
        ({**MASKED, "mask_blur": 65}, "mask_blur", "must be at most 64, not 65"),
        ({**MASKED, "mask_blur": 4, "mask_blur_x": 8}, "mask_blur_x", "contradicts mask_blur"),
        (
            {**MASKED, "inpaint_full_res_padding": -1},
            "inpaint_full_res_padding",
            "must be at least 0, not -1",
        ),
        (
            {**OVER, "latent_mask": "BBBB"},
            "latent_mask",
            "is not possible in a worker: its API fails on it; use mask",
        ),
        (
            {**OVER, "include_init_images": True},
            "include_init_images",
            "is not possible in a worker: pictures that went in are not sent back",
        ),
        (
            {**OVER, "script_name": "SD upscale"},
            "script_name",
            "is not possible in a worker: no scripts",
        ),
        ({"init_image": "AAAA"}, "init_image", "there is no such field (use 'init_images')"),
        ({**LARGER, "prompt": "p"}, "prompt", "is no field of an upscaling"),
        ({**LARGER, "upscaler_1": "Latent"}, "upscaler_1", "no upscaler of that name is baked"),
        (
            {**LARGER, "upscaler_1": "lanczos"},
            "upscaler_1",
            "no upscaler of that name is baked (did you mean 'Lanczos'?)",
        ),
        ({**LARGER, "upscaler_1": "None"}, "upscaler_1", "is needed"),
        ({"image": "CCCC"}, "upscaler_1", "is needed"),
        (
            {"image": "CCCC", "codeformer_visibility": 1, "upscaler_2": "Lanczos"},
            "upscaler_1",
            "is needed",
        ),
        ({**LARGER, "resize_mode": 2}, "resize_mode", "must be 0 or 1 for an upscaling"),
        ({**LARGER, "upscaling_resize": -1}, "upscaling_resize", "must be at least 0, not -1"),
        ({**LARGER, "gfpgan_visibility": 2}, "gfpgan_visibility", "must be at most 1, not 2"),
    ],
)
def test_what_would_be_ignored_or_fail(value: dict[str, Any], field: str, message: str) -> None:
    assert errors_of(value) == {field: message}


@pytest.mark.parametrize(
    ("value", "notes"),
    [
        ({"resize_mode": 0, "mask_blur_x": 4, "inpaint_full_res": True}, []),
        ({"resize_mode": 9, "init_images": None}, ["resize_mode: not used without init_images"]),
        ({"upscaling_resize": 4}, ["upscaling_resize: not used without image"]),
        ({**OVER, "mask_blur": 4}, ["mask_blur: not used without mask"]),
        ({**MASKED, "mask_blur": 0, "mask_blur_x": 4, "mask_blur_y": 4}, []),
        ({**OVER, "hr_scale": 1.5}, ["hr_scale: not used without enable_hr"]),
        ({**OVER, "enable_hr": False, "denoising_strength": 0.4}, []),
        ({"image": "CCCC", "codeformer_visibility": 0.5}, []),
        (
            {**LARGER, "upscaling_resize_w": 99},
            ["upscaling_resize_w: not used without resize_mode 1"],
        ),
        (
            {**LARGER, "resize_mode": 1, "upscaling_resize": 4},
            ["upscaling_resize: not used without resize_mode 0"],
        ),
        (
            {**LARGER, "upscaler_2": "Lanczos", "codeformer_weight": 0.5},
            [
                "upscaler_2: not used without extras_upscaler_2_visibility",
                "codeformer_weight: not used without codeformer_visibility",
            ],
        ),
        ({**LARGER, "previews": True}, ["previews: an upscaling has no steps"]),
    ],
)
def test_leftovers_are_noted(value: dict[str, Any], notes: list[str]) -> None:
    assert parse(value).notes == notes


def test_null_is_the_webuis_default() -> None:
    nulls = {name: None for name, e in BY_NAME.items() if e.section == "init" and e.nullable}
    request = parse({**nulls, **OVER, "denoising_strength": None})
    assert not (set(nulls) | {"denoising_strength"}) & set(request.payload)


def test_previews_are_settings_of_the_job() -> None:
    for value in ({"previews": True}, {**OVER, "previews": True}):
        request = parse(value)
        assert request.payload["override_settings"] == PREVIEWS
        assert request.output.previews
        assert "previews" not in request.payload
    assert parse({"previews": None}).payload["override_settings"] == {}


@pytest.mark.parametrize(
    ("given", "sizes", "field", "message"),
    [
        (
            {},
            {"mask": (32, 32)},
            "mask",
            "must have the picture's size 64 x 64, not 32 x 32, with inpaint_full_res or resize_mode",
        ),
        ({"inpaint_full_res": False}, {"mask": (32, 32)}, "", ""),
        (
            {"inpaint_full_res": False, "resize_mode": 1},
            {"mask": (32, 32)},
            "mask",
            "must have the picture's size 64 x 64, not 32 x 32, with inpaint_full_res or resize_mode",
        ),
        (
            {"inpaint_full_res": False, "resize_mode": 3},
            {"mask": (64, 64)},
            "resize_mode",
            "3 with a mask needs a picture of 512 x 512 pixels, not 64 x 64",
        ),
        ({"resize_mode": 3}, {"mask": (64, 64)}, "", ""),
        (
            {"resize_mode": 3},
            {"init_images[1]": (72, 64)},
            "init_images",
            "must have one size, with a mask or resize_mode 3",
        ),
        (
            {"resize_mode": 1},
            {"init_images[0]": (65535, 1)},
            "init_images[0]",
            "is too long and narrow for resize_mode 1: 33553920 x 512 pixels on its way",
        ),
        (
            {"resize_mode": 2},
            {"init_images[0]": (65535, 1)},
            "init_images[0]",
            "is too long and narrow for resize_mode 2: 512 x 0 pixels on its way",
        ),
        ({"resize_mode": 0}, {"init_images[0]": (65535, 1)}, "", ""),
        ({"resize_mode": 1}, {"init_images[0]": (4000, 3000)}, "", ""),
    ],
)
def test_sizes_of_pictures(
    given: dict[str, Any], sizes: dict[str, tuple[int, int]], field: str, message: str
) -> None:
    all_sizes = {"init_images[0]": (64, 64), **sizes}
    errors = list(check_init_pictures(given, all_sizes, DEFAULT_LIMITS))
    assert [(each.field, each.message) for each in errors] == [(field, message)] * bool(field)


TO: dict[str, Any] = {"resize_mode": 1, "upscaling_resize_w": 160, "upscaling_resize_h": 96}


@pytest.mark.parametrize(
    ("given", "size", "made", "left"),
    [
        ({}, (64, 64), (128, 128), (128, 128)),
        ({}, (101, 64), (200, 128), (200, 128)),
        ({"upscaling_resize": 0.5}, (64, 50), (32, 24), (32, 24)),
        (TO, (64, 64), (160, 160), (160, 96)),
        ({**TO, "upscaling_crop": False}, (64, 64), (160, 160), (160, 160)),
    ],
)
def test_sizes_after_upscaling(given: dict[str, Any], size: Any, made: Any, left: Any) -> None:
    assert upscaled(given, size) == (made, left)
    assert list(check_upscaling(given, size, DEFAULT_LIMITS)) == []


@pytest.mark.parametrize(
    ("given", "size", "field", "message"),
    [
        ({"upscaling_resize": 100}, (64, 64), "upscaling_resize", "makes 6400 x 6400 pixels of 64 x 64, at most 16777216 are allowed"),
        ({"upscaling_resize": 1e300}, (64, 64), "upscaling_resize", "makes 1000000000 x 1000000000 pixels of 64 x 64, at most 16777216 are allowed"),
        ({"upscaling_resize": 64}, (64, 64), "", ""),
        ({"upscaling_resize": 0}, (64, 64), "upscaling_resize", "makes 0 x 0 pixels of 64 x 64, 8 are the least of a side"),
        ({"upscaling_resize": 0.125}, (64, 64), "", ""),
        ({"upscaling_resize": 0.124}, (64, 64), "upscaling_resize", "makes 0 x 0 pixels of 64 x 64, 8 are the least of a side"),
        ({**TO, "upscaling_resize_w": 100}, (64, 64), "upscaling_resize_w", "would leave a black edge: the webui makes 96 x 96 pixels, multiples of 8"),
        ({**TO, "upscaling_resize_w": 64, "upscaling_resize_h": 100}, (64, 64), "upscaling_resize_w", "would leave a black edge: the webui makes 96 x 96 pixels, multiples of 8"),
        ({**TO, "upscaling_resize_w": 4, "upscaling_resize_h": 4}, (64, 64), "upscaling_resize_w", "makes 0 x 0 pixels of 64 x 64, 8 are the least of a side"),
        (TO, (65535, 1), "upscaling_resize_w", "makes 6291360 x 96 pixels of 65535 x 1, at most 16777216 are allowed"),
    ],
)  # fmt: skip
def test_sizes_that_no_upscaling_makes(
    given: dict[str, Any], size: Any, field: str, message: str
) -> None:
    errors = check_upscaling(given, size, DEFAULT_LIMITS)
    assert [(each.field, each.message) for each in errors] == [(field, message)] * bool(field)


@pytest.mark.parametrize(
    ("given", "size", "note"),
    [
        ({}, (64, 64), ""),
        (TO, (64, 64), ""),
        ({"resize_mode": 1}, (512, 512), ""),
        ({}, (101, 64), "200 x 128 pixels instead of 202 x 128"),
        ({"upscaling_resize": 2.5}, (101, 64), "248 x 160 pixels instead of 252 x 160"),
        ({**TO, "upscaling_crop": False}, (64, 64), "160 x 160 pixels instead of 160 x 96"),
        ({"resize_mode": 1, "upscaling_crop": False}, (64, 32), "1024 x 512 pixels instead of 512 x 512"),
    ],
)  # fmt: skip
def test_a_size_that_is_not_quite_the_one_asked_for_is_noted(
    given: dict[str, Any], size: Any, note: str
) -> None:
    why = "upscalers make multiples of 8, of the picture's own shape"
    assert note_upscaling(given, size) == [f"image: {note}: {why}"] * bool(note)


def test_steps_of_img2img_are_the_last_ones() -> None:
    few = {"sampler_name": "UniPC", "steps": 4, "denoising_strength": 0.5}
    (error,) = check_samplers(few, is_img2img=True)
    assert (error.field, error.message) == ("steps", "UniPC needs at least 4 steps")
    assert list(check_samplers(few)) == []
