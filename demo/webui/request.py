"""Checks the body of a txt2img request as the webui's web framework (pydantic 1) does, with its messages."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def parse_txt2img(body: bytes) -> dict[str, Any]:
    """All fields of a request with their defaults; unknown ones are dropped in silence, as in the webui."""
    given = parse_json(body)
    if not isinstance(given, dict):
        raise InvalidRequestError(
            [_mistake(["body"], "value is not a valid dict", "type_error.dict")]
        )
    request, mistakes = {}, []
    for name, field in FIELDS.items():
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
