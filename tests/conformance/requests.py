"""Requests as clients send them, for a worker and a fresh webui: fields beside a base of prompt, size, steps and seed.

Each was tried on the real v1.9.3 (CPU, `small` checkpoint): what a worker draws is, bit by bit, what the webui draws
for the third part of its row; the refused ones end in a 500 there, or are drawn otherwise than asked.
"""

from __future__ import annotations

from typing import Any

Row = tuple[str, dict[str, Any], dict[str, Any] | None]
"""Name, what is sent, and what the webui itself is asked for the same picture (None: the same)."""

_HIRES: dict[str, Any] = {"enable_hr": True, "denoising_strength": 0.5, "hr_scale": 1.5}
_HEX = "red dress, #ff0000 hair, blue eyes"
_WHOLE = {"override_settings": {"enable_prompt_comments": False}}
_PAGE = {
    "Seed": {"args": [1, False, 5, 0.5, 0, 0]},
    "Refiner": {"args": [False, "", 0.8]},
    "Comments": {"args": []},
    "Extra options": {"args": []},
}
_SAME = {
    "hr_sampler_name": "Use same sampler",
    "hr_scheduler": "Use same scheduler",
    "hr_checkpoint_name": "Use same checkpoint",
}
_LEFTOVERS = {
    "hr_scale": 1.0,
    "hr_upscaler": "no such",
    "hr_prompt": "zzz",
    "hr_checkpoint_name": "no such",
    "hr_resize_x": 1001,
    "denoising_strength": 0.61,
}
_SEVERAL: dict[str, Any] = {
    "hr_additional_modules": [],
    "hr_second_pass_steps": 0,
    "forge_preset": None,
    "clip_skip": 1,
    "override_settings": {"CLIP_stop_at_last_layers": 1},
    "save_images": True,
}
_IDLE: dict[str, Any] = {"samples_save": True, "outdir_samples": "x", "show_progress_type": "Full"}
_2M = {"sampler_name": "DPM++ 2M"}

ACCEPTED: tuple[Row, ...] = (
    ("strings", {"steps": "4", "width": "64", "height": " 64 ", "cfg_scale": "7.5"}, None),
    ("false as a string", {"enable_hr": "false"}, None),
    ("true as text", {"tiling": "yes"}, None),
    ("true as 1", {"tiling": 1}, None),
    ("true as 1.0", {"tiling": 1.0}, None),
    ("a number as prompt", {"prompt": 2024}, None),
    ("leftovers of hires fix", _LEFTOVERS, None),
    ("nulls of hires fix", {"enable_hr": None, "hr_scale": None, "hr_prompt": None}, None),
    ("leftover of the refiner", {"refiner_checkpoint": "None", "refiner_switch_at": 0.8}, None),
    ("save_images", {"save_images": True, "do_not_save_samples": False}, None),
    ("force_task_id", {"force_task_id": "mine"}, None),
    ("scripts of the page", {"alwayson_scripts": _PAGE}, None),
    ("a client for several webuis", _SEVERAL, {}),
    ("settings of what is kept and shown", {"styles": [""], "override_settings": _IDLE}, {}),
    ("a negative seed, counted up", {"seed": -3, "batch_size": 3}, None),
    ("the greatest seed", {"seed": 2**64 - 1}, None),
    ("a negative variation seed", {"subseed": -7, "subseed_strength": 0.5}, None),
    ("strength beyond 1", {"subseed": 7, "subseed_strength": 1.5}, None),
    ("negative guidance", {"cfg_scale": -3}, None),
    ("much eta", {"eta": 12, "sampler_name": "Euler a"}, None),
    ("negative noise", {"s_noise": -2, "s_churn": 3, "sampler_name": "Euler"}, None),
    ("sides of 8 and 56", {"width": 8, "height": 56}, None),
    ("half the size", {**_HIRES, "hr_scale": 0.5}, None),
    ("no denoising", {**_HIRES, "denoising_strength": 0}, None),
    ("the same as the first pass", {**_HIRES, **_SAME}, _HIRES),
    (
        "a scheduler for the second pass",
        {
            **_HIRES,
            **_2M,
            "sampler_name": "DDIM",
            "scheduler": "Karras",
            "hr_sampler_name": "Euler",
        },
        None,
    ),
    ("automatic", {**_2M, "scheduler": "automatic"}, {**_2M, "scheduler": "Automatic"}),
    (
        "hires automatic",
        {**_HIRES, **_2M, "hr_scheduler": "automatic"},
        {**_HIRES, **_2M, "hr_scheduler": "Automatic"},
    ),
    ("a scheduler's name", {"sampler_name": "Euler", "scheduler": "sgm_uniform"}, None),
    ("before v1.9", {"sampler_name": "DPM++ 2M Karras"}, {**_2M, "scheduler": "Karras"}),
    ("#", {"prompt": _HEX}, {"prompt": _HEX, **_WHOLE}),
    ("# against it", {"negative_prompt": _HEX}, {"negative_prompt": _HEX, **_WHOLE}),
    (
        "comments",
        {"prompt": "red # blue", "override_settings": {"enable_prompt_comments": True}},
        None,
    ),
    ("after it", {"prompt": "red"}, None),
    ("text in brackets", {"negative_prompt": "<3:x>"}, None),
    ("clip skip 0", {"clip_skip": 0}, {}),
    ("a long prompt", {"prompt": "a red fox, " * 120}, None),
    ("tags switched off", {"prompt": "x <lora:no:1>", "disable_extra_networks": True}, None),
)

REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("a word as weight", {"prompt": "x <lora:detail:strong>"}, "is not a number"),
    ("block weights", {"prompt": "x <lora:detail:0.5:1,0,0>"}, "is not a number"),
    ("lbw", {"prompt": "x <lora:detail:1:lbw=NONE>"}, "makes nothing of"),
    ("a fifth argument", {"prompt": "x <lora:detail:1:1:2:9>"}, "makes nothing of"),
    ("no name", {"prompt": "x <lora:te=1>"}, "has no name"),
    ("twice", {"prompt": "<lora:detail:0.5> x <lora:detail:1>"}, "twice"),
    ("an unknown tag", {"prompt": "x <foo:bar>"}, "nothing that this worker has"),
    ("an unknown scheduler", {"scheduler": "Karas"}, "no such scheduler"),
    ("too few steps", {"sampler_name": "UniPC", "steps": 2}, "at least 3 steps"),
    ("one step", {"sampler_name": "DPM++ 2M SDE", "steps": 1}, "at least 2 steps"),
    ("a negative seed", {"sampler_name": "DPM++ SDE", "seed": -2}, "must not be negative"),
    ("a seed too great", {"seed": 2**64}, "must be at most"),
    (
        "too little for DDIM",
        {**_HIRES, "denoising_strength": 0.001, "hr_sampler_name": "DDIM"},
        "must be at least",
    ),
    ("a size between", {"width": 515}, "multiple of 8"),
    ("a legacy size", {"firstphase_width": 64}, "use hr_resize_x"),
)
