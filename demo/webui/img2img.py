"""Pictures that are drawn over, as the webui's `StableDiffusionProcessingImg2Img.init` takes them (v1.9.3).

With its faults: a mask with nothing in it draws over the whole picture; fewer pictures than the batch make the batch
smaller; transparency that is not RGBA's is lost. For a VAE's encoder stands the mean colour of each cell.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from demo.webui.decoder import FIELDS, LATENT_CHANNELS, LATENT_SIZE

LANCZOS = Image.Resampling.LANCZOS
_FILL, _ORIGINAL = 0, 1
_WHITE = "#ffffff"


class EncodedImageError(ValueError):
    """Answered with 500."""


def read_picture(text: str) -> Image.Image:
    """As the API's `decode_base64_to_image`; no address is fetched. Raises EncodedImageError."""
    if text.startswith("data:image/"):
        text = text.split(";")[1].split(",")[1]
    try:
        picture: Image.Image = Image.open(io.BytesIO(base64.b64decode(text)))
    except Exception:  # noqa: BLE001  # as upstream, whatever it is
        raise EncodedImageError from None
    try:
        picture = ImageOps.exif_transpose(picture) or picture
        if picture.mode in ("RGB", "P") and isinstance(picture.info.get("transparency"), bytes):
            picture = picture.convert("RGBA")
    except Exception:  # noqa: BLE001  # as upstream
        return picture
    return picture


@dataclass(kw_only=True)
class Init:
    """What a drawing begins from."""

    latents: list[NDArray[np.float32]]
    latent_mask: NDArray[np.float32] | None = None
    """(16, 16, 1): 1 where it is drawn."""
    overlays: list[Image.Image] = field(default_factory=list)
    paste_to: tuple[int, int, int, int] | None = None


def prepare(request: dict[str, Any], mask: Image.Image | None, extra: dict[str, Any]) -> Init:
    """Changes `batch_size` as the webui does; `extra` goes into the infotext."""
    extra["Denoising strength"] = request["denoising_strength"]
    size = request["width"], request["height"]
    made = Init(latents=[])
    drawn = overlay_mask = region = None
    if mask is not None:
        drawn = overlay_mask = _blurred(_binary(mask, request), request, extra)
        region = drawn.getbbox() if request["inpaint_full_res"] else None
        if region is not None:
            region = _grown(region, request["inpaint_full_res_padding"] or 0, size, drawn.size)
            made.paste_to = (region[0], region[1], region[2] - region[0], region[3] - region[1])
            drawn = resize(2, drawn.crop(region), *size)
            extra["Inpaint area"] = "Only masked"
            extra["Masked area padding"] = request["inpaint_full_res_padding"] or 0
        elif request["inpaint_full_res"]:
            drawn = overlay_mask = None
        else:
            drawn = overlay_mask = resize(request["resize_mode"], drawn, *size)
    pictures = [_prepared(read_picture(text), request, region) for text in request["init_images"]]
    for whole, picture in pictures:
        if overlay_mask is not None and drawn is not None:
            made.overlays.append(_around(whole, overlay_mask))
            if request["inpainting_fill"] == _FILL:
                extra["Masked content"] = "fill"
        made.latents.append(_encode(picture))
    if len(pictures) == 1:
        made.latents *= request["batch_size"]
        made.overlays *= request["batch_size"]
    elif len(pictures) <= request["batch_size"]:
        request["batch_size"] = len(pictures)
    else:
        count, most = len(pictures), request["batch_size"]
        raise RuntimeError(f"bad number of images passed: {count}; expecting {most} or less")
    if drawn is not None:
        cells = np.asarray(drawn.convert("L").resize((LATENT_SIZE, LATENT_SIZE)), np.float32) / 255
        rounded = np.around(cells) if request["mask_round"] else cells
        latent_mask = rounded[..., None].astype(np.float32)
        made.latent_mask = latent_mask
        if request["inpainting_fill"] not in (_FILL, _ORIGINAL):
            made.latents = [each * (1 - latent_mask) for each in made.latents]
    return made


def _prepared(
    picture: Image.Image, request: dict[str, Any], region: tuple[int, int, int, int] | None
) -> tuple[Image.Image, Image.Image]:
    """The whole picture as the overlay needs it, and what of it is drawn over."""
    size = request["width"], request["height"]
    if picture.mode == "RGBA":
        ground = Image.new("RGBA", picture.size, _WHITE)
        ground.paste(picture, mask=picture)
        picture = ground
    picture = picture.convert("RGB")
    if region is not None:
        return picture, resize(2, picture.crop(region), *size)
    if request["resize_mode"] != 3:
        picture = resize(request["resize_mode"], picture, *size)
    return picture, picture


def _binary(mask: Image.Image, request: dict[str, Any]) -> Image.Image:
    if mask.mode == "RGBA" and mask.getextrema()[-1] != (255, 255):
        alpha = mask.getchannel("A")
        mask = alpha.point(lambda x: 255 if x > 128 else 0) if request["mask_round"] else alpha
    mask = mask.convert("L")
    return ImageOps.invert(mask) if request["inpainting_mask_invert"] else mask


def _blurred(mask: Image.Image, request: dict[str, Any], extra: dict[str, Any]) -> Image.Image:
    blur = request["mask_blur"]
    across = request["mask_blur_x"] if blur is None else blur
    down = request["mask_blur_y"] if blur is None else blur
    if across > 0 or down > 0:
        extra["Mask blur"] = across if across == down else None
        mask = mask.filter(ImageFilter.GaussianBlur((across, down)))
    return mask


def _grown(
    region: tuple[int, int, int, int], padding: int, size: tuple[int, int], whole: tuple[int, int]
) -> tuple[int, int, int, int]:
    """With its padding, and to the shape that is drawn as far as the picture goes."""
    left, top = max(region[0] - padding, 0), max(region[1] - padding, 0)
    right, bottom = min(region[2] + padding, whole[0]), min(region[3] + padding, whole[1])
    width, height = right - left, bottom - top
    if width * size[1] > height * size[0]:
        height = min(width * size[1] // size[0], whole[1])
        top = min(max(top - (height - (bottom - top)) // 2, 0), whole[1] - height)
    else:
        width = min(height * size[0] // size[1], whole[0])
        left = min(max(left - (width - (right - left)) // 2, 0), whole[0] - width)
    return left, top, left + width, top + height


def resize(mode: int, picture: Image.Image, width: int, height: int) -> Image.Image:
    """0: stretch, 1: cover and cut, else: fit and fill up."""
    if mode == 0:
        return picture.resize((width, height), LANCZOS)
    is_wide = width / height <= picture.width / picture.height
    if is_wide == (mode == 1):
        made = (picture.width * height // picture.height, height)
    else:
        made = (width, picture.height * width // picture.width)
    ground = picture.resize((width, height), LANCZOS)
    ground.paste(picture.resize(made, LANCZOS), ((width - made[0]) // 2, (height - made[1]) // 2))
    return ground


def _around(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """What stays of the picture: transparent where it is drawn."""
    if mask.size != picture.size:
        mask = mask.resize(picture.size, LANCZOS)
    kept = picture.convert("RGBA")
    kept.putalpha(ImageOps.invert(mask))
    return kept


def _encode(picture: Image.Image) -> NDArray[np.float32]:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    cells = np.asarray(square.resize((LATENT_SIZE, LATENT_SIZE), Image.Resampling.BOX), np.float32)
    latent = np.zeros((LATENT_SIZE, LATENT_SIZE, LATENT_CHANNELS), np.float32)
    colours = (cells - 128) / 127.5
    latent[..., FIELDS:] = np.concatenate([colours, colours], axis=-1)
    return latent


def overlaid(picture: NDArray[np.uint8], init: Init, index: int) -> NDArray[np.uint8]:
    """The drawing under what stays of the picture, at the picture's own size."""
    if index >= len(init.overlays):
        return picture
    overlay = init.overlays[index]
    image = Image.fromarray(picture)
    if init.paste_to is not None:
        left, top, width, height = init.paste_to
        ground = Image.new("RGBA", overlay.size)
        ground.paste(resize(1, image, width, height), (left, top))
        image = ground
    image = image.convert("RGBA")
    image.alpha_composite(overlay)
    return np.asarray(image.convert("RGB"))
