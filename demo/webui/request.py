"""Checks the body of a request as the webui's web framework (pydantic 1) does, with its messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_NONE = "none is not an allowed value", "type_error.none.not_allowed"


class InvalidRequestError(ValueError):
    """Answered with 422; `detail` lists the mistakes."""

    def __init__(self, detail: list[dict[str, Any]]) -> None:
        super().__init__(str(detail))
        self.detail = detail


@dataclass(frozen=True)
class _Field:
    kind: Callable[[Any], Any]
    default: Any = None
    nullable: bool = True


class _Wrong(ValueError):
    """A value does not fit; arguments are pydantic's message and type."""


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise _Wrong("str type expected", "type_error.str")


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise _Wrong("value is not a valid integer", "type_error.integer") from None


def _real(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise _Wrong("value is not a valid float", "type_error.float") from None


def _truth(value: Any) -> bool:
    text = f"{value:g}" if isinstance(value, float) else str(value).lower()
    if text in ("true", "1", "on", "t", "y", "yes"):
        return True
    if text in ("false", "0", "off", "f", "n", "no"):
        return False
    raise _Wrong("value could not be parsed to a boolean", "type_error.bool")


def _list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    raise _Wrong("value is not a valid list", "type_error.list")


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise _Wrong("value is not a valid dict", "type_error.dict")


FIELDS = {
    "prompt": _Field(_text, ""),
    "negative_prompt": _Field(_text, ""),
    "styles": _Field(_list),
    "seed": _Field(_whole, -1),
    "subseed": _Field(_whole, -1),
    "subseed_strength": _Field(_real, 0),
    "seed_resize_from_h": _Field(_whole, -1),
    "seed_resize_from_w": _Field(_whole, -1),
    "sampler_name": _Field(_text),
    "scheduler": _Field(_text),
    "batch_size": _Field(_whole, 1),
    "n_iter": _Field(_whole, 1),
    "steps": _Field(_whole, 50),
    "cfg_scale": _Field(_real, 7.0),
    "width": _Field(_whole, 512),
    "height": _Field(_whole, 512),
    "restore_faces": _Field(_truth),
    "tiling": _Field(_truth),
    "do_not_save_samples": _Field(_truth, False),
    "do_not_save_grid": _Field(_truth, False),
    "eta": _Field(_real),
    "denoising_strength": _Field(_real),
    "s_min_uncond": _Field(_real),
    "s_churn": _Field(_real),
    "s_tmax": _Field(_real),
    "s_tmin": _Field(_real),
    "s_noise": _Field(_real),
    "override_settings": _Field(_mapping),
    "override_settings_restore_afterwards": _Field(_truth, True),
    "refiner_checkpoint": _Field(_text),
    "refiner_switch_at": _Field(_real),
    "disable_extra_networks": _Field(_truth, False),
    "firstpass_image": _Field(_text),
    "comments": _Field(_mapping),
    "enable_hr": _Field(_truth, False),
    "firstphase_width": _Field(_whole, 0),
    "firstphase_height": _Field(_whole, 0),
    "hr_scale": _Field(_real, 2.0),
    "hr_upscaler": _Field(_text),
    "hr_second_pass_steps": _Field(_whole, 0),
    "hr_resize_x": _Field(_whole, 0),
    "hr_resize_y": _Field(_whole, 0),
    "hr_checkpoint_name": _Field(_text),
    "hr_sampler_name": _Field(_text),
    "hr_scheduler": _Field(_text),
    "hr_prompt": _Field(_text, ""),
    "hr_negative_prompt": _Field(_text, ""),
    "force_task_id": _Field(_text),
    "sampler_index": _Field(_text, "Euler", nullable=False),
    "script_name": _Field(_text),
    "script_args": _Field(_list, [], nullable=False),
    "send_images": _Field(_truth, True, nullable=False),
    "save_images": _Field(_truth, False, nullable=False),
    "alwayson_scripts": _Field(_mapping, {}, nullable=False),
    "infotext": _Field(_text),
}


_HIRES = ("enable_hr", "firstphase_width", "firstphase_height")
IMG2IMG = {
    **{key: FIELDS[key] for key in FIELDS if not key.startswith("hr_") and key not in _HIRES},
    "init_images": _Field(_list),
    "resize_mode": _Field(_whole, 0),
    "denoising_strength": _Field(_real, 0.75),
    "image_cfg_scale": _Field(_real),
    "mask": _Field(_text),
    "mask_blur_x": _Field(_whole, 4),
    "mask_blur_y": _Field(_whole, 4),
    "mask_blur": _Field(_whole),
    "mask_round": _Field(_truth, True),
    "inpainting_fill": _Field(_whole, 0),
    "inpaint_full_res": _Field(_truth, True),
    "inpaint_full_res_padding": _Field(_whole, 0),
    "inpainting_mask_invert": _Field(_whole, 0),
    "initial_noise_multiplier": _Field(_real),
    "latent_mask": _Field(_text),
    "include_init_images": _Field(_truth, False, nullable=False),
}


def _share(value: Any) -> float:
    if not 0 <= (number := _real(value)) <= 1:
        raise _Wrong("ensure this value is between 0 and 1", "value_error.number.not_in_range")
    return number


def _mode(value: Any) -> int:
    if value not in (0, 1) or isinstance(value, bool):
        raise _Wrong("unexpected value; permitted: 0, 1", "value_error.const")
    return int(value)


EXTRAS = {
    "resize_mode": _Field(_mode, 0, nullable=False),
    "show_extras_results": _Field(_truth, True, nullable=False),
    "gfpgan_visibility": _Field(_share, 0, nullable=False),
    "codeformer_visibility": _Field(_share, 0, nullable=False),
    "codeformer_weight": _Field(_share, 0, nullable=False),
    "upscaling_resize": _Field(_real, 2, nullable=False),
    "upscaling_resize_w": _Field(_whole, 512, nullable=False),
    "upscaling_resize_h": _Field(_whole, 512, nullable=False),
    "upscaling_crop": _Field(_truth, True, nullable=False),
    "upscaler_1": _Field(_text, "None", nullable=False),
    "upscaler_2": _Field(_text, "None", nullable=False),
    "extras_upscaler_2_visibility": _Field(_share, 0, nullable=False),
    "upscale_first": _Field(_truth, False, nullable=False),
    "image": _Field(_text, "", nullable=False),
}


def parse_json(body: bytes) -> Any:
    """A request's JSON. Raises InvalidRequestError for an empty body and for what is not JSON."""
    if not body:
        raise InvalidRequestError([_mistake(["body"], "field required", "value_error.missing")])
    try:
        return json.loads(body)
    except UnicodeDecodeError:
        raise InvalidRequestError(
            [_mistake(["body"], "There was an error parsing the body", "value_error")]
        ) from None
    except json.JSONDecodeError as error:
        detail = _mistake(["body", error.pos], f"{error}", "value_error.jsondecode")
        detail["ctx"] = {
            "msg": error.msg,
            "doc": error.doc,
            "pos": error.pos,
            "lineno": error.lineno,
            "colno": error.colno,
        }
        raise InvalidRequestError([detail]) from None


def parse_body(body: bytes, fields: Mapping[str, _Field] = FIELDS) -> dict[str, Any]:
    """All fields of a request with their defaults; unknown ones are dropped in silence, as in the webui."""
    given = parse_json(body)
    if not isinstance(given, dict):
        raise InvalidRequestError(
            [_mistake(["body"], "value is not a valid dict", "type_error.dict")]
        )
    request: dict[str, Any] = {}
    mistakes = []
    for name, field in fields.items():
        value = given.get(name, field.default)
        if value is None:
            if name in given and not field.nullable:
                mistakes.append(_mistake(["body", name], *_NONE))
            request[name] = None
            continue
        try:
            request[name] = field.kind(value)
        except _Wrong as wrong:
            mistakes.append(_mistake(["body", name], *wrong.args))
    if mistakes:
        raise InvalidRequestError(mistakes)
    return request


def _mistake(place: list[Any], message: str, kind: str) -> dict[str, Any]:
    return {"loc": place, "msg": message, "type": kind}
