"""Scripts of baked extensions: what a request may give them, what comes back, and what the webui keeps to itself."""

from __future__ import annotations

import base64
import json
import zlib
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.boot import jobs
from runtime.boot.applied import Passes
from runtime.errors import JobError
from runtime.job.names import Names, read_names
from runtime.job.request import parse_request
from runtime.webui import generate
from runtime.webui.generate import smaller_batch
from runtime.worker import Extension, Worker
from tests.fake_webui import FakeWebui
from tests.samples import DEFAULT_LIMITS, NAMES, make_worker
from tests.unit.test_boot_jobs import Processing, draw
from tests.unit.test_handler import Bench
from tests.unit.test_handler_pictures import PICTURE, png

TINT = Extension(name="tint", path="/webui/extensions/tint", commit="0" * 40, scripts=("Tint",))
OFFERED = {"txt2img": {"tint": 3, "sampler": 3}, "img2img": {"tint": 2}}


@pytest.fixture(autouse=True)
def _poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_POLL_S", 0.02)


def tinted(*extensions: Extension) -> Worker:
    return make_worker(extensions=extensions or (TINT,))


def parse(scripts: object, *, worker: Worker | None = None, **fields: Any) -> Any:
    names = Names(**{**vars(NAMES), "scripts": OFFERED})
    value = {"prompt": "p", "alwayson_scripts": scripts, **fields}
    return parse_request(value, worker=worker or tinted(), names=names, limits=DEFAULT_LIMITS)


def errors_of(scripts: object, **more: Any) -> dict[str, str]:
    with pytest.raises(JobError) as caught:
        parse(scripts, **more)
    return {each.field: each.message for each in caught.value.fields}


# What a worker knows of itself


def test_a_worker_without_extensions_is_what_it_was() -> None:
    assert "extensions" not in json.loads(make_worker().to_json())
    assert Worker.from_json(make_worker().to_json()).extensions == ()


def test_extensions_come_back_from_the_file() -> None:
    again = Worker.from_json(tinted().to_json())
    assert [vars(each) for each in again.extensions] == [{**vars(TINT), "scripts": ["Tint"]}]


# The request


@pytest.mark.parametrize("name", ["Tint", "tint", "TINT"])
def test_arguments_go_on_as_they_are(name: str) -> None:
    arguments = [True, {"strength": 0.5, "deep": [1, None, "x"]}, ""]
    request = parse({name: {"args": arguments}})
    assert request.payload["alwayson_scripts"] == {"tint": {"args": arguments}}
    assert (request.pictures, request.notes) == ({}, [])


def test_an_embedding_may_be_said_in_an_argument_alone() -> None:
    arguments = [{"ad_prompt": "a face, easynegative"}]
    request = parse({"Tint": {"args": arguments}}, embeddings=["EasyNegative"])
    assert [each.name for each in request.embeddings] == ["EasyNegative"]


def test_a_script_without_arguments_may_be_named() -> None:
    assert parse({"Tint": {}}).payload["alwayson_scripts"] == {"tint": {"args": []}}


def test_scripts_of_the_page_still_count_as_fields() -> None:
    request = parse({"Tint": {"args": [1]}, "Sampler": {"args": [9, "Euler", "Karras"]}})
    assert request.payload["steps"] == 9
    assert request.payload["alwayson_scripts"] == {"tint": {"args": [1]}}


@pytest.mark.parametrize(
    ("scripts", "words"),
    [
        ({"Tnt": {"args": [1]}}, "Tnt: this worker has Seed, Sampler, Refiner and Tint only"),
        ({"tint": {"args": [1, 2, 3, 4]}}, "tint: has 4 arguments, it takes 3"),
        ({"tint": {"args": {"0": 1}}}, "tint: must be an object with a list `args`, not an object"),
        ({"tint": [1]}, "tint: must be an object with a list `args`, not a list"),
        ({"tint": None}, "tint: must be an object with a list `args`, not null"),
        ({"tint": {"arg": [1]}}, "tint: has 'arg'; only its list `args` is used"),
        ({"tint": {"args": [1]}, "Tint": {"args": [2]}}, "tint: is there twice"),
        ({"tint": {"args": ["\ud800"]}}, "tint: is not valid Unicode (half of a surrogate pair)"),
        ({"tint": {"args": [{"\x00": 1}]}}, "tint: contains a null character"),
        (
            {"tint": {"args": [float("nan")]}},
            "tint: has the number nan, which JSON has no word for",
        ),
        ({"tint": {"args": [json.loads("[" * 60 + "]" * 60)]}}, "tint: is nested too deeply"),
        (
            {"tint": {"args": [[{"image": PICTURE}] * 17]}},
            "tint: makes it 17 pictures, at most 16 are allowed",
        ),
    ],
)
def test_what_the_webui_would_drop_or_fail_on(scripts: Any, words: str) -> None:
    assert errors_of(scripts) == {"alwayson_scripts": words}


def test_a_script_that_this_kind_of_request_does_not_have() -> None:
    only_text = Names(**{**vars(NAMES), "scripts": {"txt2img": {"tint": 3}, "img2img": {}}})
    value = {"prompt": "p", "init_images": [PICTURE], "alwayson_scripts": {"tint": {"args": []}}}
    with pytest.raises(JobError, match="no such script for this kind of request; there is none"):
        parse_request(value, worker=tinted(), names=only_text, limits=DEFAULT_LIMITS)
    errors = errors_of({"tint": {"args": [1, 2, 3]}}, init_images=[PICTURE])
    assert errors == {"alwayson_scripts": "tint: has 3 arguments, it takes 2"}


def test_without_extensions_arguments_are_refused_as_before() -> None:
    errors = errors_of({"tint": {"args": [1]}}, worker=make_worker())
    assert errors["alwayson_scripts"] == "tint: this worker has Seed, Sampler and Refiner only"


def test_what_the_webui_offers_is_asked_for_where_it_is_needed() -> None:
    webui: Any = FakeWebui()
    assert read_names(webui).scripts == {}
    offered = {"txt2img": {"tint": 3}, "img2img": {"tint": 2}}
    assert read_names(webui, with_scripts=True).scripts == offered


# Pictures in arguments


@pytest.mark.parametrize(
    ("argument", "where"),
    [
        ({"image": PICTURE}, "[0].image"),
        ({"unit": {"image": {"image": PICTURE, "mask": None}}}, "[0].unit.image.image"),
        (
            {"effective_region_mask": f"data:image/png;base64,{PICTURE}"},
            "[0].effective_region_mask",
        ),
        ({"input_image": "https://example.com/a.png"}, "[0].input_image"),
        ({"reference": PICTURE}, "[0].reference"),
        ([PICTURE], "[0][0]"),
        (PICTURE[:64], "[0]"),
        (f"data:image/png;base64,{PICTURE}", "[0]"),
    ],
)
def test_pictures_are_found_wherever_they_are(argument: Any, where: str) -> None:
    request = parse({"Tint": {"args": [argument, "after"]}})
    assert list(request.pictures) == [f"alwayson_scripts.tint.args{where}"]
    sent = json.dumps(request.payload["alwayson_scripts"])
    assert PICTURE not in sent
    assert "null" in sent
    assert "after" in sent


@pytest.mark.parametrize(
    "argument",
    [
        {"mask_mode": "Merge", "image_path": "x.png", "prompt": "https://example.com is a page"},
        {"ad_prompt": "a" * 200, "image": "", "mask": None},
        "iVBORw0KGgo",
        PICTURE[:63],
    ],
)
def test_what_is_no_picture_is_left_alone(argument: Any) -> None:
    request = parse({"Tint": {"args": [argument]}})
    assert request.pictures == {}
    assert request.payload["alwayson_scripts"]["tint"]["args"] == [argument]


def job(argument: object, **fields: Any) -> dict[str, Any]:
    return {"prompt": "p", "alwayson_scripts": {"Tint": {"args": [argument]}}, **fields}


def test_a_script_gets_its_pictures_and_they_are_not_sent_back() -> None:
    bench = Bench(webui := FakeWebui(), worker=tinted())
    output = bench.run(job({"image": f"data:image/png;base64,{PICTURE}", "weight": 1}))
    sent = webui.payloads[0]
    assert sent["alwayson_scripts"] == {"tint": {"args": [{"image": PICTURE, "weight": 1}]}}
    assert "init_images" not in sent
    echoed = output["parameters"]["alwayson_scripts"]
    assert echoed == {"tint": {"args": [{"image": None, "weight": 1}]}}
    assert "extra" not in output["bakery"]


def test_a_script_beside_pictures_to_draw_over() -> None:
    bench = Bench(webui := FakeWebui(), worker=tinted())
    other = base64.b64encode(png(64, 64)).decode()
    mask = base64.b64encode(png(colour="white")).decode()
    bench.run(job({"image": other}, init_images=[PICTURE], mask=mask))
    sent = webui.payloads[0]
    assert (sent["init_images"], sent["mask"]) == ([PICTURE], mask)
    assert sent["alwayson_scripts"]["tint"]["args"] == [{"image": other}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (base64.b64encode(b"<svg/>" * 20).decode(), "no PNG, JPEG or WebP picture"),
        (base64.b64encode(png()[:60]).decode(), "is broken"),
        ("https://127.0.0.1/a.png", "the address is not allowed"),
        ("http://example.com/a.png", "the address is not allowed"),
        ("data:image/png,abc", "must be base64 in a data URL"),
    ],
)
def test_bad_pictures_are_refused_by_their_place(text: str, words: str) -> None:
    bench = Bench(webui := FakeWebui(), worker=tinted())
    error = bench.error(job({"image": text}))
    assert error["code"] == "invalid_request"
    assert [each["field"] for each in error["fields"]] == ["alwayson_scripts.tint.args[0].image"]
    assert words in error["fields"][0]["message"]
    assert webui.payloads == []


def test_a_bomb_in_an_argument_is_refused_by_its_header() -> None:
    header = png()[12:16] + (60000).to_bytes(4, "big") * 2 + png()[24:29]
    bomb = png()[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png()[33:]
    error = Bench(FakeWebui(), worker=tinted()).error(job(base64.b64encode(bomb).decode()))
    assert "pixels, at most" in error["message"] or "more than" in error["message"]


# What came of it


def test_pictures_that_scripts_add_come_last_and_are_told() -> None:
    bench = Bench(FakeWebui({"maps": 2}), worker=tinted())
    output = bench.run(job({"weight": 1}, batch_size=2))
    assert len(output["images"]) == 4
    assert len(output["bakery"]["seeds"]) == 2
    assert output["bakery"]["extra_images"] == 2
    assert "the last 2 of images are what scripts add to them" in output["bakery"]["notes"]


FAILURE = {"names": ["tint"], "method": "process", "reason": "ValueError: there is no colour 'x'"}


def test_a_script_that_failed_fails_the_job() -> None:
    error = Bench(FakeWebui({"failures": [FAILURE]}), worker=tinted()).error(job(1))
    assert (error["code"], error["retryable"]) == ("not_honoured", False)
    words = "the script tint failed in process: ValueError: there is no colour 'x'"
    assert error["message"] == words


def test_a_path_in_a_scripts_words_is_for_the_log() -> None:
    failure = {**FAILURE, "reason": "FileNotFoundError: /webui/models/x.pt"}
    error = Bench(FakeWebui({"failures": [failure]}), worker=tinted()).error(job(1))
    assert error["message"] == "the script tint failed in process"


def test_a_failure_of_another_script_is_noted() -> None:
    output = Bench(FakeWebui({"failures": [FAILURE]}), worker=tinted()).run()
    note = "the script tint failed in process; the request does not name it"
    assert output["bakery"]["notes"] == [note]


def test_memory_that_ran_out_in_a_script() -> None:
    failure = {**FAILURE, "reason": "OutOfMemoryError: CUDA out of memory. Tried to"}
    error = Bench(FakeWebui({"failures": [failure]}), worker=tinted()).error(job(1))
    assert error["code"] == "out_of_memory"


def test_a_batch_with_scripts_is_not_drawn_in_pieces() -> None:
    assert smaller_batch({"batch_size": 4}) is not None
    assert smaller_batch({"batch_size": 4, "alwayson_scripts": {"tint": {"args": []}}}) is None


# Inside the webui


def watched(*files: tuple[str, str | None]) -> tuple[Processing, Any, list[str]]:
    """Processing under watch, and the scripts' module; `files` are each script's file and name."""
    shown: list[str] = []
    errors = SimpleNamespace(report=lambda message, **_: shown.append(message))
    runner = SimpleNamespace(
        scripts=[SimpleNamespace(filename=file, name=name) for file, name in files]
    )
    module = SimpleNamespace(errors=errors, scripts_txt2img=runner, scripts_img2img=runner)
    processing = Processing()
    failures: list[dict[str, Any]] = []
    jobs._watch_scripts(module, failures)
    jobs._watch(processing, Passes(), failures)
    return processing, module, shown


FRAMED = "╭── Traceback ──╮\n│ raise ValueError(msg) │\n│ ValueError: no │\n│ such colour │\n╰────╯"
"""The text of an error as ADetailer raises it."""


def fail(module: Any, file: str, method: str = "process", words: str = "no\n such colour") -> None:
    try:
        raise ValueError(words)
    except ValueError:
        module.errors.report(f"Error running {method}: {file}", exc_info=True)


def test_what_scripts_failed_is_in_the_answer() -> None:
    processing, module, shown = watched(("/e/tint.py", "tint"), ("/e/other.py", None))
    told = draw(processing, during=lambda: fail(module, "/e/tint.py"))
    failure = {"names": ["tint"], "method": "process", "reason": "ValueError: no such colour"}
    assert told.info["bakery"]["scripts"] == [failure]
    assert shown == ["Error running process: /e/tint.py"]
    framed = draw(processing, during=lambda: fail(module, "/e/tint.py", words=FRAMED))
    assert framed.info["bakery"]["scripts"] == [failure]
    nameless = draw(processing, during=lambda: fail(module, "/e/other.py"))
    assert nameless.info["bakery"]["scripts"][0]["names"] == ["other.py"]


def test_a_failure_is_the_jobs_own() -> None:
    processing, module, shown = watched(("/e/tint.py", "tint"))
    fail(module, "/e/tint.py")
    module.errors.report("Error loading script: x.py")
    assert draw(processing).info["bakery"]["scripts"] == []
    assert len(shown) == 2


def test_what_a_script_draws_belongs_to_the_job() -> None:
    """ADetailer draws again for each face, from inside the job."""
    processing, module, _ = watched(("/e/tint.py", "tint"))
    inner: list[Any] = []

    def again() -> None:
        fail(module, "/e/tint.py", "postprocess_image")
        inner.append(processing.process_images(processing.StableDiffusionProcessing("face")))

    told = draw(processing, during=again)
    assert [each["method"] for each in told.info["bakery"]["scripts"]] == ["postprocess_image"]
    assert "bakery" not in json.loads(inner[0].js())


def test_a_job_that_raises_leaves_nothing_behind() -> None:
    processing, module, _ = watched(("/e/tint.py", "tint"))

    def raises() -> None:
        fail(module, "/e/tint.py")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        draw(processing, during=raises)
    assert draw(processing).info["bakery"]["scripts"] == []


def test_only_the_jobs_own_picture_sets_torchs_generator() -> None:
    processing, _, _ = watched()
    kind = processing.StableDiffusionProcessingImg2Img

    def within() -> None:
        kind().init(["face"], [5], [6])

    draw(processing, during=within)
    assert processing.seeds == [("encodes", ["face"], [6])]
