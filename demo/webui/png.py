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
    chunks = PngInfo()
    if infotext is not None:
        chunks.add_text("parameters", infotext)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", pnginfo=chunks)
    return base64.b64encode(file.getvalue()).decode()
