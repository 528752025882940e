"""The judge of pictures."""

import io
import random

import pytest
from PIL import Image, PngImagePlugin

from bake.image.build.picture import judge_picture

SHA = "ab" * 32


def png(
    image: Image.Image, parameters: str | None = f"a\nSteps: 1, Model hash: {SHA[:10]}"
) -> bytes:
    info = PngImagePlugin.PngInfo()
    if parameters is not None:
        info.add_text("parameters", parameters)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=info)
    return file.getvalue()


def drawn() -> Image.Image:
    return Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(64 * 64 * 3))


def judge(data: bytes) -> list[str]:
    return judge_picture(data, width=64, height=64, checkpoint_sha256=SHA)


def test_a_good_picture_has_no_problem() -> None:
    assert judge(png(drawn())) == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (png(Image.new("RGB", (64, 64))), "the picture is black; SDXL's own VAE does this"),
        (png(Image.new("RGB", (64, 64), (9, 90, 9))), "the picture is of one colour"),
        (png(drawn().resize((32, 64))), "the picture is 32x64, not 64x64"),
        (png(drawn(), None), "the picture's infotext names no model hash"),
        (png(drawn(), "Model hash: 0123456789"), "drawn by model 0123456789, not by ababababab"),
        (b"<html>", "the answer is no picture (6 bytes)"),
        (png(drawn())[:200], "the answer is no picture (200 bytes)"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, problem: str) -> None:
    assert any(problem in each for each in judge(data)), judge(data)
