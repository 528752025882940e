"""What a request may say: every field, every error at once, and what the webui would ignore in silence."""

import contextlib
import json
import math
from typing import Any

import hypothesis
import pytest

from runtime.errors import JobError, SettingsError
from runtime.job.asked import Request
from runtime.job.fields import BY_NAME, FIELDS, OVERRIDES, limits_of
from runtime.job.request import parse_request
from tests.hostile import INPUTS
from tests.samples import DEFAULT_LIMITS, NAMES, make_weights, make_worker

HIRES: dict[str, Any] = {"enable_hr": True, "denoising_strength": 0.5}
OFFICIAL_README: dict[str, Any] = {
    "prompt": "a photograph of an astronaut riding a horse",
    "negative_prompt": "text, watermark, blurry, low quality",
    "steps": 25,
    "cfg_scale": 7,
    "width": 512,
    "height": 512,
    "sampler_name": "DPM++ 2M Karras",
}
WEBUIAPI: dict[str, Any] = {
    "enable_hr": False,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "hr_second_pass_steps": 0,
    "hr_resize_x": 0,
    "hr_resize_y": 0,
    "denoising_strength": 0.7,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "prompt": "cute squirrel",
    "styles": [],
    "seed": 1003,
    "subseed": -1,
    "subseed_strength": 0.0,
    "seed_resize_from_h": 0,
    "seed_resize_from_w": 0,
    "batch_size": 1,
    "n_iter": 1,
    "steps": 20,
    "cfg_scale": 7.0,
    "width": 512,
    "height": 512,
    "restore_faces": False,
    "tiling": False,
    "do_not_save_samples": False,
    "do_not_save_grid": False,
    "negative_prompt": "ugly",
    "eta": 1.0,
    "s_churn": 0,
    "s_tmax": 0,
    "s_tmin": 0,
    "s_noise": 1,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "sampler_name": "Euler",
    "sampler_index": "Euler a",
    "script_name": None,
    "script_args": [],
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {},
}
SEED_PROJECT: dict[str, Any] = {
    "prompt": "p",
    "negative_prompt": "n",
    "steps": 30,
    "cfg_scale": 6.5,
    "width": 832,
    "height": 1216,
    "sampler_name": "Euler a",
    "seed": 5,
    "batch_size": 1,
    "n_iter": 1,
    "clip_skip": 2,
    "restore_faces": False,
    "tiling": False,
    "do_not_save_samples": True,
    "do_not_save_grid": True,
    "checkpoint": "second",
    "loras": [
        {"name": "mine", "url": "https://civitai.com/api/download/models/1", "scale": 0.8},
        {"name": "detail", "scale": 1, "hash": "d" * 64},
    ],
}


def parse(value: Any, **more: Any) -> Request:
    settings: dict[str, Any] = {"worker": make_worker(), "names": NAMES, "limits": DEFAULT_LIMITS}
    return parse_request(value, **{**settings, **more})


def errors_of(value: Any, **more: Any) -> dict[str, str]:
    with pytest.raises(JobError) as caught:
        parse(value, **more)
    assert caught.value.code == "invalid_request"
    return {each.field: each.message for each in caught.value.fields}


def test_the_official_readmes_request_is_split_into_sampler_and_scheduler() -> None:
    payload = parse(OFFICIAL_README).payload
    assert payload == {
        **OFFICIAL_README,
        "sampler_name": "DPM++ 2M",
        "scheduler": "Karras",
        "override_settings": {},
        "send_images": True,
        "save_images": False,
    }


def test_webuiapis_parameters_pass_unchanged() -> None:
    payload = parse(WEBUIAPI).payload
    ours = {k: v for k, v in payload.items() if k in WEBUIAPI}
    assert ours == {k: v for k, v in WEBUIAPI.items() if k in ours}
    left_out = set(WEBUIAPI) - set(ours)
    assert left_out == {
        "sampler_index",
        "firstphase_width",
        "firstphase_height",
        "override_settings_restore_afterwards",
        "script_name",
        "script_args",
        "alwayson_scripts",
        "do_not_save_samples",
        "do_not_save_grid",
    }


def test_the_seed_projects_request() -> None:
    request = parse(SEED_PROJECT)
    assert request.payload["override_settings"] == {
        "sd_model_checkpoint": "second",
        "CLIP_stop_at_last_layers": 2,
    }
    assert request.checkpoint == "second"
    assert [(each.name, each.scale, each.is_baked) for each in request.loras] == [
        ("mine", 0.8, False),
        ("detail", 1, True),
    ]
    assert not {"loras", "clip_skip", "checkpoint"} & set(request.payload)


def test_defaults_are_the_webuis_because_nothing_is_sent_that_was_not_given() -> None:
    assert parse({"prompt": "p"}).payload == {
        "prompt": "p",
        "override_settings": {},
        "send_images": True,
        "save_images": False,
    }
    assert parse({}).checkpoint == "base"


def test_null_means_not_given_where_the_webui_takes_it_so() -> None:
    nulls = {field.name: None for field in FIELDS if field.nullable}
    assert set(parse(nulls).payload) == {"override_settings", "send_images", "save_images"}


@pytest.mark.parametrize(
    "name",
    sorted(
        f.name
        for f in FIELDS
        if not f.nullable and f.only is None and f.section not in {"init", "upscaling"}
    ),
)
def test_null_is_an_error_elsewhere(name: str) -> None:
    assert "not null" in errors_of({name: None})[name]


# What the real webui v1.9.3 answers stands beside each row.
@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        # 404
        (
            {"sampler_name": "Eular"},
            "sampler_name",
            "the webui has no such sampler (did you mean 'Euler'?)",
        ),
        (
            {"sampler_name": "Euler Foo"},
            "sampler_name",
            "the webui has no such sampler (did you mean 'Euler a'?)",
        ),
        (
            {"sampler_index": "euler A"},
            "sampler_index",
            "the webui has no such sampler (did you mean 'Euler a'?)",
        ),
        (
            {"sampler_name": "dpm++ 2m karras"},
            "sampler_name",
            "the webui has no such sampler (did you mean 'DPM++ 2M Karras'?)",
        ),
        (
            {**HIRES, "hr_sampler_name": "Eular"},
            "hr_sampler_name",
            "the webui has no such sampler (did you mean 'Euler'?)",
        ),
        # 200, ignored
        (
            {"scheduler": "Karas"},
            "scheduler",
            "the webui has no such scheduler (did you mean 'Karras'?)",
        ),
        (
            {"sampler_name": "DDIM", "scheduler": "karras"},
            "scheduler",
            "has no effect on DDIM, which has its own schedule",
        ),
        (
            {"sampler_name": "DDIM Karras"},
            "scheduler",
            "has no effect on DDIM, which has its own schedule",
        ),
        (
            {**HIRES, "sampler_name": "DDIM", "hr_scheduler": "Karras"},
            "hr_scheduler",
            "has no effect on DDIM, which has its own schedule",
        ),
        (
            {"checkpoint": "bass"},
            "checkpoint",
            "no checkpoint of that name is baked; there is base, second (did you mean 'base'?)",
        ),
        (
            {"override_settings": {"sd_model_checkpoint": "x.safetensors [ab]"}},
            "override_settings.sd_model_checkpoint",
            "no checkpoint of that name is baked; there is base, second",
        ),
        (
            {"override_settings": {"sd_vae": "hard"}},
            "override_settings.sd_vae",
            "no VAE of that name is baked; there is Automatic, soft",
        ),
        (
            {"override_settings": {"sd_vae": "None"}},
            "override_settings.sd_vae",
            "no VAE of that name is baked; there is Automatic, soft",
        ),
        (
            {"prompt": "a <lora:missing:1> b"},
            "prompt",
            "no LoRA 'missing' is baked; see the field loras",
        ),
        (
            {"prompt": "<lora:detial:1>"},
            "prompt",
            "no LoRA 'detial' is baked (did you mean 'detail'?); see the field loras",
        ),
        ({"prompt": "<hypernet:x:1>"}, "prompt", "no hypernetwork 'x' is baked"),
        ({"prompt": "a <foo:x> b"}, "prompt", "<foo:…> is nothing that this worker has"),
        (
            {"negative_prompt": "<lora:detail:1>"},
            "negative_prompt",
            "<lora:…> has no effect in a negative prompt",
        ),
        ({"promt": "x"}, "promt", "there is no such field (did you mean 'prompt'?)"),
        (
            {"num_inference_steps": 20},
            "num_inference_steps",
            "there is no such field (use 'steps')",
        ),
        ({"guidance_scale": 7}, "guidance_scale", "there is no such field (use 'cfg_scale')"),
        ({"hires_fix": True}, "hires_fix", "there is no such field (use 'enable_hr')"),
        (
            {"hr_additional_modules": ["ae"]},
            "hr_additional_modules",
            "is not possible in a worker: Forge has further modules, this webui none",
        ),
        (
            {"styles": ["", "cinematik"]},
            "styles",
            "the webui has no style 'cinematik' (did you mean 'cinematic'?)",
        ),
        (
            {"override_settings": {"samples_format": "jpg"}},
            "override_settings.samples_format",
            "is not possible in a worker: use the field image_format",
        ),
        (
            {"seed_enable_extras": False, "subseed_strength": 0.5},
            "seed_enable_extras",
            "contradicts subseed_strength, seed_resize_from_w, seed_resize_from_h",
        ),
        (
            {"styles": ["cinematik"]},
            "styles",
            "the webui has no style 'cinematik' (did you mean 'cinematic'?)",
        ),
        ({"width": 515}, "width", "must be a multiple of 8, not 515"),
        # 500
        ({"width": 4}, "width", "must be at least 8, not 4"),
        ({"width": -512}, "width", "must be at least 8, not -512"),
        ({"steps": 0}, "steps", "must be at least 1, not 0"),
        ({"steps": -1}, "steps", "must be at least 1, not -1"),
        ({"batch_size": 0}, "batch_size", "must be at least 1, not 0"),
        ({"n_iter": 0}, "n_iter", "must be at least 1, not 0"),
        (
            {"override_settings": {"nope": 1}},
            "override_settings.nope",
            "may not be overridden here",
        ),
        ({"prompt": None}, "prompt", "must be a string, not null"),
        ({"enable_hr": True}, "denoising_strength", "is needed with enable_hr"),
        ({**HIRES, "hr_upscaler": "4x"}, "hr_upscaler", "no upscaler of that name is baked"),
        # 422
        ({"steps": "abc"}, "steps", "must be a whole number, not the string 'abc'"),
        ({"prompt": ["a"]}, "prompt", "must be a string, not a list"),
        ({"script_name": "x/y plot"}, "script_name", "is not possible in a worker: no scripts"),
        (
            {"alwayson_scripts": {"x": {"args": [1]}}},
            "alwayson_scripts",
            "x: this worker has Seed, Sampler and Refiner only",
        ),
        (
            {"alwayson_scripts": {"Seed": {"args": None}}},
            "alwayson_scripts",
            "Seed: must be an object with a list `args`, not null",
        ),
        # more than a worker should hold
        ({"width": 16384}, "width", "must be at most 2048, not 16384"),
        ({"steps": 151}, "steps", "must be at most 150, not 151"),
        ({"batch_size": 8, "n_iter": 8}, "batch_size", "x n_iter is 64, at most 16 are allowed"),
        ({"prompt": "x" * 10001}, "prompt", "has 10001 characters, at most 10000 are allowed"),
        (
            {**HIRES, "width": 1536, "height": 1536},
            "width",
            "x height is 9437184 pixels, at most 4194304 are allowed",
        ),
        (
            {**HIRES, "hr_resize_x": 2048, "height": 1024},
            "width",
            "x height is 8388608 pixels, at most 4194304 are allowed",
        ),
        (
            {**HIRES, "width": 64, "height": 2048, "hr_resize_x": 2048, "hr_resize_y": 8},
            "width",
            "x height is 134217728 pixels, at most 4194304 are allowed",
        ),
        # of the wrong form
        ({"steps": True}, "steps", "must be a whole number, not true"),
        ({"steps": 20.5}, "steps", "must be a whole number, not 20.5"),
        ({"cfg_scale": math.nan}, "cfg_scale", "must be a number, not nan"),
        ({"cfg_scale": math.inf}, "cfg_scale", "must be a number, not inf"),
        (
            {"seed": 10**400},
            "seed",
            "must be at most 18446744073709551615, not a number beyond 10^20",
        ),
        ({"tiling": 2}, "tiling", "must be true or false, not 2"),
        ({"tiling": "si"}, "tiling", "must be true or false, not the string 'si'"),
        ({"steps": "20.5"}, "steps", "must be a whole number, not the string '20.5'"),
        ({"steps": ""}, "steps", "must be a whole number, not the string ''"),
        ({"cfg_scale": "nan"}, "cfg_scale", "must be a number, not the string 'nan'"),
        ({"seed": True}, "seed", "must be a whole number, not true"),
        ({"prompt": True}, "prompt", "must be a string, not true"),
        ({"prompt": "\ud800"}, "prompt", "is not valid Unicode (half of a surrogate pair)"),
        ({"prompt": "a\x00b"}, "prompt", "contains a null character"),
        ({"styles": [None]}, "styles", "must be a list of strings, not a list"),
        ({"override_settings": []}, "override_settings", "must be an object, not a list"),
        ({"image_format": "gif"}, "image_format", "must be one of png, jpeg, webp"),
        (
            {"image_format": "jpg"},
            "image_format",
            "must be one of png, jpeg, webp (did you mean 'jpeg'?)",
        ),
        ({"script_args": False}, "script_args", "is not possible in a worker: no scripts"),
        # contradictions
        (
            {"sampler_name": "DPM++ 2M Karras", "scheduler": "Exponential"},
            "scheduler",
            "'Exponential' contradicts sampler_name 'DPM++ 2M Karras'",
        ),
        (
            {**HIRES, "hr_sampler_name": "LMS Karras", "hr_scheduler": "uniform"},
            "hr_scheduler",
            "'Uniform' contradicts hr_sampler_name 'LMS Karras'",
        ),
        (
            {"sampler_index": "LMS Karras", "scheduler": "uniform"},
            "scheduler",
            "'Uniform' contradicts sampler_index 'LMS Karras'",
        ),
        (
            {"clip_skip": 2, "override_settings": {"CLIP_stop_at_last_layers": 1}},
            "clip_skip",
            "contradicts override_settings.CLIP_stop_at_last_layers",
        ),
        (
            {"disable_extra_networks": True, "loras": [{"name": "detail"}]},
            "disable_extra_networks",
            "switches off the LoRAs that are asked for",
        ),
        (
            {"prompt": "<lora:detail:1>", "loras": [{"name": "detail"}]},
            "prompt",
            "names the LoRA 'detail', which loras has as well",
        ),
        # LoRAs
        (
            {"loras": "detail"},
            "loras",
            "must be a list of objects or names, not the string 'detail'",
        ),
        ({"loras": [1]}, "loras[0]", "must be an object or a name, not 1"),
        (
            {"loras": ["detial"]},
            "loras[0].name",
            "no LoRA of that name is baked (did you mean 'detail'?); else give url",
        ),
        ({"loras": [{}]}, "loras[0].name", "is missing"),
        (
            {"loras": [{"name": "detial"}]},
            "loras[0].name",
            "no LoRA of that name is baked (did you mean 'detail'?); else give url",
        ),
        (
            {"loras": [{"name": "a", "url": "x", "civitai": "1"}]},
            "loras[0]",
            "give either url or civitai",
        ),
        (
            {"loras": [{"name": "a:1><b", "url": "https://x"}]},
            "loras[0].name",
            "must be up to 64 letters, digits, '.', '_' or '-', a letter or digit first",
        ),
        (
            {"loras": [{"name": "../a", "url": "https://x"}]},
            "loras[0].name",
            "must be up to 64 letters, digits, '.', '_' or '-', a letter or digit first",
        ),
        (
            {"loras": [{"name": "detail", "weight": 1, "scale": 0.5}]},
            "loras[0].weight",
            "contradicts scale",
        ),
        (
            {"loras": [{"name": "detail", "scale": "x"}]},
            "loras[0].scale",
            "must be a number, not the string 'x'",
        ),
        (
            {"loras": [{"name": "detail", "hash": "xyz"}]},
            "loras[0].hash",
            "must be 10 to 64 hexadecimal digits of the SHA-256, or the 12 of AutoV3",
        ),
        (
            {"loras": [{"name": "detail", "hash": "0" * 10}]},
            "loras[0].hash",
            "the baked file's SHA-256 is dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
        ),
        (
            {"loras": [{"name": "a", "civitai": "x"}]},
            "loras[0].civitai",
            "must be a model version's number or an AIR",
        ),
        (
            {"loras": [{"name": "a", "civitai": "\u0967"}]},
            "loras[0].civitai",
            "must be a model version's number or an AIR",
        ),
        (
            {"loras": [{"name": "a", "civitai": -1}]},
            "loras[0].civitai",
            "must be a model version's number or an AIR",
        ),
        ({"loras": [{"name": "detail"}] * 2}, "loras[1].name", "'detail' is there twice"),
        ({"loras": [{"name": "detail"}] * 9}, "loras", "has 9 entries, at most 8 are allowed"),
    ],
)
def test_wrong_requests(value: dict[str, Any], field: str, message: str) -> None:
    assert errors_of(value) == {field: message}


@pytest.mark.parametrize("value", [None, 1, "prompt", [], [{}], True, math.nan])
def test_an_input_that_is_no_object(value: Any) -> None:
    assert errors_of(value) == {"input": "must be an object with the request's fields"}


def test_all_errors_come_at_once() -> None:
    errors = errors_of({"promt": "x", "steps": "a", "width": 4, "loras": [{"name": "x"}]})
    assert list(errors) == ["promt", "width", "steps", "loras[0].name"]


def test_the_error_is_a_json_string_with_everything_in_it() -> None:
    with pytest.raises(JobError) as caught:
        parse({"promt": "x", "steps": 0})
    error = json.loads(caught.value.to_json())
    assert error["code"] == "invalid_request"
    assert error["message"].endswith("(and 1 more)")
    assert error["retryable"] is False
    assert [each["field"] for each in error["fields"]] == ["promt", "steps"]


@pytest.mark.parametrize(
    ("old", "sampler", "scheduler"),
    [
        ("DPM++ 2M Karras", "DPM++ 2M", "Karras"),
        ("DPM++ 2M SDE Exponential", "DPM++ 2M SDE", "Exponential"),
        ("DPM2 a Karras", "DPM2 a", "Karras"),
        ("LMS Karras", "LMS", "Karras"),
        ("Euler a", "Euler a", None),
        ("DPM++ 2M SGM Uniform", "DPM++ 2M", "SGM Uniform"),
    ],
)
def test_names_from_before_v19(old: str, sampler: str, scheduler: str | None) -> None:
    for given in ({}, {"scheduler": "Automatic"}, {"scheduler": scheduler}):
        payload = parse({"sampler_name": old, **given}).payload
        assert payload["sampler_name"] == sampler
        expected = given.get("scheduler") if scheduler is None else scheduler
        assert payload.get("scheduler") == expected
    hires = parse({**HIRES, "hr_sampler_name": old}).payload
    assert (hires["hr_sampler_name"], hires.get("hr_scheduler")) == (sampler, scheduler)


def test_sampler_index_counts_where_sampler_name_is_missing() -> None:
    assert parse({"sampler_index": "Euler a"}).payload["sampler_name"] == "Euler a"
    both = parse({"sampler_index": "Euler a", "sampler_name": "DDIM"}).payload
    assert both["sampler_name"] == "DDIM"
    assert "sampler_index" not in both


@pytest.mark.parametrize(
    "text", ["second", "second.safetensors", "second.safetensors [bbbbbbbbbb]"]
)
def test_a_checkpoint_in_the_webuis_spellings(text: str) -> None:
    request = parse({"override_settings": {"sd_model_checkpoint": text}})
    assert request.checkpoint == "second"
    assert request.payload["override_settings"] == {"sd_model_checkpoint": "second"}


def test_the_vae_is_sent_as_its_files_name() -> None:
    for text, sent in (("soft", "soft.safetensors"), ("Automatic", "Automatic")):
        settings = parse({"override_settings": {"sd_vae": text}}).payload["override_settings"]
        assert settings == {"sd_vae": sent}
    without = make_worker(weights=(make_weights("checkpoint", "base"),))
    none = parse({"override_settings": {"sd_vae": "None"}}, worker=without)
    assert none.payload["override_settings"] == {"sd_vae": "None"}


def test_loras_of_both_passes_must_show() -> None:
    asked = {**HIRES, "prompt": "<lora:detail:1>", "hr_prompt": "<lora:blue-pencil:1>"}
    assert parse(asked).prompt_loras == ["detail", "blue-pencil"]


def test_an_operator_may_allow_more_overrides() -> None:
    extra = {"samples_filename_pattern": "", "live_previews_enable": True}
    request = parse({"override_settings": {"live_previews_enable": False}}, extra_overrides=extra)
    assert request.payload["override_settings"] == {"live_previews_enable": False}
    errors = errors_of({"override_settings": {"live_previews_enable": "so"}}, extra_overrides=extra)
    assert "true or false" in errors["override_settings.live_previews_enable"]


def test_whole_numbers_may_be_spelt_as_other_languages_do() -> None:
    payload = parse({"steps": 20.0, "cfg_scale": 7, "width": 512.0}).payload
    assert [type(payload[key]) for key in ("steps", "width")] == [int, int]


def test_the_count_of_pictures_and_the_output() -> None:
    request = parse({"batch_size": 2, "n_iter": 3, "image_format": "webp", "image_quality": 70})
    assert request.images == 6
    assert request.output.image_format == "webp"
    assert request.output.image_quality == 70
    assert not any(key.startswith("image_") for key in request.payload)


def test_limits_come_from_the_image_and_may_be_lowered_by_the_environment() -> None:
    given = {"side": 4096, "steps": 60}
    limits = limits_of(given, {"side": 1024, "steps": 100})
    assert (limits["side"], limits["steps"], limits["images"]) == (1024, 60, 16)
    with pytest.raises(SettingsError, match="unknown limits: sides"):
        limits_of({"sides": 1}, {})


def test_messages_stay_short_whatever_was_sent() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    value = {
        "x" * 10**6: 1,
        "steps": deep,
        "prompt": {"a": deep},
        "seed": "9" * 10**6,
        "\n\ud800": 1,
    }
    with pytest.raises(JobError) as caught:
        parse(value)
    text = caught.value.to_json()
    assert len(text) < 2000
    assert "\\n" not in text


def test_a_thousand_unknown_fields_give_fifty_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    suggested: list[str] = []

    def suggest(wrong: str, _known: object) -> str:
        suggested.append(wrong)
        return ""

    monkeypatch.setattr("runtime.job.rules.reader.suggest", suggest)
    errors = errors_of({f"field_{number}": 1 for number in range(1000)})
    assert len(errors) == 50
    # A suggestion takes half a millisecond, and a request has room for a million names.
    assert len(suggested) == 50


def test_names_in_the_table_are_unique() -> None:
    assert len(BY_NAME) == len(FIELDS)
    assert len(OVERRIDES) > 10


@hypothesis.given(INPUTS)
@hypothesis.settings(max_examples=100)
def test_whatever_comes_is_honoured_or_refused_in_words(value: Any) -> None:
    with contextlib.suppress(JobError):
        request = parse(value)
        json.dumps(dict(request.payload), allow_nan=False, ensure_ascii=False).encode()
        return
    assert errors_of(value)
