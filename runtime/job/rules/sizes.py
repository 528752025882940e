"""Pictures that go in, by their sizes alone: what the webui would fail on, enlarge beyond memory, or get wrong. Pure.

By modules/processing.py, images.py, upscaler.py and scripts/postprocessing_upscale.py of v1.9.3, with their arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runtime.errors import FieldError

Size = tuple[int, int]
"""Width and height in pixels, as a picture is seen: turned by its EXIF orientation."""
_CELL_PIXELS = 8


def check_init_pictures(
    given: Mapping[str, Any], sizes: Mapping[str, Size], limits: Mapping[str, int]
) -> Iterator[FieldError]:
    """img2img: each picture by the size that is drawn, and the mask by the pictures."""
    target = given.get("width", 512), given.get("height", 512)
    mode, most = given.get("resize_mode", 0), limits["input_pixels"]
    crops = given.get("inpaint_full_res", True) and "mask" in sizes
    pictures = {where: size for where, size in sizes.items() if where != "mask"}
    mask = sizes.get("mask")
    for where, size in pictures.items():
        made = _resized(size, target, covers=mode == 1)
        if mode in {1, 2} and not crops and (min(made) < 1 or made[0] * made[1] > most):
            what = f"is too long and narrow for resize_mode {mode}: {_show(made)} pixels on its way"
            yield FieldError(field=where, message=what)
        if mask and mask != size and (crops or mode):
            what = f"must have the picture's size {_show(size)}, not {_show(mask)}"
            yield FieldError(field="mask", message=f"{what}, with inpaint_full_res or resize_mode")
            return
        if mask and mode == 3 and not crops and size != target:
            what = f"3 with a mask needs a picture of {_show(target)} pixels, not {_show(size)}"
            yield FieldError(field="resize_mode", message=what)
    if len(set(pictures.values())) > 1 and (mode == 3 or crops):
        yield FieldError(
            field="init_images", message="must have one size, with a mask or resize_mode 3"
        )


def _resized(size: Size, target: Size, *, covers: bool) -> Size:
    """In whole pixels, as far as one side fits the target and the other covers it, or stays within."""
    (width, height), (across, down) = size, target
    is_wide = across / down <= width / height
    if is_wide == covers:
        return width * down // height, down
    return across, height * across // width


def upscaled(given: Mapping[str, Any], size: Size) -> tuple[Size, Size]:
    """What the upscaler makes of a picture, and what is left of it: whole cells, then cut to the size asked for."""
    width, height = size
    across, down = given.get("upscaling_resize_w", 512), given.get("upscaling_resize_h", 512)
    is_to_size = given.get("resize_mode", 0) == 1
    factor = max(across / width, down / height) if is_to_size else given.get("upscaling_resize", 2)
    made = _cells(width * factor), _cells(height * factor)
    return made, (across, down) if is_to_size and given.get("upscaling_crop", True) else made


def _cells(length: float) -> int:
    return int(min(length, 1e9) // _CELL_PIXELS * _CELL_PIXELS)


def check_upscaling(
    given: Mapping[str, Any], size: Size, limits: Mapping[str, int]
) -> Iterator[FieldError]:
    """extra-single-image: what comes out must fit, and must fill the size asked for."""
    made, left = upscaled(given, size)
    is_to_size = given.get("resize_mode", 0) == 1
    where = "upscaling_resize_w" if is_to_size else "upscaling_resize"
    if min(made) < _CELL_PIXELS:
        what = (
            f"makes {_show(made)} pixels of {_show(size)}, {_CELL_PIXELS} are the least of a side"
        )
        yield FieldError(field=where, message=what)
    elif made[0] * made[1] > (most := limits["upscaled_pixels"]):
        what = f"makes {_show(made)} pixels of {_show(size)}, at most {most} are allowed"
        yield FieldError(field=where, message=what)
    elif made[0] < left[0] or made[1] < left[1]:
        what = f"would leave a black edge: the webui makes {_show(made)} pixels, multiples of 8"
        yield FieldError(field=where, message=what)


def note_upscaling(given: Mapping[str, Any], size: Size) -> list[str]:
    """Where the size is another than asked for."""
    _, left = upscaled(given, size)
    if given.get("resize_mode", 0) == 1:
        asked = given.get("upscaling_resize_w", 512), given.get("upscaling_resize_h", 512)
    else:
        factor = given.get("upscaling_resize", 2)
        asked = int(size[0] * factor), int(size[1] * factor)
    if asked == left:
        return []
    why = "upscalers make multiples of 8, of the picture's own shape"
    return [f"image: {_show(left)} pixels instead of {_show(asked)}: {why}"]


def _show(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
