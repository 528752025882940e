"""What a request is for: text, a picture to draw over, one to make larger; and which fields have no use in it. Pure."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from runtime.errors import FieldError
from runtime.job.fields import BY_NAME, Field

Endpoint = Literal["txt2img", "img2img", "extra-single-image"]
"""Of the webui's API, which a request goes to."""
UPSCALING: Endpoint = "extra-single-image"
_NEEDED: Mapping[str, str] = {"img2img": "init_images", UPSCALING: "image"}
_ENDPOINTS = ("txt2img", *_NEEDED)
_OF_A_MASK = {name for name in BY_NAME if name.startswith(("mask_", "inpaint"))}
OF_AN_UPSCALING: Mapping[str, Field] = {
    name: field
    for name, field in BY_NAME.items()
    if field.section in {"upscaling", "output"} or name == "resize_mode"
} | {name: BY_NAME[name] for name in ("upscale_first", "show_extras_results")}


def open_envelope(value: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], Iterator[FieldError]]:
    """The fields in `{"api": {"method", "endpoint"}, "payload": {…}}`, as clients of another worker send them."""
    if set(value) != {"api", "payload"}:
        return value, iter(())
    api, payload = value["api"], value["payload"]
    fields = payload if isinstance(payload, dict) else {}
    return fields, _check_envelope(api if isinstance(api, dict) else {}, payload)


def _check_envelope(api: Mapping[str, Any], payload: object) -> Iterator[FieldError]:
    endpoint = str(api.get("endpoint")).strip("/").removeprefix("sdapi/v1/")
    if not isinstance(payload, dict):
        yield FieldError(field="payload", message="must be an object with the request's fields")
    elif api.get("method") != "POST" or endpoint not in _ENDPOINTS:
        what = f"this worker has POST of /sdapi/v1/{', '.join(_ENDPOINTS)} only"
        yield FieldError(field="api", message=what)
    elif (found := choose_endpoint(payload)) != endpoint:
        needed = _NEEDED.get(endpoint)
        what = f"needs the field {needed}" if needed else f"has no field {_NEEDED[found]}"
        yield FieldError(field="api.endpoint", message=f"{endpoint} {what}")


def choose_endpoint(value: Mapping[Any, Any]) -> Endpoint:
    """What the fields ask for."""
    if value.get("init_images") is not None:
        return "img2img"
    return "txt2img" if value.get("image") in (None, "") else UPSCALING


@functools.cache
def fields_off(endpoint: Endpoint, *, has_hires: bool, has_mask: bool) -> Mapping[str, str]:
    """Fields of which the webui makes nothing in such a request, with what would switch them on."""
    off: dict[str, str] = {}
    for name, field in BY_NAME.items():
        if field.section == "upscaling" and name != "image":
            off[name] = "image"
        elif field.section == "hires" and name != "enable_hr" and not has_hires:
            off[name] = "enable_hr"
        elif name in _OF_A_MASK and not has_mask:
            off[name] = "mask"
        elif field.section == "init" and endpoint == "txt2img" and field.kind[:5] != "image":
            off[name] = "init_images"
    if endpoint == "img2img":
        off.pop("denoising_strength", None)
    return off


@functools.cache
def table_of(endpoint: Endpoint, *, has_hires: bool, has_mask: bool) -> Mapping[str, Field]:
    """Every field, those without use unbounded: any value of their type will do."""
    off = fields_off(endpoint, has_hires=has_hires, has_mask=has_mask)
    return {name: e.unbounded() if name in off else e for name, e in BY_NAME.items()}


def check_pictures_asked(given: Mapping[str, Any], endpoint: Endpoint) -> Iterator[FieldError]:
    """What fields must be, or must not be, where pictures are drawn over."""
    if endpoint == "txt2img":
        if given.get("mask"):
            yield FieldError(field="mask", message="has no effect without init_images")
        return
    for key, why in (
        ("image", "is the picture of an upscaling, which has no init_images"),
        ("enable_hr", "has no effect with init_images"),
    ):
        if given.get(key):
            yield FieldError(field=key, message=why)
    # With fewer than batch_size the webui draws as many as there are.
    count = len(given.get("init_images", "?"))
    if count not in {1, given.get("batch_size", 1)}:
        what = f"must be one picture, or one for each of batch_size, not {count}"
        yield FieldError(field="init_images", message=what)
    blur = given.get("mask_blur")
    for key in ("mask_blur_x", "mask_blur_y"):
        # Who sends every field sends these two's default; it is mask_blur that the webui then draws with.
        if blur is not None and given.get(key, blur) not in {blur, BY_NAME[key].default}:
            yield FieldError(field=key, message="contradicts mask_blur")


def check_upscalers(given: Mapping[str, Any]) -> Iterator[FieldError]:
    """An upscaling must do something, and nothing in vain."""
    has_faces = given.get("gfpgan_visibility") or given.get("codeformer_visibility")
    if "upscaler_1" not in given and (not has_faces or "upscaler_2" in given):
        yield FieldError(field="upscaler_1", message="is needed")
    if given.get("resize_mode", 0) > 1:
        yield FieldError(field="resize_mode", message="must be 0 or 1 for an upscaling")


def note_upscalers(given: Mapping[str, Any]) -> list[str]:
    """Fields of which the webui makes nothing, for want of another one."""
    is_to_size = given.get("resize_mode", 0) == 1
    by_size = ("upscaling_resize_w", "upscaling_resize_h", "upscaling_crop")
    off = dict.fromkeys(by_size if not is_to_size else (), "resize_mode 1")
    off |= {"upscaling_resize": "resize_mode 0"} if is_to_size else {}
    for name, switch in (
        ("upscaler_2", "extras_upscaler_2_visibility"),
        ("extras_upscaler_2_visibility", "upscaler_2"),
        ("codeformer_weight", "codeformer_visibility"),
    ):
        off |= {} if given.get(switch) else {name: switch}
    default = {name: OF_AN_UPSCALING[name].default for name in off}
    return [
        f"{name}: not used without {off[name]}"
        for name in off
        if given.get(name, default[name]) != default[name]
    ] + ["previews: an upscaling has no steps"] * bool(given.get("previews"))
