"""Making pictures larger, as the webui's `modules.postprocessing` and its script `Upscale` (v1.9.3).

By the same names, for `runtime.boot.jobs`, and with the same faults: what was made is kept under a key that lacks the
picture's size; sizes become multiples of 8; an edge that the upscaler leaves is black.
"""

from __future__ import annotations

import hashlib
import html
from types import SimpleNamespace
from typing import Any

from PIL import Image

from demo.webui.around import Models
from demo.webui.img2img import LANCZOS

_PLAIN = {"Lanczos": LANCZOS, "Nearest": Image.Resampling.NEAREST}
_KEPT = 5
upscale_cache: dict[Any, Image.Image] = {}
scripts = SimpleNamespace(scripts_postproc=SimpleNamespace(image_changed=upscale_cache.clear))


def run_extras(
    request: dict[str, Any], picture: Image.Image, models: Models
) -> tuple[Image.Image, str]:
    """The picture and its account as HTML. Raises AssertionError for an unknown upscaler."""
    info: dict[str, Any] = {}
    if picture.mode not in ("RGB", "RGBA"):
        picture = picture.convert("RGB")
    first, second = request["upscaler_1"], request["upscaler_2"]
    for name in (first, second):
        assert name in models.upscalers(), f"could not find upscaler named {name}"
    if first != "None":
        made = _upscale(request, picture, first, info, models)
        info["Postprocess upscaler"] = first
        visibility = request["extras_upscaler_2_visibility"]
        if second != "None" and visibility > 0:
            made = Image.blend(made, _upscale(request, picture, second, info, models), visibility)
            info["Postprocess upscaler 2"] = second
        picture = made
    for name in ("GFPGAN", "CodeFormer"):
        if visibility := request[f"{name.lower()}_visibility"]:
            restored = models.restore_faces(picture, name)
            picture = Image.blend(picture, restored, visibility)
            info[f"{name} visibility"] = visibility
    text = ", ".join(f"{key}: {value}" for key, value in info.items())
    picture.info["postprocessing"] = text
    return picture, f"<p>{html.escape(text)}</p>"


def _upscale(
    request: dict[str, Any],
    picture: Image.Image,
    name: str,
    info: dict[str, Any],
    models: Models,
) -> Image.Image:
    width, height = request["upscaling_resize_w"], request["upscaling_resize_h"]
    to_size = request["resize_mode"] == 1
    factor = request["upscaling_resize"]
    if to_size:
        factor = max(width / picture.width, height / picture.height)
        info["Postprocess upscale to"] = f"{width}x{height}"
    else:
        info["Postprocess upscale by"] = factor
    key = (hashlib.sha256(picture.tobytes()).digest(), name, factor, to_size, width, height)
    made = upscale_cache.pop(key, None)
    if made is None:
        size = (int(picture.width * factor // 8 * 8), int(picture.height * factor // 8 * 8))
        # Of the picture's own size first, as the real one's; then to whole cells.
        whole = (int(picture.width * factor), int(picture.height * factor))
        is_plain = name in _PLAIN
        made = picture.resize(whole, _PLAIN[name]) if is_plain else models.enlarge(picture, name)
        made = made if made.size == size else made.resize(size, LANCZOS)
    upscale_cache[key] = made
    if len(upscale_cache) > _KEPT:
        upscale_cache.pop(next(iter(upscale_cache)))
    if to_size and request["upscaling_crop"]:
        ground = Image.new("RGB", (width, height))
        ground.paste(made, (width // 2 - made.width // 2, height // 2 - made.height // 2))
        made = ground
        info["Postprocess crop to"] = f"{width}x{height}"
    return made
