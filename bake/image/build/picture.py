"""Whether a generated picture is one: size, not flat, not black, and drawn by the right model."""

from __future__ import annotations

import io
import re

_FLAT_DEVIATION = 2.0
"""Levels of 255; a NaN-black picture has 0, noise about 70, the plainest drawing above 10."""


def judge_picture(png: bytes, *, width: int, height: int, checkpoint_sha256: str) -> list[str]:
    """What is wrong with a picture that the webui drew; nothing if it is good.

    Args:
        png: The file, with the webui's `parameters` text in it.
        width: In pixels.
        height: In pixels.
        checkpoint_sha256: The webui writes its first ten digits as `Model hash`.
    """
    # Costs start time, and a bake seldom draws.
    from PIL import Image, ImageStat, UnidentifiedImageError  # noqa: PLC0415

    try:
        image = Image.open(io.BytesIO(png))
        image.load()
    except (UnidentifiedImageError, OSError, ValueError):
        return [f"the answer is no picture ({len(png)} bytes)"]
    problems = []
    if image.size != (width, height):
        problems.append(f"the picture is {image.width}x{image.height}, not {width}x{height}")
    statistics = ImageStat.Stat(image.convert("RGB"))
    if max(statistics.stddev) < _FLAT_DEVIATION:
        black = max(statistics.mean) < _FLAT_DEVIATION
        colour = "black" if black else f"of one colour ({statistics.mean[0]:.0f}, …)"
        cure = "; SDXL's own VAE does this in fp16: --no-half-vae or another `vae` cures it"
        problems.append(f"the picture is {colour}" + (cure if black else ""))
    found = re.search(r"Model hash: ([0-9a-fA-F]+)", str(image.info.get("parameters", "")))
    if found is None:
        problems.append("the picture's infotext names no model hash")
    elif not checkpoint_sha256.startswith(found[1].lower()):
        problems.append(
            f"the picture was drawn by model {found[1]}, not by {checkpoint_sha256[:10]}"
        )
    return problems
