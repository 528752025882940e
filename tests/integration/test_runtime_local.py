"""The worker in its local modes, with the real SDKs and the demo's webui: what a developer and `bake verify` see."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.examples import EXAMPLES
from tests.hostile import INPUTS
from tests.integration.worker import (
    ROOT,
    SDKS,
    SMALL,
    WEIGHTS,
    LocalApi,
    RunningWorker,
    Sdk,
    running,
)
from tests.ports import free_port
from tests.unit.test_request import OFFICIAL_README, WEBUIAPI


class Running:
    """A worker that serves its local API."""

    def __init__(self, worker: RunningWorker, api: LocalApi) -> None:
        self.worker = worker
        self.run = api.run
        self.fail = api.fail
        self.post = api.post


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    port = free_port()
    folder = tmp_path_factory.mktemp("local")
    arguments = ("--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port))
    with running("runtime", folder, *arguments, BAKERY_LORA_LOOPBACK="1") as worker:
        api = LocalApi(port)
        api.wait_until_up(worker)
        yield Running(worker, api)


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    """The address of a server that serves the demo's weights."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(WEIGHTS))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("sdk", SDKS)
def test_one_job_on_the_command_line(sdk: Sdk, tmp_path: Path) -> None:
    job = json.dumps({"input": {**SMALL, "sampler_name": "DPM++ 2M Karras"}})
    environment = {"BAKERY_TEST_OUTPUT": str(tmp_path / "out.json")}
    with running(sdk, tmp_path / "good", "--test_input", job, **environment) as worker:
        assert worker.wait() == 0, worker.log
        counts = worker.entries(message="worker ends")[0]["counts"]
    assert counts["jobs"] == 1
    output = json.loads((tmp_path / "out.json").read_text())
    assert base64.b64decode(output["images"][0]).startswith(b"\x89PNG")
    assert output["parameters"]["scheduler"] == "Karras"
    with running(sdk, tmp_path / "bad", "--test_input", '{"input": {"promt": ""}}') as worker:
        assert worker.wait() == 1
        assert "did you mean 'prompt'" in worker.log


def test_requests_that_people_already_send(local: Running) -> None:
    for request in (OFFICIAL_README, WEBUIAPI):
        output = local.run({**request, "steps": 2, "width": 64, "height": 64})
        assert len(output["images"]) == 1
        assert isinstance(output["info"], str)
    assert json.loads(output["info"])["seed"] == WEBUIAPI["seed"]


def test_what_the_webui_would_draw_otherwise_in_silence(local: Running) -> None:
    """The demo's webui has the same faults: comments, and the scheduler `automatic` by its name."""
    sampler = {**SMALL, "sampler_name": "DPM++ 2M", "steps": 4}
    by_label = local.run({**sampler, "scheduler": "Automatic"})
    assert local.run({**sampler, "scheduler": "automatic"})["images"] == by_label["images"]
    assert local.run({**sampler, "scheduler": "Karras"})["images"] == by_label["images"]
    whole = local.run({**SMALL, "prompt": "a #red circle on a white background"})
    assert "#red circle" in json.loads(whole["info"])["infotexts"][0]
    assert whole["bakery"]["notes"] == ["prompt: what follows a # is drawn (no comments)"]
    asked = {**SMALL, "prompt": "a circle #red", "override_settings": {}}
    asked["override_settings"] = {"enable_prompt_comments": True}
    assert "#" not in json.loads(local.run(asked)["info"])["infotexts"][0]
    again = local.run({**SMALL, "prompt": "a #red circle on a white background"})
    assert again["images"] == whole["images"], "settings do not stay"


def test_strings_and_leftovers_draw_the_same_picture(local: Running) -> None:
    plain = local.run(SMALL)
    texts = {key: str(value) for key, value in SMALL.items()}
    leftovers = {"hr_scale": 1.0, "hr_upscaler": "ESRGAN_4x", "refiner_switch_at": 0}
    scripts = {"Seed": {"args": [SMALL["seed"], False, -1, 0, 0, 0]}, "Comments": {"args": []}}
    for more in (texts, leftovers, {"save_images": True}, {"alwayson_scripts": scripts}):
        assert local.run({**SMALL, **more})["images"] == plain["images"], more


def test_the_same_request_gives_the_same_picture(local: Running) -> None:
    first, second = local.run(SMALL), local.run(SMALL)
    assert first["images"] == second["images"]
    assert first["bakery"]["seeds"] == [1]


# What the real v1.9.3 answers is in the table of API facts; each is an error with its field here.
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sampler_name": "Eulr"}, "sampler_name"),
        ({"scheduler": "karas"}, "scheduler"),
        (
            {"override_settings": {"sd_model_checkpoint": "x"}},
            "override_settings.sd_model_checkpoint",
        ),
        ({"override_settings": {"sd_vae": "x"}}, "override_settings.sd_vae"),
        ({"prompt": "<lora:missing:1>"}, "prompt"),
        ({"prompt": "<lora:outline:strong>"}, "prompt"),
        ({"prompt": "<lora:outline:0.5> <lora:outline:1>"}, "prompt"),
        ({"unknown": 1}, "unknown"),
        ({"width": 4}, "width"),
        ({"height": -8}, "height"),
        ({"steps": 0}, "steps"),
        ({"steps": -1}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"n_iter": 0}, "n_iter"),
        ({"override_settings": {"x": 1}}, "override_settings.x"),
        ({"prompt": None}, "prompt"),
        ({"steps": "abc"}, "steps"),
        ({"prompt": ["a"]}, "prompt"),
        ({"script_name": "x"}, "script_name"),
        ({"width": 16384}, "width"),
    ],
)
def test_rows_of_the_webuis_table(local: Running, change: dict[str, Any], field: str) -> None:
    error = local.fail({**SMALL, **change})
    assert error["code"] == "invalid_request"
    assert [each["field"] for each in error["fields"]] == [field]


def test_one_jobs_settings_do_not_reach_the_next(local: Running) -> None:
    before = local.run(SMALL)
    with_clip_skip = local.run({**SMALL, "clip_skip": 2})
    assert json.loads(with_clip_skip["info"])["clip_skip"] == 2
    other = local.run({**SMALL, "checkpoint": "second"})
    assert json.loads(other["info"])["sd_model_name"] == "second"
    after = local.run(SMALL)
    assert after["images"] == before["images"]
    assert json.loads(after["info"])["clip_skip"] == 1


def test_a_lora_by_url_changes_the_picture_and_shows_in_its_infotext(
    local: Running, files: str
) -> None:
    plain = local.run(SMALL)
    lora = {"name": "mine", "url": f"{files}/outline.safetensors", "scale": 0.9}
    output = local.run({**SMALL, "loras": [lora]})
    assert output["images"] != plain["images"]
    (applied,) = output["bakery"]["loras"]
    info = json.loads(output["info"])
    assert applied["tag"] in info["infotexts"][0]
    assert applied["tag"] in info["extra_generation_params"]["Lora hashes"]
    assert applied["was_cached"] is False
    again = local.run({**SMALL, "loras": [lora]})
    assert again["images"] == output["images"]
    assert again["bakery"]["loras"][0]["was_cached"] is True
    baked = local.run({**SMALL, "loras": [{"name": "outline", "scale": 0.9}]})
    assert baked["bakery"]["loras"][0]["source"] == "baked"
    assert local.run(SMALL)["images"] == plain["images"]


def test_a_lora_that_is_not_there_fails_the_job(local: Running, files: str) -> None:
    for name, code in (("gone", "lora_refused"), ("shapes", "lora_refused")):
        error = local.fail(
            {**SMALL, "loras": [{"name": "x", "url": f"{files}/{name}.safetensors"}]}
        )
        assert error["code"] == code
    assert "the file is no LoRA" in error["message"]


def test_a_lora_that_the_webui_does_not_apply_fails_the_job(local: Running) -> None:
    for request in ({"loras": [{"name": "ghost"}]}, {"prompt": "<lora:ghost:1> a red circle"}):
        error = local.fail({**SMALL, **request})
        assert (error["code"], error["message"]) == (
            "lora_not_applied",
            "the webui drew without ghost (the webui did not find it)",
        )


def test_other_formats(local: Running) -> None:
    output = local.run({**SMALL, "image_format": "webp", "batch_size": 2})
    assert all(base64.b64decode(each).startswith(b"RIFF") for each in output["images"])


def test_s3_without_credentials_is_an_error_and_no_folder(local: Running) -> None:
    assert local.fail({**SMALL, "delivery": "s3"})["code"] == "storage_not_configured"
    assert not (local.worker.folder / "simulated_uploaded").exists()


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"input": null}', b'{"input": "x"}', b"\xff", b'{"input": {}' + b"}" * 2],
)
def test_bodies_that_are_no_job(local: Running, body: bytes) -> None:
    status, _ = local.post(body)
    assert status < 500


def test_many_hostile_requests_do_no_harm(local: Running) -> None:
    seen: dict[str, int] = {}

    @hypothesis.given(INPUTS)
    @hypothesis.settings(max_examples=EXAMPLES)
    def send(value: Any) -> None:
        # An input that is no object never reaches us: the SDK's own API answers 422, or 500 where it cannot
        # echo the value (inf, half a surrogate pair). tests/unit/test_request.py has those.
        value = value if isinstance(value, dict) else {"prompt": value}
        # What would be drawn is made small; what is wrong stays wrong.
        value = {"steps": 1, "width": 64, "height": 64, "batch_size": 1, "n_iter": 1, **value}
        status, answer = local.post(json.dumps({"input": value}).encode())
        seen[f"{status} {answer.get('status')}"] = (
            seen.get(f"{status} {answer.get('status')}", 0) + 1
        )
        assert status < 500
        text = json.dumps(answer)
        assert "Traceback" not in text
        assert str(ROOT) not in text
        if answer.get("status") == "FAILED":
            assert json.loads(answer["error"])["code"] != "internal"

    send()
    assert sum(seen.values()) >= EXAMPLES
    assert seen.get("200 FAILED", 0) > EXAMPLES // 4
    assert len(local.run(SMALL)["images"]) == 1
    assert "Traceback" not in local.worker.log
