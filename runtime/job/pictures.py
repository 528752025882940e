"""Pictures that go into a job: by base64, data URL or https address; known by their headers before anybody decodes them.

They stay in memory while the job runs; nothing of them is logged or kept. The webui turns them by their EXIF
orientation itself, and has the last word on their insides.
"""

from __future__ import annotations

import base64
import io
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.clock import clock
from runtime.errors import FieldError, JobError
from runtime.files.errors import RETRYABLE, WeightsError
from runtime.files.fetch import fetch_url
from runtime.files.http import Timeouts
from runtime.files.policy import HostPolicy
from runtime.files.sniff import SNIFF_BYTES, describe, identify_start
from runtime.job.asked import Pictures, Request
from runtime.job.rules.scripts import put
from runtime.job.rules.sizes import (
    Size,
    check_init_pictures,
    check_upscaling,
    note_upscaling,
    upscaled,
)
from runtime.job.rules.tasks import UPSCALING
from runtime.log import log
from runtime.settings import Settings

_FORMATS = ("PNG", "JPEG", "WEBP")
_BROKEN = "is broken: its parts do not fit together, or the end is missing"
_MODES = {"1", "L", "P", "RGB", "RGBA"}
_ORIENTATION = 0x0112
_BYTES_IN_MB = 1_000_000


def prepare_pictures(
    request: Request,
    settings: Settings,
    limits: Mapping[str, int],
    *,
    deadline: float,
    cancelled: threading.Event,
) -> Pictures:
    """Every picture of a request, fetched where it is an address; blocks meanwhile.

    Raises:
        JobError: `invalid_request` or `picture_unavailable`, naming each field.
    """
    wrong, code = [], "invalid_request"
    found: dict[str, str] = {}
    sizes: dict[str, Size] = {}
    for where, text in request.pictures.items():
        try:
            is_address = text[:8].lower().startswith(("http:", "https:"))
            if is_address:
                data = _fetch(text, settings, deadline, cancelled)
                plain = base64.b64encode(data).decode()
            else:
                plain, data = decode(text)
            sizes[where] = read_size(data, limits["input_pixels"])
        except WeightsError as error:
            log("ERROR", "picture", error.what, kind=error.kind)
            code = "picture_unavailable" if error.kind in RETRYABLE else code
            wrong.append(FieldError(field=where, message=_words(error, settings)))
        except ValueError as error:
            wrong.append(FieldError(field=where, message=str(error)))
        else:
            found[where] = plain
    is_upscaling = request.endpoint == UPSCALING
    if not wrong and is_upscaling:
        wrong += check_upscaling(request.payload, sizes["image"], limits)
    elif not wrong and request.endpoint == "img2img":
        drawn_over = {where: sizes[where] for where in sizes if where not in request.places}
        wrong += check_init_pictures(request.payload, drawn_over, limits)
    if wrong:
        first = f"{wrong[0].field}: {wrong[0].message}"
        raise JobError(code, first, fields=wrong)
    if is_upscaling:
        return Pictures(
            payload=found,
            result=upscaled(request.payload, sizes["image"])[1],
            notes=note_upscaling(request.payload, sizes["image"]),
        )
    payload: dict[str, Any] = {}
    for where, place in request.places.items():
        payload = put(payload or dict(request.payload), place, found.pop(where))
    payload = {key: payload[key] for key in ("alwayson_scripts",) if key in payload}
    if "mask" in found:
        payload["mask"] = found.pop("mask")
    return Pictures(payload={**payload, **({"init_images": list(found.values())} if found else {})})


def decode(text: str) -> tuple[str, bytes]:
    """Plain base64 and its bytes, of base64 or a data URL.

    Raises:
        ValueError: it is neither.
    """
    if text[:5].lower() == "data:":
        about, _, text = text.partition(",")
        if not about.lower().rstrip().endswith(";base64"):
            raise ValueError("must be base64 in a data URL: data:image/png;base64,…")
    try:
        return text, base64.b64decode(text, validate=True)
    except ValueError:
        text = "".join(text.split())  # lines, as some encoders break them
    try:
        return text, base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("is no base64, data URL or https address of a picture") from None


def read_size(data: bytes, max_pixels: int) -> Size:
    """Width and height as the picture is seen, from its header alone.

    Raises:
        ValueError: it is none that the webui draws from as it looks, or is broken, or too large.
    """
    # 50 ms that only these jobs need; Pillow reads WebP once it is told to.
    from PIL import Image, UnidentifiedImageError, WebPImagePlugin  # noqa: F401, PLC0415

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                what = f"has {width} x {height} pixels, at most {max_pixels} are allowed"
                raise _UnfitError(what)
            if problem := _problem(picture):
                raise _UnfitError(problem)
            turned = _is_turned(Image.Exif(), picture.info.get("exif"))
            if picture.format == "PNG":
                picture.verify()  # the checksums, without decoding; other formats have none
    except _UnfitError:
        raise
    except UnidentifiedImageError:
        if (found := describe(data[:SNIFF_BYTES])) == "a picture":
            raise ValueError(_BROKEN) from None
        named = found if identify_start(data[:SNIFF_BYTES]) != "other" else "something else"
        raise ValueError(f"is no PNG, JPEG or WebP picture but {named}") from None
    except Image.DecompressionBombError:
        raise ValueError(f"has more than {max_pixels} pixels") from None
    except Exception:  # noqa: BLE001  # Pillow's readers raise a dozen kinds
        raise ValueError(_BROKEN) from None
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError(_BROKEN)
    return (height, width) if turned else (width, height)


class _UnfitError(ValueError):
    """A whole picture, of a kind that is not taken."""


def _problem(picture: Any) -> str:
    """Why the webui would draw from something else than can be seen; empty if it would not."""
    # MPO: what several cameras write for JPEG, a second picture behind the first.
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        return "is animated; send one picture of it"
    if picture.mode in {"LA", "PA"} or not isinstance(picture.info.get("transparency", b""), bytes):
        return "has transparency of a kind that the webui leaves out; save it as RGBA"
    if picture.mode == "CMYK":
        return "has CMYK colours, which the webui does not keep; save it as RGB"
    if picture.mode not in _MODES:
        return "has grays of 16 bits, which the webui does not keep; save it with 8 bits"
    return ""


def _is_turned(exif: Any, data: bytes | None) -> bool:
    """Whether the orientation changes width for height."""
    try:
        exif.load(data or b"")
        return int(exif.get(_ORIENTATION, 1)) in range(5, 9)
    except Exception:  # noqa: BLE001  # the webui takes a picture with broken EXIF as it lies
        return False


def _fetch(url: str, settings: Settings, deadline: float, cancelled: threading.Event) -> bytes:
    listed = tuple(filter(None, settings.picture_hosts.lower().replace(" ", "").split(",")))
    policy = HostPolicy(
        hosts=None if listed == ("any",) else listed, loopback=settings.lora_loopback
    )
    policy.check_url(url)
    with tempfile.TemporaryDirectory(prefix="picture-") as folder:
        fetched = fetch_url(
            url,
            Path(folder) / "picture",
            policy=policy,
            max_bytes=int(settings.picture_max_mb * _BYTES_IN_MB),
            timeouts=Timeouts(total_s=min(settings.picture_timeout_s, deadline - clock.now())),
            cancelled=cancelled,
        )
        return fetched.path.read_bytes()


def _words(error: WeightsError, settings: Settings) -> str:
    """What the client may know: not what a name resolves to in here."""
    if error.kind in {"host", "redirect", "unlisted", "form"}:
        where = settings.picture_hosts
        hosts = "any public host" if where == "any" else where
        return f"the address is not allowed; pictures come by https from {hosts}"
    return error.what
