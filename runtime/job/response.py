"""What a job hands back: the webui's own answer, in the form asked for, in a size that arrives.

The SDK measures nothing, and a result above the endpoint's limit ends as COMPLETED without output.
"""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import JobError
from runtime.job.asked import OutputOptions
from runtime.job.bucket import Bucket

_SMALLER_QUALITIES = (75, 50)
_PREVIEW_SIDE, _PREVIEW_QUALITY = 256, 70
_EXIF_CHARS = 30_000
"""JPEG holds 64 KiB of it."""


class Picture(str):
    """A picture in base64 whose repr is short: the SDK formats every output for its log, twice.

    At 1024x1024 that took 20 ms of each job; as JSON it is the string that it is.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} characters of base64>"


def json_size(output: Mapping[str, Any]) -> int:
    """The bytes of the JSON that the SDK sends for this output.

    Base64 needs no escapes, so the pictures count by their length; they are megabytes, the rest is not.
    """
    images: Sequence[str] = output["images"]
    rest = {"output": {**output, "images": [""] * len(images)}}
    return len(json.dumps(rest, ensure_ascii=False).encode()) + sum(map(len, images))


def deliver(
    output: dict[str, Any],
    options: OutputOptions,
    *,
    infotexts: Sequence[str],
    job_id: str,
    limit_bytes: int,
    bucket: Bucket,
) -> dict[str, Any]:
    """Puts the pictures into the form that was asked for, and notes it in `bakery.output`.

    Args:
        output: With `images` in base64 and `bakery`; changed.
        options: What the request wants.
        infotexts: The generation parameters of each picture.
        job_id: The folder in the bucket.
        limit_bytes: The endpoint's limit for the JSON.
        bucket: Where `s3` puts them.

    Raises:
        JobError: it does not fit and the request allows nothing else, or the bucket failed.
    """
    originals: list[str] = output["images"]
    texts = [*infotexts, *[""] * len(originals)]
    made: dict[str, Any] = {"delivery": "base64", "format": "png"}
    output["bakery"]["output"] = made

    def remake(image_format: str, quality: int) -> None:
        output["images"] = [
            base64.b64encode(
                encode(base64.b64decode(each), image_format, quality=quality, infotext=text)
            ).decode()
            for each, text in zip(originals, texts, strict=False)
        ]
        made.update(format=image_format, quality=quality)

    if options.image_format != "png":
        remake(options.image_format, options.image_quality)
    size = json_size(output)
    if options.delivery == "s3" or (size > limit_bytes and options.if_too_large == "s3"):
        output["images"] = bucket.put(list(map(base64.b64decode, output["images"])), job_id)
        made["delivery"] = "s3"
        return output
    why = f"the result has {size} bytes, the endpoint takes {limit_bytes}"
    quality = options.image_quality
    qualities = [quality, *(each for each in _SMALLER_QUALITIES if each < quality)]
    while (size := json_size(output)) > limit_bytes:
        if options.if_too_large == "error":
            raise JobError("result_too_large", f"{why}; see the field if_too_large")
        if not qualities:
            raise JobError("result_too_large", f"{why}; {size} as {options.if_too_large}")
        remake(options.if_too_large, qualities.pop(0))
        made["why"] = why
    output["images"] = [Picture(each) for each in output["images"]]
    return output


def encode(data: bytes, image_format: str, *, quality: int, infotext: str) -> bytes:
    """Re-encodes as `jpeg` or `webp`, the generation parameters where the webui puts them (EXIF)."""
    from PIL import Image  # noqa: PLC0415  # 50 ms that only jobs with another format need

    with Image.open(io.BytesIO(data)) as picture:
        out = io.BytesIO()
        exif = _user_comment(infotext[:_EXIF_CHARS])
        picture.convert("RGB").save(out, image_format.upper(), quality=quality, exif=exif)
    return out.getvalue()


def make_preview(picture: str) -> str:
    """A JPEG in base64, small enough for a progress report, of one that the webui gave."""
    from PIL import Image  # noqa: PLC0415  # as above

    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        image.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
        out = io.BytesIO()
        image.convert("RGB").save(out, "JPEG", quality=_PREVIEW_QUALITY)
    return base64.b64encode(out.getvalue()).decode()


def _user_comment(text: str) -> bytes:
    """EXIF with a UserComment of the type UNDEFINED; Pillow would write BYTE, on which the webui's reader fails."""
    data = b"UNICODE\0" + text.encode("utf-16-be")
    pointer = struct.pack("<HHHIII", 1, 0x8769, 4, 1, 26, 0)
    comment = struct.pack("<HHHIII", 1, 0x9286, 7, len(data), 44, 0)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + pointer + comment + data
