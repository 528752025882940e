"""PNG files as the API sends them: base64, with the infotext in a text chunk named `parameters`."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def encode_png(picture: NDArray[np.uint8], infotext: str | None = None) -> str:
    """A (height, width, 3) picture as base64 text."""
    made = Image.fromarray(picture)
    if infotext is not None:
        made.info["parameters"] = infotext
    return encode_picture(made)


def encode_picture(picture: Image.Image) -> str:
    """A picture as base64 text, with the texts that it bears."""
    chunks = PngInfo()
    for key, value in picture.info.items():
        if isinstance(key, str) and isinstance(value, str):
            chunks.add_text(key, value)
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=chunks)
    return base64.b64encode(file.getvalue()).decode()
