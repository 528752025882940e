"""The result: its measured size, its format, what happens above the limit, and S3."""

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from runtime.errors import JobError
from runtime.job.asked import OutputOptions
from runtime.job.bucket import Bucket
from runtime.job.response import deliver, encode, json_size
from runtime.settings import Settings

INFOTEXT = "a fäx ✓\nSteps: 20, Seed: 1"


def make_png(side: int = 64) -> str:
    out = io.BytesIO()
    Image.effect_noise((side, side), 90).convert("RGB").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def make_output(*images: str) -> dict[str, Any]:
    return {
        "images": list(images),
        "parameters": {"prompt": 'ü "quoted" \u2028 🦊\n'},
        "info": '{"a": 1}',
        "bakery": {},
    }


class FakeBucket(Bucket):
    """Takes everything."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.pictures: list[bytes] = []

    def put(self, pictures: Sequence[bytes], folder: str) -> list[str]:
        self.pictures += pictures
        return [f"https://bucket.example/{folder}/{number}" for number in range(len(pictures))]


def hand_over(
    output: dict[str, Any],
    *,
    limit_bytes: int = 10**7,
    bucket: Bucket | None = None,
    **options: Any,
) -> dict[str, Any]:
    return deliver(
        output,
        OutputOptions(**options),
        infotexts=[INFOTEXT],
        job_id="job-1",
        limit_bytes=limit_bytes,
        bucket=bucket or FakeBucket(),
    )


@pytest.mark.parametrize("images", [[], ["AA=="], [make_png(), make_png(100)]])
def test_the_measured_size_is_that_of_the_json_which_the_sdk_sends(images: list[str]) -> None:
    output = make_output(*images)
    assert json_size(output) == len(json.dumps({"output": output}, ensure_ascii=False).encode())


def test_png_is_passed_on_untouched() -> None:
    png = make_png()
    output = hand_over(make_output(png))
    assert output["images"] == [png]
    assert output["bakery"]["output"] == {"delivery": "base64", "format": "png"}


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_other_formats_keep_the_generation_parameters(image_format: str) -> None:
    output = hand_over(make_output(make_png()), image_format=image_format, image_quality=80)
    data = base64.b64decode(output["images"][0])
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == image_format.upper()
        assert picture.size == (64, 64)
        comment = picture.getexif().get_ifd(0x8769)[0x9286]
        # Tag and type as the standard has them; the webui's own reader fails on any other type.
        assert b"\x86\x92\x07\x00" in picture.info["exif"]
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be") == INFOTEXT
    assert output["bakery"]["output"]["format"] == image_format


def test_generation_parameters_that_jpeg_cannot_hold_are_cut() -> None:
    data = encode(base64.b64decode(make_png()), "jpeg", quality=80, infotext="\u2713" * 50_000)
    with Image.open(io.BytesIO(data)) as picture:
        assert len(picture.getexif().get_ifd(0x8769)[0x9286]) == 60_008


def test_quality_makes_a_difference() -> None:
    data = base64.b64decode(make_png())
    sizes = [len(encode(data, "jpeg", quality=each, infotext="")) for each in (30, 95)]
    assert sizes[0] < sizes[1]


def test_a_result_above_the_limit_is_refused_with_both_sizes() -> None:
    output = make_output(make_png(), make_png())
    size = json_size(output)
    with pytest.raises(JobError) as caught:
        hand_over(output, limit_bytes=size - 100)
    assert caught.value.code == "result_too_large"
    assert f"the endpoint takes {size - 100}; see the field if_too_large" in caught.value.message


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_it_is_made_smaller_where_the_request_says_so(image_format: str) -> None:
    output = make_output(make_png(128))
    before = json_size(output)
    made = hand_over(output, limit_bytes=before // 2, if_too_large=image_format)
    assert json_size(made) <= before // 2
    about = made["bakery"]["output"]
    assert about["format"] == image_format
    assert about["why"].startswith("the result has ")
    with Image.open(io.BytesIO(base64.b64decode(made["images"][0]))) as picture:
        assert picture.size == (128, 128)


def test_what_does_not_even_fit_then_is_refused() -> None:
    with pytest.raises(JobError, match=r"the endpoint takes 900; \d+ as jpeg"):
        hand_over(make_output(make_png(128)), limit_bytes=900, if_too_large="jpeg")


@pytest.mark.parametrize(("quality", "tried"), [(90, [90, 75, 50]), (60, [60, 50]), (30, [30])])
def test_what_is_too_large_is_never_tried_in_a_better_quality(
    quality: int, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    qualities: list[int] = []

    def encode_large(_data: bytes, _format: str, *, quality: int, infotext: str) -> bytes:
        qualities.append(quality)
        return bytes(1000)

    monkeypatch.setattr("runtime.job.response.encode", encode_large)
    with pytest.raises(JobError, match="as webp"):
        hand_over(
            make_output(make_png(128)), limit_bytes=900, if_too_large="webp", image_quality=quality
        )
    assert qualities == tried


def test_s3_gives_links() -> None:
    bucket = FakeBucket()
    output = hand_over(
        make_output(make_png(), make_png()),
        limit_bytes=1,
        bucket=bucket,
        delivery="s3",
        image_format="webp",
    )
    assert output["images"] == ["https://bucket.example/job-1/0", "https://bucket.example/job-1/1"]
    assert [each[:4] for each in bucket.pictures] == [b"RIFF"] * 2
    assert output["bakery"]["output"]["delivery"] == "s3"


def test_the_original_goes_to_s3_where_the_result_is_too_large() -> None:
    bucket, png = FakeBucket(), make_png()
    output = hand_over(make_output(png), limit_bytes=100, bucket=bucket, if_too_large="s3")
    assert bucket.pictures == [base64.b64decode(png)]
    assert output["bakery"]["output"] == {"delivery": "s3", "format": "png"}


def test_missing_credentials_are_an_error() -> None:
    bucket = Bucket(Settings(bucket_endpoint="https://x.example", bucket_secret="x"))
    bucket.prepare()
    with pytest.raises(JobError) as caught:
        hand_over(make_output(make_png()), bucket=bucket, delivery="s3")
    assert caught.value.code == "storage_not_configured"
    assert caught.value.message == "this endpoint lacks BUCKET_ACCESS_KEY_ID"
