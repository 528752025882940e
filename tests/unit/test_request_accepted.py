"""Requests that ask for nothing else than the webui or a worker does anyway: accepted, and said in the notes."""

import dataclasses
from typing import Any

import pytest

from runtime.job.names import BROWNIAN, OWN_SCHEDULE
from tests.conformance.requests import ACCEPTED, REFUSED
from tests.samples import NAMES
from tests.unit.test_request import HIRES, WEBUIAPI, errors_of, parse

WEBUIAPI_DEFAULTS: dict[str, Any] = {
    "enable_hr": False,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "hr_second_pass_steps": 0,
    "hr_resize_x": 0,
    "hr_resize_y": 0,
    "hr_checkpoint_name": None,
    "hr_sampler_name": None,
    "hr_scheduler": None,
    "hr_prompt": "",
    "hr_negative_prompt": "",
    "denoising_strength": 0.7,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "prompt": "",
    "styles": [],
    "seed": -1,
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
    "negative_prompt": "",
    "eta": 1.0,
    "s_churn": 0,
    "s_tmax": 0,
    "s_tmin": 0,
    "s_noise": 1,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "sampler_name": "Euler a",
    "scheduler": "automatic",
    "sampler_index": "Euler a",
    "script_name": None,
    "script_args": [],
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {},
}
"""What webuiapi 0.9.17 sends for `txt2img()`, recorded from it."""
WEBUIAPI_EVERYTHING: dict[str, Any] = {
    **WEBUIAPI_DEFAULTS,
    "enable_hr": True,
    "hr_scale": 1.5,
    "hr_upscaler": "Lanczos",
    "hr_second_pass_steps": 8,
    "hr_resize_x": 640,
    "hr_resize_y": 640,
    "hr_checkpoint_name": "base",
    "hr_sampler_name": "Euler a",
    "hr_scheduler": "karras",
    "hr_prompt": "a lighthouse, detailed",
    "hr_negative_prompt": "grain",
    "denoising_strength": 0.45,
    "prompt": "a lighthouse",
    "styles": ["cinematic"],
    "seed": 41,
    "subseed": 7,
    "subseed_strength": 0.2,
    "seed_resize_from_h": 256,
    "seed_resize_from_w": 256,
    "batch_size": 2,
    "n_iter": 2,
    "steps": 12,
    "cfg_scale": 5.5,
    "width": 320,
    "height": 448,
    "restore_faces": True,
    "tiling": True,
    "do_not_save_samples": True,
    "do_not_save_grid": True,
    "negative_prompt": "blurry",
    "eta": 0.5,
    "s_churn": 1,
    "s_tmax": 12,
    "s_tmin": 0.1,
    "s_noise": 1.02,
    "override_settings": {"CLIP_stop_at_last_layers": 2},
    "override_settings_restore_afterwards": False,
    "sampler_name": "DPM++ 2M",
    "scheduler": "exponential",
    "sampler_index": "Euler",
    "send_images": False,
    "save_images": True,
}
"""The same with a value of ours for each of its keywords that needs no extension."""
_OF_THE_WORKER = {
    "sampler_index",
    "firstphase_width",
    "firstphase_height",
    "override_settings_restore_afterwards",
    "script_name",
    "script_args",
    "alwayson_scripts",
    "do_not_save_samples",
    "do_not_save_grid",
    "send_images",
    "save_images",
}


@pytest.mark.parametrize("sent", [WEBUIAPI, WEBUIAPI_DEFAULTS, WEBUIAPI_EVERYTHING])
def test_what_webuiapi_sends_passes(sent: dict[str, Any]) -> None:
    payload = parse(sent).payload
    labels = {"automatic": "Automatic", "karras": "Karras", "exponential": "Exponential"}
    for key in set(sent) - _OF_THE_WORKER:
        if sent[key] is not None:
            expected = labels.get(sent[key]) if key.endswith("scheduler") else sent[key]
            drawn = payload[key]
            if key == "override_settings" and sent["restore_faces"]:
                assert drawn.pop("face_restoration_model") == "CodeFormer"
            assert drawn == expected, key
    assert (payload["send_images"], payload["save_images"]) == (True, False)


SILLY_TAVERN: dict[str, Any] = {
    "prompt": "a lighthouse",
    "negative_prompt": "fog",
    "sampler_name": "DPM++ 2M",
    "scheduler": "karras",
    "steps": 20,
    "cfg_scale": 7,
    "width": 512,
    "height": 512,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "hr_scale": 1.0,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "override_settings": {"CLIP_stop_at_last_layers": 1},
    "override_settings_restore_afterwards": True,
    "clip_skip": 1,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}
"""The fields that SillyTavern sends to any A1111-like webui, Forge among them; the values are ours."""
EVERY_FIELD: dict[str, Any] = {
    "prompt": "a lighthouse",
    "styles": [""],
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0,
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "sampler_name": "Euler a",
    "batch_size": 1,
    "n_iter": 1,
    "steps": 50,
    "cfg_scale": 7,
    "width": 512,
    "height": 512,
    "restore_faces": False,
    "tiling": False,
    "do_not_save_samples": False,
    "do_not_save_grid": False,
    "eta": 0,
    "denoising_strength": 0,
    "s_min_uncond": 0,
    "s_churn": 0,
    "s_tmax": 0,
    "s_tmin": 0,
    "s_noise": 1,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "enable_hr": False,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "hr_scale": 2,
    "hr_upscaler": "",
    "hr_second_pass_steps": 0,
    "hr_resize_x": 0,
    "hr_resize_y": 0,
    "hr_sampler_name": "",
    "hr_prompt": "",
    "hr_negative_prompt": "",
    "checkpoint": "",
    "script_args": [],
    "script_name": "",
    "alwayson_scripts": {},
}
"""The form that people fill in, every field of it, with what says nothing where they say nothing."""


@pytest.mark.parametrize("sent", [SILLY_TAVERN, EVERY_FIELD])
def test_what_clients_fill_in_that_send_every_field(sent: dict[str, Any]) -> None:
    request = parse(sent)
    assert request.payload["prompt"] == "a lighthouse"
    assert not request.payload.get("styles")
    assert "hr_additional_modules" not in request.payload


# What the webui's pydantic 1 makes of each is what is sent.
@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"steps": "20"}, {"steps": 20}),
        ({"steps": " 20 "}, {"steps": 20}),
        ({"steps": "+2_0"}, {"steps": 20}),
        ({"width": "512", "height": "768"}, {"width": 512, "height": 768}),
        ({"cfg_scale": "7.5"}, {"cfg_scale": 7.5}),
        ({"cfg_scale": "1e1"}, {"cfg_scale": 10.0}),
        ({"seed": "-1"}, {"seed": -1}),
        ({"enable_hr": "false"}, {"enable_hr": False}),
        ({"enable_hr": 0}, {"enable_hr": False}),
        ({"tiling": "True"}, {"tiling": True}),
        ({"tiling": "off"}, {"tiling": False}),
        ({"tiling": "y"}, {"tiling": True}),
        ({"tiling": 1.0}, {"tiling": True}),
        ({"prompt": 2024}, {"prompt": "2024"}),
        ({"prompt": 1.5}, {"prompt": "1.5"}),
        ({"enable_hr": "yes", "denoising_strength": "0.5"}, {"denoising_strength": 0.5}),
        ({"firstphase_width": "0"}, {}),
        ({"override_settings": {"CLIP_stop_at_last_layers": "2"}}, {}),
    ],
)
def test_values_as_strings_and_numbers(given: dict[str, Any], sent: dict[str, Any]) -> None:
    request = parse(given)
    for key, value in sent.items():
        assert request.payload[key] == value
        assert type(request.payload[key]) is type(value)
    if "override_settings" in given:
        assert request.payload["override_settings"] == {"CLIP_stop_at_last_layers": 2}


@pytest.mark.parametrize("name", ["seed", "subseed", "enable_hr", "disable_extra_networks"])
def test_null_as_the_webui_takes_it(name: str) -> None:
    assert name not in parse({name: None}).payload


@pytest.mark.parametrize(
    ("given", "notes"),
    [
        (
            {"hr_scale": 1.0, "hr_upscaler": "ESRGAN_4x"},
            ["hr_scale, hr_upscaler: not used without enable_hr"],
        ),
        (
            {"hr_scale": 0, "hr_resize_x": 1001},
            ["hr_scale, hr_resize_x: not used without enable_hr"],
        ),
        ({"hr_prompt": "<lora:missing:1>"}, ["hr_prompt: not used without enable_hr"]),
        (
            {"hr_scheduler": "Karas", "hr_sampler_name": "Eular"},
            ["hr_sampler_name, hr_scheduler: not used without enable_hr"],
        ),
        ({"hr_checkpoint_name": "bass"}, ["hr_checkpoint_name: not used without enable_hr"]),
        ({"hr_second_pass_steps": 10**6}, ["hr_second_pass_steps: not used without enable_hr"]),
        ({"denoising_strength": 0.61}, ["denoising_strength: not used without enable_hr"]),
        ({"hr_scale": None, "hr_prompt": None, "hr_resize_x": None}, []),
        (
            {"refiner_checkpoint": None, "refiner_switch_at": 0},
            ["refiner_switch_at: not used without refiner_checkpoint"],
        ),
        (
            {"refiner_checkpoint": "None", "refiner_switch_at": 0.8},
            ["refiner_switch_at: not used without refiner_checkpoint"],
        ),
        ({"refiner_checkpoint": "", "refiner_switch_at": None}, []),
        ({"seed_resize_from_w": 256}, ["seed_resize_from_w: not used without seed_resize_from_h"]),
        ({"seed_resize_from_w": 256, "seed_resize_from_h": 256}, []),
        (
            {"save_images": True},
            ["save_images: a worker keeps no pictures; they are in the answer"],
        ),
        ({"send_images": False}, ["send_images: the pictures are in the answer always"]),
        ({"send_images": "true", "save_images": "false"}, []),
        ({"do_not_save_samples": True, "do_not_save_grid": None}, []),
        (
            {"override_settings_restore_afterwards": False},
            [
                "override_settings_restore_afterwards: settings last for one job; name them in each request"
            ],
        ),
        ({"override_settings_restore_afterwards": None}, []),
        ({"force_task_id": "mine"}, ["force_task_id: not used; the job has an id already"]),
        # What clients send that were made for several webuis, or fill in all that its manual shows.
        ({"hr_additional_modules": []}, []),
        (
            {
                "enable_hr": True,
                "denoising_strength": 0.4,
                "hr_additional_modules": ["Use same choices"],
            },
            [],
        ),
        ({"forge_preset": None, "override_settings": {"forge_additional_modules": None}}, []),
        ({"styles": [""]}, []),
        ({"seed_enable_extras": False, "subseed": -1, "seed_resize_from_w": 0}, []),
        ({"seed_enable_extras": True, "subseed_strength": 0.5}, []),
        ({"override_settings": {"samples_format": "png", "return_grid": False}}, []),
        (
            {
                "override_settings": {
                    "samples_save": True,
                    "show_progress_type": "Full",
                    "outdir_samples": "x",
                }
            },
            [
                "override_settings.outdir_samples: changes nothing in a worker",
                "override_settings.samples_save: changes nothing in a worker",
                "override_settings.show_progress_type: changes nothing in a worker",
            ],
        ),
        (
            {"alwayson_scripts": {"Hypertile": {"args": []}}},
            ["alwayson_scripts.Hypertile: asks for nothing more"],
        ),
        (
            {"alwayson_scripts": {"Comments": {}}},
            ["alwayson_scripts.Comments: asks for nothing more"],
        ),
    ],
)
def test_what_asks_for_nothing_is_noted(given: dict[str, Any], notes: list[str]) -> None:
    assert parse(given).notes == notes


def test_same_as_the_first_pass() -> None:
    same = {
        "hr_sampler_name": "Use same sampler",
        "hr_scheduler": "Use same scheduler",
        "hr_checkpoint_name": "Use same checkpoint",
    }
    assert not set(same) & set(parse({**HIRES, **same}).payload)


@pytest.mark.parametrize("side", [8, 32, 56])
def test_small_sides(side: int) -> None:
    payload = parse({"width": side, "height": side}).payload
    assert (payload["width"], payload["height"]) == (side, side)


def test_numbers_that_only_look_odd() -> None:
    given = {"cfg_scale": -3, "eta": 12, "s_tmin": -1, "seed_resize_from_w": -8}
    assert given.items() <= parse(given).payload.items()
    assert parse({**HIRES, "hr_scale": 0.5}).payload["hr_scale"] == 0.5
    assert parse({**HIRES, "denoising_strength": 0}).payload["denoising_strength"] == 0
    assert parse({"clip_skip": 0}).payload["override_settings"] == {"CLIP_stop_at_last_layers": 0}


@pytest.mark.parametrize("seed", [2**53, 2**64 - 1, -2, -(2**63), "18446744073709551615"])
def test_seeds_that_torch_takes(seed: Any) -> None:
    assert parse({"seed": seed, "subseed": seed}).payload["seed"] == int(seed)


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        (
            {"seed": 2**64},
            "seed",
            "must be at most 18446744073709551615, not 18446744073709551616",
        ),
        (
            {"seed": 2**64 - 1, "batch_size": 2},
            "seed",
            "is too near to its bound, for so many pictures or for eta_noise_seed_delta",
        ),
        (
            {"seed": 2**64 - 5, "override_settings": {"eta_noise_seed_delta": 31337}},
            "seed",
            "is too near to its bound, for so many pictures or for eta_noise_seed_delta",
        ),
        (
            {"seed": -2, "sampler_name": "DPM++ SDE"},
            "seed",
            "must not be negative with DPM++ SDE; -1 is a random one",
        ),
        (
            {**HIRES, "seed": -2, "hr_sampler_name": "DPM++ 2M SDE Karras"},
            "seed",
            "must not be negative with DPM++ 2M SDE; -1 is a random one",
        ),
        ({"sampler_name": "UniPC", "steps": 2}, "steps", "UniPC needs at least 3 steps"),
        (
            {**HIRES, "hr_sampler_name": "UniPC", "hr_second_pass_steps": 3},
            "hr_second_pass_steps",
            "UniPC needs at least 4 steps",
        ),
        (
            {"sampler_name": "DPM++ 2M SDE Karras", "steps": 1},
            "steps",
            "DPM++ 2M SDE needs at least 2 steps",
        ),
        (
            {**HIRES, "denoising_strength": 0.01, "hr_sampler_name": "DDIM", "steps": 20},
            "denoising_strength",
            "must be at least 0.02 for 20 steps of DDIM",
        ),
        (
            {**HIRES, "denoising_strength": 0, "sampler_name": "DDIM"},
            "denoising_strength",
            "must be at least 0.05 for 50 steps of DDIM",
        ),
        ({**HIRES, "hr_scale": 0.01}, "hr_scale", "makes 5 x 5 pixels, 8 are the least of a side"),
        ({**HIRES, "hr_scale": 0}, "hr_scale", "makes 0 x 0 pixels, 8 are the least of a side"),
        (
            {"firstphase_width": 64},
            "firstphase_width",
            "is not possible in a worker: use hr_resize_x",
        ),
    ],
)
def test_what_the_webui_cannot_draw(given: dict[str, Any], field: str, message: str) -> None:
    assert errors_of(given) == {field: message}


@pytest.mark.parametrize("spelling", ["automatic", "Automatic"])
def test_automatic_is_sent_as_the_label(spelling: str) -> None:
    """By its name the webui draws without the schedule that the label stands for."""
    payload = parse({"sampler_name": "DPM++ 2M", "scheduler": spelling}).payload
    assert payload["scheduler"] == "Automatic"
    payload = parse({**HIRES, "hr_scheduler": spelling}).payload
    assert payload["hr_scheduler"] == "Automatic"


def test_a_scheduler_for_the_pass_that_uses_it() -> None:
    first = {**HIRES, "sampler_name": "DDIM", "scheduler": "karras"}
    assert parse({**first, "hr_sampler_name": "Euler"}).payload["scheduler"] == "Karras"
    second = {**HIRES, "sampler_name": "Euler", "scheduler": "karras", "hr_sampler_name": "DDIM"}
    assert parse(second).payload["scheduler"] == "Karras"
    assert parse({"sampler_name": "DDIM", "scheduler": "automatic"}).payload["sampler_name"]
    unused = {**first, "hr_sampler_name": "Euler", "hr_scheduler": "Uniform"}
    assert list(errors_of(unused)) == ["scheduler"]
    assert {"DDIM", "UniPC"} <= OWN_SCHEDULE
    assert not OWN_SCHEDULE & BROWNIAN


# LoRAs


def test_plain_names_and_weight_for_scale() -> None:
    loras = ["detail", {"name": "blue-pencil", "weight": "0.4"}]
    read = [(each.name, each.scale) for each in parse({"loras": loras}).loras]
    assert read == [("detail", 1.0), ("blue-pencil", 0.4)]
    both = {"name": "detail", "weight": 0.5, "scale": 0.5}
    assert parse({"loras": [both]}).loras[0].scale == 0.5


@pytest.mark.parametrize(
    "tag",
    [
        "<lora:detail>",
        "<lora:detail:0.5>",
        "<lora:detail: .5 >",
        "<lyco:detail:-1>",
        "<lora:detail:0.5:0.7>",
        "<lora:detail:0.5:0.7:8>",
        "<lora:detail:te=0.5:unet=0.7:dyn=4>",
    ],
)
def test_tags_that_the_webui_can_use(tag: str) -> None:
    assert parse({"prompt": f"x {tag}"}).prompt_loras == ["detail"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (
            "<lora:detail:strong>",
            "<lora:detail:…>: 'strong' is not a number; the forms are <lora:name:0.8> and <lora:name:0.8:0.6>, with the weights of text encoder and unet",
        ),
        (
            "<lora:detail:0,8>",
            "<lora:detail:…>: '0,8' is not a number; the forms are <lora:name:0.8> and <lora:name:0.8:0.6>, with the weights of text encoder and unet",
        ),
        (
            "<lora:detail:>",
            "<lora:detail:…>: '' is not a number; the forms are <lora:name:0.8> and <lora:name:0.8:0.6>, with the weights of text encoder and unet",
        ),
        (
            "<lora:detail:nan>",
            "<lora:detail:…>: 'nan' is not a number; the forms are <lora:name:0.8> and <lora:name:0.8:0.6>, with the weights of text encoder and unet",
        ),
        (
            "<lora:detail:0.5:1,0,0,1>",
            "<lora:detail:…>: '1,0,0,1' is not a number; the forms are <lora:name:0.8> and <lora:name:0.8:0.6>, with the weights of text encoder and unet",
        ),
        (
            "<lora:detail:1:1:few>",
            "<lora:detail:…>: 'few' is not a whole number; the forms are <lora:name:0.8> and <lora:name:0.8:0.6>, with the weights of text encoder and unet",
        ),
        (
            "<lora:detail:1:lbw=NONE>",
            "<lora:detail:…>: the webui makes nothing of 'lbw=…'; the forms are <lora:name:0.8> and <lora:name:0.8:0.6>, with the weights of text encoder and unet",
        ),
        (
            "<lora:detail:1:1:4:9>",
            "<lora:detail:…>: the webui makes nothing of '9'; the forms are <lora:name:0.8> and <lora:name:0.8:0.6>, with the weights of text encoder and unet",
        ),
        (
            "<lora:detail:te=x>",
            "<lora:detail:…>: 'x' is not a number; the forms are <lora:name:0.8> and <lora:name:0.8:0.6>, with the weights of text encoder and unet",
        ),
        (
            "<lora:te=1>",
            "<lora:te=1> has no name; the forms are <lora:name:0.8> and <lora:name:0.8:0.6>, with the weights of text encoder and unet",
        ),
        (
            "<lora:detail:0.5> x <lora:detail:0.6>",
            "names the LoRA 'detail' twice; the webui takes the last weight for both",
        ),
        (
            "<lora:detail:0.5> x <lyco:detail>",
            "names the LoRA 'detail' twice; the webui takes the last weight for both",
        ),
    ],
)
def test_tags_with_which_the_webui_would_draw_without_loras(prompt: str, message: str) -> None:
    assert errors_of({"prompt": prompt}) == {"prompt": message}
    hires = {**HIRES, "hr_prompt": prompt}
    assert errors_of(hires) == {"hr_prompt": message}


def test_the_same_lora_in_both_passes_is_once_in_each() -> None:
    both = {**HIRES, "prompt": "<lora:detail:1>", "hr_prompt": "<lora:detail:0.5>"}
    assert parse(both).prompt_loras == ["detail"]
    hires = {**HIRES, "hr_prompt": "<lora:detail:1>", "loras": ["detail"]}
    assert "loras has as well" in errors_of(hires)["hr_prompt"]


def test_tags_where_networks_are_switched_off() -> None:
    request = parse({"prompt": "<lora:missing:1> x", "disable_extra_networks": True})
    assert request.prompt_loras == []
    assert request.notes == ["prompt: its tags are not used (disable_extra_networks)"]


def test_text_in_angle_brackets_stays_in_a_negative_prompt() -> None:
    assert parse({"negative_prompt": "<3:x>"}).payload["negative_prompt"] == "<3:x>"
    assert "no effect" in errors_of({"negative_prompt": "<lyco:x:1>"})["negative_prompt"]


# Comments and styles


@pytest.mark.parametrize("key", ["prompt", "negative_prompt", "hr_prompt", "hr_negative_prompt"])
def test_a_hash_in_a_prompt_is_drawn(key: str) -> None:
    request = parse({**HIRES, key: "red dress, #ff0000 hair, blue eyes"})
    assert request.payload["override_settings"] == {"enable_prompt_comments": False}
    assert request.payload[key] == "red dress, #ff0000 hair, blue eyes"
    assert request.notes == ["prompt: what follows a # is drawn (no comments)"]
    assert parse({"prompt": "no comment"}).payload["override_settings"] == {}


def test_comments_where_they_are_asked_for() -> None:
    asked = {"override_settings": {"enable_prompt_comments": True}}
    request = parse({**asked, "prompt": "<lora:detail:1>\n# <lora:missing:1>\nx"})
    assert request.payload["override_settings"] == {"enable_prompt_comments": True}
    assert (request.prompt_loras, request.notes) == (["detail"], [])


STYLES = {
    "a": ("{prompt} <lora:detail:1>", ""),
    "b": ("<lora:missing:1>", ""),
    "c": ("x # y", ""),
    "d": ("", "<lora:detail:1>"),
}


def test_tags_and_comments_of_styles() -> None:
    names = dataclasses.replace(NAMES, styles=STYLES)
    assert parse({"styles": ["a"]}, names=names).prompt_loras == ["detail"]
    assert "'missing' is baked" in errors_of({"styles": ["b"]}, names=names)["prompt"]
    twice = {"styles": ["a"], "prompt": "<lora:detail:1>"}
    assert "twice" in errors_of(twice, names=names)["prompt"]
    assert "as well" in errors_of({"styles": ["a"], "loras": ["detail"]}, names=names)["prompt"]
    settings = parse({"styles": ["c"]}, names=names).payload["override_settings"]
    assert settings == {"enable_prompt_comments": False}
    assert "negative_prompt" in errors_of({"styles": ["d"]}, names=names)


# Scripts of the webui's own page


@pytest.mark.parametrize(
    ("scripts", "fields"),
    [
        ({"Seed": {"args": [5, False, 9, 0.5, 256, 256]}}, {"seed": 5}),
        (
            {"seed": {"args": [5, True, 9, 0.5, 0, 0]}},
            {"seed": 5, "subseed": 9, "subseed_strength": 0.5},
        ),
        ({"Seed": {"args": [5]}}, {"seed": 5}),
        (
            {"Sampler": {"args": [12, "DPM++ 2M", "automatic"]}},
            {"steps": 12, "sampler_name": "DPM++ 2M", "scheduler": "Automatic"},
        ),
        (
            {"Refiner": {"args": [True, "second", 0.8]}},
            {"refiner_checkpoint": "second", "refiner_switch_at": 0.8},
        ),
    ],
)
def test_arguments_of_scripts_count_as_fields(
    scripts: dict[str, Any], fields: dict[str, Any]
) -> None:
    request = parse({"alwayson_scripts": scripts})
    assert fields.items() <= request.payload.items()
    assert "alwayson_scripts" not in request.payload
    assert any(f"taken as {', '.join(fields)}" in each for each in request.notes) or len(fields) < 3
    again = parse({**fields, "alwayson_scripts": scripts})
    assert fields.items() <= again.payload.items()


def test_a_refiner_that_is_switched_off() -> None:
    off = parse({"alwayson_scripts": {"Refiner": {"args": [False, "second", 0.8]}}})
    assert not any(key.startswith("refiner") for key in off.payload)


def test_a_script_that_contradicts_a_field() -> None:
    scripts = {"Sampler": {"args": [20, "DPM++ 2M", "Automatic"]}}
    errors = errors_of({"steps": 25, "alwayson_scripts": scripts})
    assert errors == {"alwayson_scripts.Sampler.steps": "contradicts the field steps"}


# What `make webui-check` asks of a real webui, held here as far as it needs none.


@pytest.mark.parametrize(("sent", "same"), [row[1:] for row in ACCEPTED], ids=lambda _: "")
def test_rows_for_a_real_webui(sent: dict[str, Any], same: dict[str, Any] | None) -> None:
    payload = parse(sent).payload
    settings = (same or {}).get("override_settings", {}).items()
    assert settings <= payload["override_settings"].items()
    for key in set(same or {}) - {"override_settings"}:
        assert (same or {})[key] == payload[key]


@pytest.mark.parametrize(("sent", "message"), [row[1:] for row in REFUSED], ids=lambda _: "")
def test_rows_that_a_real_webui_cannot_draw(sent: dict[str, Any], message: str) -> None:
    assert any(message in each for each in errors_of(sent).values())
