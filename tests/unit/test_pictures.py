"""Pictures that go in: known by their headers, refused in words, never shown, never kept."""

import base64
import io
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runtime.clock import clock
from runtime.errors import JobError
from runtime.files.errors import WeightsError
from runtime.job import pictures
from runtime.job.asked import Pictures
from runtime.job.pictures import decode, prepare_pictures, read_size
from runtime.settings import Settings
from tests.hostile_pictures import animated, hostile_texts, png, save
from tests.samples import DEFAULT_LIMITS
from tests.unit.test_request import parse

MOST = 4096 * 4096


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x0112] = orientation
    return made.tobytes()


@pytest.mark.parametrize("file", ["PNG", "JPEG", "WEBP"])
def test_sizes_are_read_from_headers(file: str) -> None:
    assert read_size(save(file), MOST) == (20, 10)
    assert read_size(save(file, exif=exif(6)), MOST) == (10, 20)
    assert read_size(save(file, exif=exif(3)), MOST) == (20, 10)
    assert read_size(save(file, exif=b"Exif\0\0broken"), MOST) == (20, 10)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_kinds_that_the_webui_draws_from_as_they_look(mode: str) -> None:
    assert read_size(save("PNG", mode), MOST) == (20, 10)


def test_what_cameras_write_for_jpeg() -> None:
    two = [Image.new("RGB", (20, 10)), Image.new("RGB", (20, 10))]
    out = io.BytesIO()
    two[0].save(out, "MPO", save_all=True, append_images=two[1:])
    assert read_size(out.getvalue(), MOST) == (20, 10)


WHOLE_PNG, WHOLE_JPEG = save("PNG", size=(200, 100)), save("JPEG", size=(200, 100))
HOSTILE = [
    (b"", "is no PNG, JPEG or WebP picture but empty"),
    (b"\x00" * 100, "is no PNG, JPEG or WebP picture but something else"),
    (
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "is no PNG, JPEG or WebP picture but an XML answer",
    ),
    (
        b"<!DOCTYPE html><script>alert(1)</script>",
        "is no PNG, JPEG or WebP picture but an HTML page",
    ),
    (b'{"error": "no"}', "is no PNG, JPEG or WebP picture but a JSON answer"),
    (save("GIF"), "is no PNG, JPEG or WebP picture but something else"),
    (save("BMP"), "is no PNG, JPEG or WebP picture but something else"),
    (save("TIFF"), "is no PNG, JPEG or WebP picture but something else"),
    (b"%PDF-1.7" + b"\x00" * 50, "is no PNG, JPEG or WebP picture but something else"),
    (b"GIF89a" + WHOLE_PNG, "is no PNG, JPEG or WebP picture but something else"),
    (WHOLE_PNG[:8], "is broken: its parts do not fit together, or the end is missing"),
    (WHOLE_PNG[:-13], "is broken: its parts do not fit together, or the end is missing"),
    (WHOLE_PNG[:60], "is broken: its parts do not fit together, or the end is missing"),
    (
        WHOLE_PNG.replace(b"IDAT", b"JDAT"),
        "is broken: its parts do not fit together, or the end is missing",
    ),
    (
        WHOLE_JPEG[: len(WHOLE_JPEG) // 2],
        "is broken: its parts do not fit together, or the end is missing",
    ),
    (WHOLE_JPEG[:-2], "is broken: its parts do not fit together, or the end is missing"),
    (save("WEBP")[:-10], "is broken: its parts do not fit together, or the end is missing"),
    (png(65535, 65535), "has more than 16777216 pixels"),
    (png(2**31 - 1, 2**31 - 1), "has more than 16777216 pixels"),
    (png(20000, 1000), "has 20000 x 1000 pixels, at most 16777216 are allowed"),
    (animated("PNG"), "is animated; send one picture of it"),
    (animated("WEBP"), "is animated; send one picture of it"),
    (save("JPEG", "CMYK"), "has CMYK colours, which the webui does not keep; save it as RGB"),
    (
        save("PNG", "I;16"),
        "has grays of 16 bits, which the webui does not keep; save it with 8 bits",
    ),
    (save("PNG", "LA"), "has transparency of a kind that the webui leaves out; save it as RGBA"),
    (
        save("PNG", "P", transparency=0),
        "has transparency of a kind that the webui leaves out; save it as RGBA",
    ),
    (
        save("PNG", "L", transparency=0),
        "has transparency of a kind that the webui leaves out; save it as RGBA",
    ),
]


@pytest.mark.parametrize(("data", "words"), HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_picture_for_the_webui(data: bytes, words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # its whole text is looked at
        read_size(data, MOST)
    assert str(caught.value) == words


def test_base64_plain_in_lines_and_in_a_data_url() -> None:
    data = bytes(range(200))
    plain = text(data)
    lines = "\r\n".join(plain[i : i + 76] for i in range(0, len(plain), 76))
    for given in (
        plain,
        lines,
        f"data:image/png;base64,{plain}",
        f"DATA:;BASE64,{plain}",
        f" {plain}\n",
    ):
        assert decode(given) == (plain, data)


@pytest.mark.parametrize(
    "given",
    ["?", "AAA", "A-_A", "ä", "/root/x.png", "file:///x", "ftp://x/y", "data:image/png;base64,AA,AA"],
)  # fmt: skip
def test_what_is_no_base64(given: str) -> None:
    said = r"^is no base64, data URL or https address of a picture$"
    with pytest.raises(ValueError, match=said):
        decode(given)


@pytest.mark.parametrize(
    "given", ["data:image/svg+xml,<svg/>", "data:,AAAA", "data:;base64x,AAAA"]
)  # fmt: skip
def test_data_urls_of_another_kind(given: str) -> None:
    with pytest.raises(
        ValueError, match=r"^must be base64 in a data URL: data:image/png;base64,…$"
    ):
        decode(given)


def test_hostile_pictures_end_in_words() -> None:
    fit = 0
    for number, given in enumerate(hostile_texts(50)):
        error = None
        try:
            prepare({"init_images": [given] if given else ["?"], "steps": 1})
            fit += 1
        except JobError as raised:
            error = raised
        assert error is None or error.code == "invalid_request", (number, error)
    assert 1 < fit < 30


def prepare(value: dict[str, Any], **settings: Any) -> Pictures:
    return prepare_pictures(
        parse(value),
        Settings(**settings),
        DEFAULT_LIMITS,
        deadline=clock.now() + 60,
        cancelled=threading.Event(),
    )


def fail(value: dict[str, Any], **settings: Any) -> JobError:
    with pytest.raises(JobError) as caught:
        prepare(value, **settings)
    return caught.value


def test_what_is_sent_to_the_webui() -> None:
    one, other = save("PNG"), save("JPEG")
    over = {"init_images": [text(one), f"data:image/jpeg;base64,{text(other)}"], "batch_size": 2}
    made = prepare({**over, "mask": text(one)})
    assert made.payload == {"init_images": [text(one), text(other)], "mask": text(one)}
    made = prepare({"image": text(one), "upscaler_1": "Lanczos", "upscaling_resize": 2.5})
    assert (made.payload, made.result) == ({"image": text(one)}, (48, 24))
    assert made.notes == [
        "image: 48 x 24 pixels instead of 50 x 25: upscalers make multiples of 8, of the picture's own shape"
    ]


def test_all_pictures_are_named_at_once() -> None:
    error = fail({"init_images": ["?", text(b"<svg/>")], "batch_size": 2, "mask": text(b"x")})
    assert error.code == "invalid_request"
    assert [each.field for each in error.fields] == ["init_images[0]", "init_images[1]", "mask"]


def test_sizes_are_held_against_each_other() -> None:
    error = fail({"init_images": [text(save("PNG"))], "mask": text(save("PNG", size=(9, 9)))})
    assert error.message == (
        "mask: must have the picture's size 20 x 10, not 9 x 9, with inpaint_full_res or resize_mode"
    )
    error = fail({"image": text(save("PNG")), "upscaler_1": "Lanczos", "upscaling_resize": 999})
    assert error.fields[0].field == "upscaling_resize"


@pytest.mark.parametrize(
    "url",
    ["http://example.org/x.png", "https://127.0.0.1/x.png", "https://[::1]/x", "https://10.0.0.1/x",
     "https://169.254.169.254/latest", "https://user:secret@example.org/x", "https://0x7f.1/x",
     "https://localhost/x.png", "HTTPS://192.168.1.1/x"],
)  # fmt: skip
def test_addresses_that_may_not_be_asked(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = fail({"init_images": [url]})
    assert error.code == "invalid_request"
    assert "pictures come by https from any public host" in error.message
    assert "secret" not in error.message + capsys.readouterr().out
    assert "from none" in fail({"init_images": [url]}, picture_hosts="none").message
    listed = fail(
        {"init_images": ["https://evil.example/x"]}, picture_hosts="a.example, .b.example"
    )
    assert "from a.example, .b.example" in listed.message


def test_a_fetched_picture_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []

    def fetch(url: str, target: Path, **more: Any) -> Any:
        assert (url, more["max_bytes"]) == ("https://example.org/x", 20_000_000)
        folders.append(target.parent)
        target.write_bytes(save("PNG"))
        return type("Fetched", (), {"path": target})

    monkeypatch.setattr(pictures, "fetch_url", fetch)
    assert prepare({"init_images": ["https://example.org/x"]}).payload["init_images"] == [
        text(save("PNG"))
    ]
    assert not folders[0].exists()


def test_a_picture_that_cannot_be_had_now(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> Any:
        raise WeightsError("stalled", "the server stopped sending", where="https://x/y")

    monkeypatch.setattr(pictures, "fetch_url", fetch)
    error = fail({"init_images": ["https://example.org/x"]})
    assert (error.code, error.message) == (
        "picture_unavailable",
        "init_images[0]: the server stopped sending",
    )
