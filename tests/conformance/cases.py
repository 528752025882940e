"""What is asked: each field and its edges, samplers and schedulers, what shapes the state of a webui."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.requests import ACCEPTED
from tests.unit.test_request import OFFICIAL_README, SEED_PROJECT, WEBUIAPI

BASE: dict[str, Any] = {
    "prompt": "a red fox in the snow, (big:1.2), morning light",
    "negative_prompt": "blurry, [low quality]",
    "steps": 3,
    "width": 64,
    "height": 64,
    "seed": 1,
    "sampler_name": "Euler a",
}
HIRES: dict[str, Any] = {
    "enable_hr": True,
    "denoising_strength": 0.6,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
}
# Longer than one chunk of 75 tokens, with a comma near its end: what comma_padding_backtrack moves.
LONG = (
    "a red fox in the snow, "
    + "old tree and cold river " * 14
    + "far hill, a small house on the edge of it"
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request, and what the webui itself is asked for the same picture."""

    name: str
    value: dict[str, Any]
    same_as: dict[str, Any] = field(default_factory=dict)
    """The webui's own request, where it is not `value`."""

    @property
    def endpoint(self) -> str:
        if "image" in self.value:
            return "extra-single-image"
        return "img2img" if "init_images" in self.value else "txt2img"

    @property
    def payload(self) -> dict[str, Any]:
        return self.same_as or self.value


def _case(name: str, same_as: dict[str, Any] | None = None, **changes: Any) -> Case:
    return Case(
        name=name, value={**BASE, **changes}, same_as={**BASE, **same_as} if same_as else {}
    )


FIELD_VALUES: dict[str, list[Any]] = {
    "prompt": [
        "",
        "x",
        LONG,
        "[red:blue:0.5] fox",
        "[red|blue] fox",
        "red AND blue",
        "red BREAK blue",
        "((a)) [b] (c:0.3)",
    ],
    "negative_prompt": ["", "x", LONG],
    "styles": [None, []],
    "width": [8, 32, 56, 72, 128],
    "height": [8, 32, 56, 72, 128],
    "batch_size": [2, 3],
    "n_iter": [2, 3],
    "seed": [0, "5", 2**32, 2**53 + 1, 2**63 - 1, -2, -(2**40)],
    "subseed": [0, 7, 2**32 - 1],
    "subseed_strength": [0],
    "seed_resize_from_w": [-1, 0, 32, 128],
    "seed_resize_from_h": [-1, 0, 32, 128],
    "tiling": [None, True, False],
    "restore_faces": [None, False],
    "steps": [1, "2", 7],
    "cfg_scale": [0, 1, 1.0, "7.5", 30, -1],
    "sampler_index": ["Euler", "DPM++ 2M"],
    "scheduler": [None, "Automatic", "automatic", "Karras", "karras"],
    "eta": [None, 0, 0.5, 1],
    "s_min_uncond": [None, 0, 1, 4],
    "s_churn": [None, 0, 5],
    "s_tmin": [None, 0, 1],
    "s_tmax": [None, 0, 10],
    "s_noise": [None, 0, 1.1],
    "enable_hr": [None, False],
    "disable_extra_networks": [True, False],
    "save_images": [False],
    "send_images": [True],
    "do_not_save_samples": [True, False],
    "do_not_save_grid": [True, False],
    "override_settings": [None, {}],
    "seed_enable_extras": [True, False],
    "refiner_switch_at": [None, 0.8],
    "hr_scale": [1, 2],
}
HIRES_VALUES: dict[str, list[Any]] = {
    "hr_scale": [0.5, 1, 1.5, 2],
    "hr_resize_x": [96],
    "hr_resize_y": [96],
    "hr_upscaler": [None, "Latent (nearest)", "Lanczos", "None"],
    "hr_second_pass_steps": [0, 1, 5],
    "denoising_strength": [0, 0.3, 1],
    "hr_sampler_name": [None, "DPM++ 2M", "Use same sampler"],
    "hr_scheduler": [None, "Karras", "Use same scheduler"],
    "hr_prompt": ["", "a blue fox", "[a:b:1.5] fox"],
    "hr_negative_prompt": ["", "green"],
    "hr_checkpoint_name": [None, "tiny-b", "Use same checkpoint"],
    "n_iter": [2],
    "batch_size": [2],
}
OVERRIDES: dict[str, list[Any]] = {
    "CLIP_stop_at_last_layers": [1, 2, 12],
    "sd_model_checkpoint": ["tiny", "tiny-b"],
    "eta_noise_seed_delta": [0, 31337],
    "eta_ancestral": [0, 0.5],
    "eta_ddim": [0.5],
    "token_merging_ratio": [0, 0.5],
    "token_merging_ratio_hr": [0.5],
    "randn_source": ["CPU", "GPU", "NV"],
    "emphasis": ["None", "Ignore", "Original", "No norm"],
    "sgm_noise_multiplier": [True],
    "always_discard_next_to_last_sigma": [True],
    "sd_noise_schedule": ["Zero Terminal SNR"],
    "pad_cond_uncond": [True],
    "comma_padding_backtrack": [0, 20, 74],
    "sdxl_crop_left": [64],
    "sdxl_crop_top": [64],
    "samples_format": ["png"],
    "return_grid": [False],
    "enable_pnginfo": [True],
}


def fields() -> Iterator[Case]:
    """Every field of the webui's with its edges, alone."""
    yield _case("base")
    for name, values in FIELD_VALUES.items():
        for value in values:
            yield _case(f"{name}={value!r:.40}", **{name: value})
    for name, values in HIRES_VALUES.items():
        for value in values:
            yield _case(f"hires {name}={value!r:.40}", **{**HIRES, name: value})
    for name, values in OVERRIDES.items():
        for value in values:
            prompt = (
                LONG if name in {"comma_padding_backtrack", "pad_cond_uncond"} else BASE["prompt"]
            )
            more = HIRES if name.endswith("_hr") else {}
            yield _case(
                f"override {name}={value!r}", prompt=prompt, override_settings={name: value}, **more
            )
    yield _case(
        "ours clip_skip", {"override_settings": {"CLIP_stop_at_last_layers": 2}}, clip_skip=2
    )
    other = {"override_settings": {"sd_model_checkpoint": "tiny-b"}}
    yield _case("ours checkpoint", other, checkpoint="tiny-b")
    yield _case(
        "ours loras",
        {"prompt": f"<lora:tiny-lora:0.5>{BASE['prompt']}"},
        loras=[{"name": "tiny-lora", "scale": 0.5}],
    )
    yield _case(
        "comment",
        {"prompt": "a fox #ff0000, blue", "override_settings": {"enable_prompt_comments": False}},
        prompt="a fox #ff0000, blue",
    )
    for strength in (0.5, 1):
        yield _case(f"subseed_strength={strength}", subseed=7, subseed_strength=strength)
    yield _case("refiner", refiner_checkpoint="tiny-b", refiner_switch_at=0.5)


def samplers(names: list[str], schedulers: list[str]) -> Iterator[Case]:
    """Each sampler alone and with each scheduler."""
    for name in names:
        yield _case(f"{name}", sampler_name=name, steps=4)
        for scheduler in schedulers:
            yield _case(f"{name} / {scheduler}", sampler_name=name, scheduler=scheduler, steps=4)


def history() -> tuple[list[Case], list[Case]]:
    """Requests that each leave something behind in a webui; every pair of a list is asked one after the other.

    The first list is the tiny checkpoint's, the second SDXL's, which takes longer.
    """
    short = {**BASE, "prompt": LONG, "negative_prompt": "x", "steps": 2}

    def case(name: str, **changes: Any) -> Case:
        return Case(name=name, value={**short, **changes})

    def override(name: str, value: Any, **changes: Any) -> Case:
        return case(name, override_settings={name: value}, **changes)

    xl: dict[str, Any] = {
        "override_settings": {"sd_model_checkpoint": "smallxl"},
        "prompt": "a fox",
        "steps": 1,
    }
    tiny = [
        case("plain"),
        case("lora", prompt=f"{LONG}<lora:tiny-lora:1>"),
        case("lora weaker", prompt=f"{LONG}<lora:tiny-lora:0.5>"),
        case("text lora", prompt=f"{LONG}<lora:tiny-text:1>"),
        case("bias lora", prompt=f"{LONG}<lora:tiny-bias:1>"),
        case("bundled", prompt=f"bakeryword {LONG}<lora:tiny-bundled:1>"),
        case("no networks", disable_extra_networks=True),
        override("comma_padding_backtrack", 0),
        override("CLIP_stop_at_last_layers", 2),
        override("emphasis", "None", prompt=f"((red)) {LONG}"),
        override("token_merging_ratio", 0.6),
        override("sd_noise_schedule", "Zero Terminal SNR"),
        override("sd_model_checkpoint", "tiny-b"),
        case(
            "rescaled other",
            override_settings={
                "sd_model_checkpoint": "tiny-b",
                "sd_noise_schedule": "Zero Terminal SNR",
            },
        ),
        case("tiling", tiling=True),
        case("hires", **{**HIRES, "hr_scale": 1.5}),
        case(
            "hires loras",
            prompt=f"{LONG}<lora:tiny-lora:1>",
            hr_prompt=f"{LONG}<lora:tiny-text:1>",
            **{**HIRES, "hr_scale": 1.5},
        ),
        case("refiner", refiner_checkpoint="tiny-b", refiner_switch_at=0.5),
    ]
    large = [
        case("xl", **xl),
        case("xl lora", **{**xl, "prompt": f"{xl['prompt']}<lora:xl-lora:1>"}),
        case(
            "xl cropped",
            **{**xl, "override_settings": {**xl["override_settings"], "sdxl_crop_top": 64}},
        ),
        case("xl hires", **xl, **HIRES),
        case("xl hires smaller", **xl, **{**HIRES, "hr_scale": 1.5}),
        case("plain"),
    ]
    return tiny, large


def clients() -> list[Case]:
    """Requests as clients send them: what is accepted, and the drop-in clients' own, made small."""
    small = {**{key: BASE[key] for key in ("steps", "width", "height")}, "seed": 1}
    ours = {"loras", "clip_skip", "checkpoint"}
    seed_project = {key: value for key, value in SEED_PROJECT.items() if key not in ours} | small
    settings = {"sd_model_checkpoint": "tiny-b", "CLIP_stop_at_last_layers": 2}
    return [
        *(_case(name, same_as, **sent) for name, sent, same_as in ACCEPTED),
        Case(
            name="the official README's",
            value={**OFFICIAL_README, **small},
            same_as={**OFFICIAL_README, **small, "sampler_name": "DPM++ 2M", "scheduler": "Karras"},
        ),
        Case(name="webuiapi's", value={**WEBUIAPI, **small}),
        Case(
            name="the seed project's",
            value={**seed_project, "checkpoint": "tiny-b", "clip_skip": 2},
            same_as={**seed_project, "override_settings": settings},
        ),
    ]


def walk(count: int) -> list[int]:
    """A closed walk over `count` requests in which each ordered pair, twins too, follows one another once."""
    following = [list(range(count)) for _ in range(count)]
    path, found = [0], []
    while path:
        if following[path[-1]]:
            path.append(following[path[-1]].pop())
        else:
            found.append(path.pop())
    return found[::-1]
