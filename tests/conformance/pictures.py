"""What is asked with pictures: each field of img2img and of extra-single-image with its edges, and kinds of pictures."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageDraw

from tests.conformance.cases import BASE, Case

Row = tuple[str, dict[str, Any], str]


def draw(
    width: int = 64, height: int = 64, *, mode: str = "RGB", file: str = "PNG", **save: Any
) -> str:
    """A picture of its own for each size: colours that run, shapes, and something in the alpha channel."""
    image = Image.new("RGBA", (width, height))
    chance = random.Random(width * 1000 + height)
    for y in range(height):
        for x in range(width):
            image.putpixel((x, y), (x * 255 // width, y * 255 // height, chance.randrange(90), 255))
    pen = ImageDraw.Draw(image)
    pen.ellipse((width // 4, height // 4, width // 2, height // 2), fill=(250, 240, 20, 255))
    pen.rectangle((width // 2, height // 2, width - 1, height - 1), fill=(20, 30, 200, 60))
    made = image if mode == "RGBA" else image.convert(mode)
    out = io.BytesIO()
    made.save(out, file, **save)
    return base64.b64encode(out.getvalue()).decode()


def mask(width: int = 64, height: int = 64, *, mode: str = "L", box: Any = (10, 14, 40, 50)) -> str:
    """White (or opaque) in the box, gray around it."""
    image = Image.new("L", (width, height))
    pen = ImageDraw.Draw(image)
    if box:
        left, top, right, bottom = box
        pen.rectangle((left - 3, top - 3, right + 3, bottom + 3), fill=90)
        pen.rectangle(box, fill=255)
    if mode == "RGBA":
        rgba = Image.new("RGBA", (width, height), (9, 9, 9, 0))
        rgba.putalpha(image)
        image = rgba
    else:
        image = image.convert(mode)
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def _turned(orientation: int, file: str = "JPEG") -> str:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return draw(96, 48, file=file, exif=exif.tobytes())


PICTURE = draw()
IMG2IMG: dict[str, Any] = {**BASE, "init_images": [PICTURE], "steps": 5, "subseed": 3}
INPAINT: dict[str, Any] = {**IMG2IMG, "mask": mask()}
UPSCALE: dict[str, Any] = {"image": PICTURE, "upscaler_1": "Lanczos"}
_VALUES: dict[str, list[Any]] = {
    "denoising_strength": [0, 0.01, 0.3, 0.999, 1],
    "steps": [1, 2, 20],
    "resize_mode": [0, 1, 2, 3],
    "width": [32, 96, 128],
    "height": [40, 128],
    "initial_noise_multiplier": [None, 1, 0.9, 1.3],
    "image_cfg_scale": [None, 1.5],
    "batch_size": [2],
    "n_iter": [2],
    "subseed_strength": [0.4],
    "cfg_scale": [1, 12],
    "tiling": [True],
    "styles": [[]],
    "eta": [0.5],
    "include_init_images": [False],
    "enable_hr": [False],
}
_MASK_VALUES: dict[str, list[Any]] = {
    "mask_blur": [None, 0, 1, 9],
    "mask_blur_x": [0, 12],
    "mask_blur_y": [0, 12],
    "mask_round": [True, False],
    "inpainting_fill": [0, 1, 2, 3],
    "inpaint_full_res": [True, False],
    "inpaint_full_res_padding": [None, 0, 8, 400],
    "inpainting_mask_invert": [0, 1, False, True, None],
    "batch_size": [2],
    "denoising_strength": [0, 0.4, 1],
}
_UPSCALE_VALUES: dict[str, list[Any]] = {
    "upscaler_1": ["Lanczos", "Nearest"],
    "upscaling_resize": [0.5, 1, 1.7, "2", 4],
    "upscaling_resize_w": [100],
    "upscaling_crop": [True, False],
    "extras_upscaler_2_visibility": [0, 0.3],
    "upscale_first": [True, False],
    "show_extras_results": [True, False],
}


def cases() -> Iterator[Case]:
    """Each field with its edges, alone."""
    for base, values, name in (
        (IMG2IMG, _VALUES, "img2img"),
        (INPAINT, _MASK_VALUES, "inpaint"),
        ({**INPAINT, "inpaint_full_res": False}, _MASK_VALUES, "inpaint whole"),
        (UPSCALE, _UPSCALE_VALUES, "upscale"),
    ):
        yield Case(name=name, value=base)
        for key, several in values.items():
            for value in several:
                yield Case(name=f"{name} {key}={value!r}", value={**base, key: value})
    yield from _kinds()
    yield from _masks()
    yield from _upscalings()


def _kinds() -> Iterator[Case]:
    """Pictures as they come."""
    for name, picture in (
        ("a data URL", f"data:image/png;base64,{PICTURE}"),
        ("JPEG", draw(file="JPEG")),
        ("WebP", draw(mode="RGBA", file="WEBP", lossless=True)),
        ("gray", draw(mode="L")),
        ("two colours", draw(mode="1")),
        ("palette", draw(mode="P")),
        ("alpha", draw(mode="RGBA")),
        ("wide", draw(150, 40)),
        ("tall", draw(40, 150)),
        ("odd sides", draw(67, 61)),
        *((f"turned {number}", _turned(number)) for number in range(1, 9)),
        ("turned PNG", _turned(6, "PNG")),
    ):
        for mode in (0, 1, 2, 3):
            changes = {"init_images": [picture], "resize_mode": mode}
            yield Case(name=f"{name}, mode {mode}", value={**IMG2IMG, **changes})
        if not name.startswith("turned"):
            yield Case(name=f"upscaled {name}", value={**UPSCALE, "image": picture})
    both = {"init_images": [draw(), draw(64, 72)], "batch_size": 2, "n_iter": 2}
    yield Case(name="two pictures", value={**IMG2IMG, **both})
    lines = "\n".join(PICTURE[i : i + 76] for i in range(0, len(PICTURE), 76))
    yield Case(name="base64 in lines", value={**IMG2IMG, "init_images": [lines]})


def _masks() -> Iterator[Case]:
    for full in (True, False):
        base = {**INPAINT, "inpaint_full_res": full}
        for name, changes in (
            ("an alpha mask", {"mask": mask(mode="RGBA")}),
            ("an RGB mask", {"mask": mask(mode="RGB")}),
            ("softly", {"mask": mask(mode="RGBA"), "mask_round": False}),
            ("a mask at the edge", {"mask": mask(box=(0, 0, 5, 60))}),
            ("all of it", {"mask": mask(box=(0, 0, 64, 64))}),
            ("a larger picture", {"init_images": [draw(120, 90)], "mask": mask(120, 90)}),
            ("two pictures", {"init_images": [draw(), PICTURE], "batch_size": 2}),
            ("drawn larger", {"width": 128, "height": 96}),
            ("noise of many", {"inpainting_fill": 2, "batch_size": 2, "n_iter": 2}),
        ):
            yield Case(name=f"{name}, full_res {full}", value={**base, **changes})
    for mode in (1, 2):
        larger = {"init_images": [draw(120, 90)], "mask": mask(120, 90), "resize_mode": mode}
        yield Case(
            name=f"mask, mode {mode}", value={**INPAINT, "inpaint_full_res": False, **larger}
        )
    other = {"mask": mask(32, 32, box=(4, 4, 20, 20)), "inpaint_full_res": False}
    yield Case(name="a smaller mask", value={**INPAINT, **other})


def _upscalings() -> Iterator[Case]:
    size = {"resize_mode": 1, "upscaling_resize_w": 160, "upscaling_resize_h": 96}
    yield Case(name="to a size", value={**UPSCALE, **size})
    yield Case(name="to a size, whole", value={**UPSCALE, **size, "upscaling_crop": False})
    two = {"upscaler_2": "Nearest", "extras_upscaler_2_visibility": 0.4}
    yield Case(name="two upscalers", value={**UPSCALE, **two})
    yield Case(name="odd sides", value={**UPSCALE, "image": draw(67, 61)})
    # Twice the same pixels in a row, in another shape.
    plain = [Image.new("RGB", size, (90, 120, 30)) for size in ((64, 32), (32, 64))]
    for image in plain:
        out = io.BytesIO()
        image.save(out, "PNG")
        picture = base64.b64encode(out.getvalue()).decode()
        yield Case(name=f"one colour {image.size}", value={**UPSCALE, "image": picture})


def samplers(names: list[str], schedulers: list[str]) -> Iterator[Case]:
    """Each sampler with few steps, and with each scheduler."""
    for name in names:
        for steps, strength in ((1, 0.5), (2, 0.9), (3, 0.9), (4, 0.9), (8, 0.5), (8, 0)):
            changes = {"sampler_name": name, "steps": steps, "denoising_strength": strength}
            yield Case(name=f"{name}, {steps} at {strength}", value={**IMG2IMG, **changes})
        for scheduler in schedulers:
            both = {"sampler_name": name, "scheduler": scheduler}
            yield Case(name=f"{name} / {scheduler}", value={**IMG2IMG, **both})


def refused() -> list[Row]:
    """What the real webui draws otherwise than asked, or fails on; and what the worker says of it."""
    return [
        ("no white in the mask", {**INPAINT, "mask": mask(box=None)}, "nothing to draw in it"),
        (
            "a mask of another size",
            {**INPAINT, "mask": mask(32, 32)},
            "must have the picture's size",
        ),
        ("a mask without a picture", {**BASE, "mask": mask()}, "without init_images"),
        (
            "fewer pictures than the batch",
            {**IMG2IMG, "init_images": [PICTURE] * 2, "batch_size": 3},
            "one for each of batch_size",
        ),
        (
            "more than the batch",
            {**IMG2IMG, "init_images": [PICTURE] * 2},
            "one for each of batch_size",
        ),
        ("hires fix", {**IMG2IMG, "enable_hr": True}, "no effect with init_images"),
        (
            "gray with alpha",
            {**IMG2IMG, "init_images": [draw(mode="LA")]},
            "transparency of a kind",
        ),
        ("CMYK", {**IMG2IMG, "init_images": [draw(mode="CMYK", file="JPEG")]}, "CMYK"),
        ("16 bits of gray", {**IMG2IMG, "init_images": [draw(mode="I;16")]}, "16 bits"),
        (
            "an upscaler of latents",
            {**UPSCALE, "upscaler_1": "Latent"},
            "no upscaler of that name is baked",
        ),
        ("no upscaler", {"image": PICTURE}, "is needed"),
        (
            "a black edge",
            {**UPSCALE, "resize_mode": 1, "upscaling_resize_w": 100, "upscaling_resize_h": 50},
            "black edge",
        ),
        (
            "steps that DDIM does not walk",
            {**IMG2IMG, "sampler_name": "DDIM", "steps": 2, "denoising_strength": 0.5},
            "DDIM needs at least 3 steps",
        ),
        (
            "a latent mask that does not fit",
            {**INPAINT, "inpaint_full_res": False, "resize_mode": 3, "width": 128},
            "needs a picture of 128 x 64",
        ),
        (
            "as thin as a hair",
            {**IMG2IMG, "init_images": [draw(600, 1)], "resize_mode": 2},
            "too long and narrow",
        ),
    ]
