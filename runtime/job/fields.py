"""Every field of a request, as data: type, bounds, the webui's own default, and what it means.

`runtime.job.values` checks by these tables, `docs/reference.py` writes the schema and the manual from them. The
names, defaults and meanings of the webui's fields are those of its API (v1.9.3, modules/api/models.py and
processing.py): txt2img, img2img and extra-single-image.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from runtime.errors import SettingsError

Kind = Literal[
    "integer",
    "number",
    "boolean",
    "string",
    "name",
    "identifier",
    "strings",
    "object",
    "list",
    "entries",
    "image",
    "images",
]
Section = Literal["picture", "sampling", "hires", "init", "upscaling", "model", "output", "neutral"]

LIMITS = {
    "side": (2048, "width and height, in pixels"),
    "pixels": (2048 * 2048, "pixels of one picture, after hires fix"),
    "steps": (150, "steps, and hires steps"),
    "batch_size": (8, "pictures drawn at once"),
    "n_iter": (8, "batches, one after another"),
    "images": (16, "batch_size x n_iter"),
    "prompt_chars": (10000, "characters of each prompt"),
    "loras": (8, "LoRAs of one request"),
    "embeddings": (8, "entries of `embeddings`"),
    "input_pixels": (4096 * 4096, "pixels of one picture that goes in"),
    "upscaled_pixels": (4096 * 4096, "pixels of a picture after upscaling"),
}
"""Default and meaning of each limit. An image sets its own; `$BAKERY_MAX_<NAME>` lowers them."""


def limits_of(given: Mapping[str, int], lowered: Mapping[str, int]) -> dict[str, int]:
    """The image's limits (`given`), or the operator's (`lowered`, `runtime.settings`) where those are lower.

    Raises:
        SettingsError: the image names a limit that does not exist.
    """
    unknown = sorted(set(given) - set(LIMITS))
    if unknown:
        raise SettingsError(f"worker.json has unknown limits: {', '.join(unknown)}")
    limits = {**{name: default for name, (default, _) in LIMITS.items()}, **given}
    return {name: min(limit, lowered.get(name, limit)) for name, limit in limits.items()}


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field."""

    name: str
    kind: Kind
    meaning: str
    section: Section
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    limit: str | None = None
    """The key of `LIMITS` that is the maximum."""
    multiple_of: int | None = None
    choices: tuple[str, ...] = ()
    nullable: bool = False
    only: tuple[Any, ...] | None = None
    """The sole values that are accepted, of fields that do nothing in a worker."""
    form: tuple[str, str] | None = None
    """A regular expression for the whole text, and the same in words."""
    empty: tuple[str, ...] = ()
    """Spellings that ask for nothing, as null does."""
    note: str = ""
    """What the answer says where another value than the default was asked for."""

    def unbounded(self) -> Field:
        """The same where nothing is made of it: any value of the type will do."""
        return dataclasses.replace(
            self, minimum=None, maximum=None, limit=None, multiple_of=None, nullable=True
        )


def _field(name: str, kind: Kind, section: Section, meaning: str, **more: Any) -> Field:
    return Field(name=name, kind=kind, section=section, meaning=meaning, **more)


def field_like(name: str, present: Any) -> Field:
    """A field for an override that the operator added, typed like the webui's present value."""
    kinds: dict[type, Kind] = {bool: "boolean", int: "number", float: "number", list: "strings"}
    return _field(name, kinds.get(type(present), "string"), "model", "added by the operator")


def _neutral(name: str, kind: Kind, meaning: str, *only: Any) -> Field:
    return _field(name, kind, "neutral", meaning, default=only[0], only=only)


_SIDE: Any = {"default": 512, "minimum": 8, "limit": "side", "multiple_of": 8}
_TARGET: Any = {"default": 0, "minimum": 0, "limit": "side", "multiple_of": 8, "nullable": True}
_FROM: Any = {"default": -1, "limit": "side"}
_SEED: Any = {"default": -1, "minimum": -(2**63), "maximum": 2**64 - 1, "nullable": True}
"""What torch takes."""
_RATIO: Any = {"minimum": 0, "maximum": 1}
_TEXT: Any = {"default": "", "limit": "prompt_chars"}
_TEXT_HR: Any = {**_TEXT, "nullable": True}
_COUNT: Any = {"default": 1, "minimum": 1}
_OR_NULL: Any = {"nullable": True}
_SWITCH: Any = {"default": False, "nullable": True}
_BLUR: Any = {"minimum": 0, "maximum": 64}
_OLD = "; names from before v1.9 such as `DPM++ 2M Karras` are split into sampler and scheduler"

# fmt: off
FIELDS: tuple[Field, ...] = (
    _field("prompt", "string", "picture", "what to draw", **_TEXT),
    _field("negative_prompt", "string", "picture", "what not to draw", **_TEXT),
    _field("styles", "strings", "picture", "names of the webui's saved prompt styles", **_OR_NULL),
    _field("width", "integer", "picture", "pixels", **_SIDE),
    _field("height", "integer", "picture", "pixels", **_SIDE),
    _field("batch_size", "integer", "picture", "pictures drawn at once", **_COUNT, limit="batch_size"),
    _field("n_iter", "integer", "picture", "batches, one after another", **_COUNT, limit="n_iter"),
    _field("seed", "integer", "picture", "-1 or null: a random one, which the answer names", **_SEED),
    _field("subseed", "integer", "picture", "seed of the variation; -1 or null: a random one", **_SEED),
    _field("subseed_strength", "number", "picture", "share of the variation", default=0),
    _field("seed_resize_from_w", "integer", "picture", "keep the composition of this width; 0 and below: off", **_FROM),
    _field("seed_resize_from_h", "integer", "picture", "keep the composition of this height; 0 and below: off", **_FROM),
    _field("tiling", "boolean", "picture", "a picture that can be tiled", **_OR_NULL),
    _field("restore_faces", "boolean", "picture", "run the face restorer", **_OR_NULL),

    _field("steps", "integer", "sampling", "sampling steps", default=50, minimum=1, limit="steps"),
    _field("cfg_scale", "number", "sampling", "guidance", default=7),
    _field("sampler_name", "name", "sampling", "a sampler of the webui" + _OLD, **_OR_NULL),
    _field("scheduler", "name", "sampling", "a scheduler of the webui", **_OR_NULL),
    _field("sampler_index", "name", "sampling", "older spelling of `sampler_name`, used where that is missing",
           default="Euler", **_OR_NULL),
    _field("eta", "number", "sampling", "noise of ancestral samplers", **_OR_NULL),
    _field("s_min_uncond", "number", "sampling", "negative guidance minimum sigma", **_OR_NULL),
    _field("s_churn", "number", "sampling", "sigma churn", **_OR_NULL),
    _field("s_tmin", "number", "sampling", "sigma tmin", **_OR_NULL),
    _field("s_tmax", "number", "sampling", "sigma tmax; 0: no maximum", **_OR_NULL),
    _field("s_noise", "number", "sampling", "sigma noise", **_OR_NULL),

    _field("enable_hr", "boolean", "hires", "draw again, larger (hires fix)", **_SWITCH),
    _field("hr_scale", "number", "hires", "factor", default=2, minimum=0, **_OR_NULL),
    _field("hr_resize_x", "integer", "hires", "target width; 0: by factor", **_TARGET),
    _field("hr_resize_y", "integer", "hires", "target height; 0: by factor", **_TARGET),
    _field("hr_upscaler", "name", "hires", "an upscaler or latent mode of the webui", **_OR_NULL),
    _field("hr_second_pass_steps", "integer", "hires", "steps of the second pass; 0: as the first",
           default=0, minimum=0, limit="steps", **_OR_NULL),
    _field("denoising_strength", "number", "hires",
           "how far the second pass may go; needed with enable_hr. With init_images: how far from them, 0.75 if left out",
           **_RATIO, **_OR_NULL),
    _field("hr_sampler_name", "name", "hires", "sampler of the second pass" + _OLD, empty=("Use same sampler",), **_OR_NULL),
    _field("hr_scheduler", "name", "hires", "scheduler of the second pass", empty=("Use same scheduler",), **_OR_NULL),
    _field("hr_prompt", "string", "hires", "prompt of the second pass; empty: the same", **_TEXT_HR),
    _field("hr_negative_prompt", "string", "hires", "its negative prompt; empty: the same", **_TEXT_HR),
    _field("hr_checkpoint_name", "name", "hires", "a baked checkpoint for the second pass",
           empty=("Use same checkpoint",), **_OR_NULL),

    _field("init_images", "images", "init", "one picture to draw over, or one for each of `batch_size`",
           limit="batch_size", **_OR_NULL),
    _field("resize_mode", "integer", "init",
           "0: stretch to width and height, 1: cut to their shape, 2: fill up, 3: stretch as a latent picture."
           " Of an upscaling: 0: by `upscaling_resize`, 1: to `upscaling_resize_w` and `_h`", default=0, minimum=0, maximum=3),
    _field("initial_noise_multiplier", "number", "init", "noise before the first step", **_OR_NULL),
    _field("image_cfg_scale", "number", "init", "guidance by the picture, of instruct-pix2pix checkpoints", **_OR_NULL),
    _field("mask", "image", "init", "where to draw: white, or what is opaque if it has transparency", **_OR_NULL),
    _field("mask_blur", "integer", "init", "pixels, both ways", **_BLUR, **_OR_NULL),
    _field("mask_blur_x", "integer", "init", "pixels", default=4, **_BLUR),
    _field("mask_blur_y", "integer", "init", "pixels", default=4, **_BLUR),
    _field("mask_round", "boolean", "init", "a mask of all or nothing, else of grays", default=True),
    _field("inpainting_fill", "integer", "init",
           "what is under the mask before: 0: its surroundings' colours, 1: the picture, 2: noise, 3: nothing",
           default=0, minimum=0, maximum=3),
    _field("inpaint_full_res", "boolean", "init", "draw the mask's part of the picture at full size", default=True),
    _field("inpaint_full_res_padding", "integer", "init", "pixels around it that are seen as well",
           default=0, minimum=0, limit="side", **_OR_NULL),
    _field("inpainting_mask_invert", "boolean", "init", "draw where the mask is black", **_SWITCH),

    _field("image", "image", "upscaling", "the picture to make larger", **_OR_NULL),
    _field("upscaler_1", "name", "upscaling", "an upscaler of the webui", empty=("None",), **_OR_NULL),
    _field("upscaler_2", "name", "upscaling", "a second one, blended over the first", empty=("None",), **_OR_NULL),
    _field("extras_upscaler_2_visibility", "number", "upscaling", "how much of the second", default=0, **_RATIO),
    _field("upscaling_resize", "number", "upscaling", "factor", default=2, minimum=0),
    _field("upscaling_resize_w", "integer", "upscaling", "width, with `resize_mode` 1", default=512, minimum=1),
    _field("upscaling_resize_h", "integer", "upscaling", "height, with `resize_mode` 1", default=512, minimum=1),
    _field("upscaling_crop", "boolean", "upscaling", "cut off what is more, with `resize_mode` 1", default=True),
    _field("gfpgan_visibility", "number", "upscaling", "share of GFPGAN's faces", default=0, **_RATIO),
    _field("codeformer_visibility", "number", "upscaling", "share of CodeFormer's faces", default=0, **_RATIO),
    _field("codeformer_weight", "number", "upscaling", "0: CodeFormer's most, 1: its least", default=0, **_RATIO),

    _field("checkpoint", "name", "model", "a baked checkpoint; the image's first if left out", **_OR_NULL),
    _field("clip_skip", "integer", "model", "CLIP_stop_at_last_layers", minimum=0, maximum=12, **_OR_NULL),
    _field("loras", "entries", "model", "LoRAs to apply: baked ones by `name`, others by `url` or `civitai`",
           limit="loras", **_OR_NULL),
    _field("embeddings", "entries", "model",
           "embeddings that prompts say by their `name`: from an address by `url` or `civitai`, for this job; baked ones need no entry",
           limit="embeddings", **_OR_NULL),
    _field("refiner_checkpoint", "name", "model", "a baked checkpoint that finishes",
           empty=("None", "none"), **_OR_NULL),
    _field("refiner_switch_at", "number", "model", "share of steps before it", **_RATIO, **_OR_NULL),
    _field("disable_extra_networks", "boolean", "model", "ignore `<lora:…>` in prompts", **_SWITCH),
    _field("override_settings", "object", "model", "the webui's settings for this job", **_OR_NULL),

    _field("image_format", "string", "output", "`png` as the webui made it; `jpeg` and `webp` are made here",
           default="png", choices=("png", "jpeg", "webp")),
    _field("image_quality", "integer", "output", "of `jpeg` and `webp`", default=90, minimum=1, maximum=100),
    _field("delivery", "string", "output", "`base64` in the result, or `s3`: links to the operator's bucket",
           default="base64", choices=("base64", "s3")),
    _field("if_too_large", "string", "output",
           "a result above the endpoint's limit: `error`, or made smaller as `jpeg` or `webp`, or by `s3`",
           default="error", choices=("error", "jpeg", "webp", "s3")),
    _field("previews", "boolean", "output",
           "progress reports carry the picture as it is then: `preview`, a JPEG of at most 256 pixels a side", **_SWITCH),

    _field("do_not_save_samples", "boolean", "neutral", "either; nothing is ever kept", **_SWITCH),
    _field("do_not_save_grid", "boolean", "neutral", "either; nothing is ever kept", **_SWITCH),
    _field("override_settings_restore_afterwards", "boolean", "neutral", "either; settings never stay", default=True,
           note="settings last for one job; name them in each request", **_OR_NULL),
    _field("send_images", "boolean", "neutral", "either; pictures are always sent", default=True,
           note="the pictures are in the answer always"),
    _field("save_images", "boolean", "neutral", "either; pictures are never kept", default=False,
           note="a worker keeps no pictures; they are in the answer"),
    _field("force_task_id", "string", "neutral", "any; the job has an id already",
           note="not used; the job has an id already", **_OR_NULL),
    _field("alwayson_scripts", "object", "neutral",
           "`Seed`, `Sampler` and `Refiner` as the webui's page has them: their arguments count as the fields that"
           " they stand for; scripts of baked extensions with their list `args`; others without arguments", default={}),
    _neutral("script_name", "string", "no scripts", None, ""),
    _neutral("script_args", "list", "no scripts", [], None),
    _neutral("infotext", "string", "send the fields themselves", None, ""),
    _neutral("firstphase_width", "integer", "use hr_resize_x", 0),
    _neutral("firstphase_height", "integer", "use hr_resize_y", 0),
    _neutral("firstpass_image", "string", "use init_images", None),
    _neutral("latent_mask", "string", "its API fails on it; use mask", None),
    _neutral("include_init_images", "boolean", "pictures that went in are not sent back", False, None),
    _field("upscale_first", "boolean", "neutral", "either; faces are restored after upscaling", default=False),
    _field("show_extras_results", "boolean", "neutral", "either; pictures are always sent", default=True),
    _neutral("comments", "object", "no comments go in", None, {}),
    _field("seed_enable_extras", "boolean", "neutral", "false where `subseed_strength` or `seed_resize_from_w` asks for"
           " something is an error; the webui's API does not know it", default=True, **_OR_NULL),
    _neutral("hr_additional_modules", "list", "Forge has further modules, this webui none", None, [], ["Use same choices"]),
)

LORA_FIELDS: tuple[Field, ...] = (
    _field("name", "string", "model", "a baked one, or what to call a fetched one; of an embedding the word that prompts say"),
    _field("url", "string", "model", "https address of a safetensors file on an allowed host, or CivitAI's or Hugging Face's page of it", **_OR_NULL),
    _field("civitai", "identifier", "model", "a CivitAI model version's number, or its AIR (`+FILE` picks a file)",
           form=(r"[0-9]{1,18}|[A-Za-z0-9_:-]{0,80}civitai:[A-Za-z0-9@+.]{1,80}",
                 "a model version's number or an AIR"), **_OR_NULL),
    _field("scale", "number", "model", "strength", default=1, **_OR_NULL),
    _field("weight", "number", "model", "another word for `scale`", **_OR_NULL),
    _field("hash", "string", "model",
           "SHA-256 of the file, or its first 10 or more digits (CivitAI's AutoV2), or the 12 of its AutoV3",
           form=(r"[0-9a-fA-F]{10,64}", "10 to 64 hexadecimal digits of the SHA-256, or the 12 of AutoV3"), **_OR_NULL),
)

EMBEDDING_FIELDS = tuple(each for each in LORA_FIELDS if each.name not in {"scale", "weight"})

_OVERRIDES: tuple[Field, ...] = (
    _field("CLIP_stop_at_last_layers", "integer", "model", "clip skip", minimum=0, maximum=12),
    _field("sd_model_checkpoint", "name", "model", "a baked checkpoint"),
    _field("sd_vae", "name", "model", "the baked VAE, `Automatic` or `None`"),
    _field("eta_noise_seed_delta", "integer", "model", "ENSD", minimum=-(2**31), maximum=2**31 - 1),
    _field("eta_ancestral", "number", "model", "eta of ancestral samplers"),
    _field("eta_ddim", "number", "model", "eta of DDIM"),
    _field("token_merging_ratio", "number", "model", "token merging", **_RATIO),
    _field("token_merging_ratio_hr", "number", "model", "in hires fix", **_RATIO),
    _field("randn_source", "string", "model", "noise from", choices=("GPU", "CPU", "NV")),
    _field("emphasis", "string", "model", "prompt weights", choices=("None", "Ignore", "Original", "No norm")),
    _field("enable_prompt_comments", "boolean", "model", "`#` in a prompt hides the rest of the line; off in a worker"),
    _field("sgm_noise_multiplier", "boolean", "model", "SGM noise multiplier"),
    _field("always_discard_next_to_last_sigma", "boolean", "model", "discard a sigma"),
    _field("sd_noise_schedule", "string", "model", "noise schedule", choices=("Default", "Zero Terminal SNR")),
    _field("pad_cond_uncond", "boolean", "model", "pad prompts to the same length"),
    _field("comma_padding_backtrack", "integer", "model", "tokens", minimum=0),
    _field("sdxl_crop_left", "integer", "model", "pixels", minimum=0, maximum=8192),
    _field("sdxl_crop_top", "integer", "model", "pixels", minimum=0, maximum=8192),
    _field("face_restoration_model", "string", "model", "face restorer", choices=("CodeFormer", "GFPGAN")),
    _field("code_former_weight", "number", "model", "its weight", **_RATIO),
    _neutral("samples_format", "string", "use the field image_format", "png"),
    _neutral("return_grid", "boolean", "pictures come one by one", False),
    _neutral("enable_pnginfo", "boolean", "pictures always hold their parameters", True),
)
# fmt: on

BY_NAME: Mapping[str, Field] = {each.name: each for each in FIELDS}
OVERRIDES: Mapping[str, Field] = {each.name: each for each in _OVERRIDES}
"""The settings that a request may override; the operator adds names with `$BAKERY_OVERRIDE_SETTINGS`."""

KEEPING = r"temp_dir|(samples|grid)_save|save_.*|outdir_.*"
"""Settings of the webui's about what it keeps: here nothing."""
IDLE_OVERRIDES = re.compile(KEEPING + r"|live_preview.*|show_progress.*")
"""Those of the webui's that change nothing of a job here: these, and how its own page shows progress."""

PREVIEWS: Mapping[str, Any] = {
    "live_previews_enable": True,
    "show_progress_type": "Approx cheap",
    "show_progress_every_n_steps": 1,
}
"""The settings of a job with `previews`: of the webui's ways the one that needs no model, and 1 ms a picture."""

SYNONYMS: Mapping[str, str] = {
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "cfg": "cfg_scale",
    "sampling_steps": "steps",
    "sampling_method": "sampler_name",
    "schedule_type": "scheduler",
    "num_images_per_prompt": "batch_size",
    "num_images": "batch_size",
    "model": "checkpoint",
    "sd_model_checkpoint": "checkpoint",
    "lora": "loras",
    "sampler": "sampler_name",
    "scheduler_name": "scheduler",
    "upscaler": "hr_upscaler",
    "init_image": "init_images",
    "image_url": "init_images",
    "mask_image": "mask",
    "strength": "denoising_strength",
    "denoise": "denoising_strength",
    "denoising": "denoising_strength",
    "hires": "enable_hr",
    "hires_fix": "enable_hr",
    "enable_hires": "enable_hr",
    "hires_steps": "hr_second_pass_steps",
    "hires_upscaler": "hr_upscaler",
    "hires_scale": "hr_scale",
    "format": "image_format",
}
"""Names from other tools that the webui would ignore in silence."""
