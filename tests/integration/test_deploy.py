"""`bake deploy`, `logs` and `undeploy` against a stand-in for RunPod that holds each request against the API's document."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bake.deploy import client as client_module
from bake.deploy import release
from bake.deploy.client import RunpodClient
from bake.deploy.desired import MARKER
from bake.errors import PushError
from runtime.retry import Retry
from tests.command import call_bake
from tests.standins.runpod_api import DOCUMENTS, PNG, TOKEN, RunpodApi

FIRST = f"ghcr.io/you/shapes@sha256:{'1' * 64}"
SECOND = f"ghcr.io/you/shapes@sha256:{'2' * 64}"
THIRD = f"ghcr.io/you/shapes@sha256:{'3' * 64}"
MANIFEST = """
name: shapes
family: sd1
gpu: rtx-6000-ada
checkpoint: civitai:1
image: ghcr.io/you/shapes
warmup: {prompt: a red circle, width: 64, height: 64, steps: 2}
deploy:
  env: {BAKERY_OOM: split}
  secrets: {CIVITAI_TOKEN: civitai}
"""


class Shell:
    """The command line in a folder with one manifest."""

    def __init__(self, folder: Path, api: RunpodApi, capfd: pytest.CaptureFixture[str]) -> None:
        self.api, self.folder, self._capfd = api, folder, capfd
        self.manifest = folder / "shapes.yaml"
        self.write(MANIFEST)

    def write(self, text: str) -> None:
        self.manifest.write_text(text)

    def __call__(self, command: str, *options: str, code: int = 0) -> str:
        """What it says, on both streams."""
        ended = call_bake(command, str(self.manifest), *options)
        said = "".join(self._capfd.readouterr())
        assert ended == code, said
        assert TOKEN not in said
        assert "Traceback" not in said
        assert self.api.invalid == []
        return said

    def deploy(self, image: str = FIRST, *options: str, code: int = 0) -> str:
        build = ("--build-dir", str(self.folder / "build"))
        return self("deploy", "--image", image, "--yes", *build, *options, code=code)


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.stem)
def api(request: pytest.FixtureRequest) -> Iterator[RunpodApi]:
    made = RunpodApi(request.param)
    yield made
    made.close()


@pytest.fixture
def shell(
    api: RunpodApi,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    monkeypatch.setenv("RUNPOD_API_URL", api.url)
    monkeypatch.setenv("RUNPOD_API_KEY", TOKEN)
    monkeypatch.setattr(release, "_POLL_S", 0.01)
    monkeypatch.setattr(client_module, "USUAL", Retry(backoff_s=0.01))
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, api, capfd)


def test_it_makes_the_endpoint_and_draws_with_it(shell: Shell) -> None:
    said = shell.deploy()
    (endpoint,) = shell.api.endpoints.values()
    assert endpoint["image"] == FIRST
    assert endpoint["flashboot"] == "FLASHBOOT"
    assert endpoint["timeout"] == 600_000
    assert endpoint["gpu"]["pools"] == ["ADA_48_PRO"]
    assert endpoint["gpu"]["minCudaVersion"] == "12.1"
    assert endpoint["workers"] == {"min": 0, "max": 3, "idleTimeout": 5}
    assert endpoint["disk"] == 22
    env = {key: value for key, value in endpoint["env"].items() if key != MARKER}
    assert env == {"BAKERY_OOM": "split", "CIVITAI_TOKEN": "{{ RUNPOD_SECRET_civitai }}"}
    assert "new endpoint shapes (QUEUE)" in said
    assert "+ env.CIVITAI_TOKEN: {{ RUNPOD_SECRET_civitai }}" in said
    assert "worker w1: waited 41.2 s for it (the cold start), drew in 2.5 s" in said
    assert (shell.folder / "build/shapes/deployed.png").read_bytes() == PNG
    (job,) = shell.api.jobs.values()
    assert job["input"]["prompt"] == "a red circle"
    assert job["input"]["steps"] == 2


def test_the_same_again_changes_nothing(shell: Shell) -> None:
    shell.deploy()
    said = shell.deploy()
    assert "is as the manifest says" in said
    assert shell.api.requests("PATCH") == []
    assert len(shell.api.endpoints) == 1


def test_a_new_image_is_a_change_of_the_image(shell: Shell) -> None:
    shell.deploy()
    said = shell.deploy(SECOND)
    (body,) = shell.api.requests("PATCH")
    assert set(body) == {"image", "env"}
    assert body["image"] == SECOND
    assert f"~ image: {FIRST} → {SECOND}" in said
    assert "by hand" not in said


def test_back_and_forth(shell: Shell) -> None:
    for image in (FIRST, SECOND):
        shell.deploy(image)
    said = shell("deploy", "--rollback", "--yes")
    (endpoint,) = shell.api.endpoints.values()
    assert endpoint["image"] == FIRST
    assert endpoint["env"]["BAKERY_OOM"] == "split"
    assert f"~ image: {SECOND} → {FIRST}" in said
    shell("deploy", "--rollback", "--yes")
    assert endpoint["image"] == SECOND
    assert "is as the manifest says" in shell.deploy(SECOND)


def test_a_rollback_without_a_marker_asks_the_releases(shell: Shell) -> None:
    for image in (FIRST, SECOND):
        shell.deploy(image)
    (endpoint,) = shell.api.endpoints.values()
    shell.api.edit(endpoint["id"], env={})
    shell("deploy", "--rollback", "--yes")
    assert endpoint["image"] == FIRST


def test_there_may_be_nothing_to_go_back_to(shell: Shell) -> None:
    assert "there is no endpoint 'shapes'" in shell("deploy", "--rollback", "--yes", code=2)
    shell.deploy()
    assert "no earlier image of ep1 is known" in shell("deploy", "--rollback", "--yes", code=2)


def test_the_settings_of_the_manifest_are_applied(shell: Shell) -> None:
    shell.deploy()
    more = """
  workers: {min: 1, max: 5, idle_timeout: 60}
  scaling: {queue_delay: 2}
  timeout: 120
  flashboot: false
  disk: 50
  cuda: "12.4"
  pools: [ADA_48_PRO, ADA_80_PRO]
  excluded: [NVIDIA L40]
  registry: ghcr
  volumes: [vol1]
  data_centers: [EU-RO-1]
"""
    shell.write(MANIFEST.rstrip() + more)
    shell.deploy()
    (endpoint,) = shell.api.endpoints.values()
    assert endpoint["workers"] == {"min": 1, "max": 5, "idleTimeout": 60}
    assert endpoint["scaling"] == {"type": "QUEUE_DELAY", "queueDelay": 2}
    assert (endpoint["timeout"], endpoint["flashboot"], endpoint["disk"]) == (120_000, "OFF", 50)
    assert endpoint["gpu"]["excludedTypes"] == ["NVIDIA L40"]
    assert (endpoint["registry"], endpoint["networkVolumes"]) == ("reg_1", ["vol1"])
    assert endpoint["dataCenterIds"] == ["EU-RO-1"]
    assert "is as the manifest says" in shell.deploy()
    # Taken out of the manifest again: what has a default goes back to it, and a variable of ours goes.
    shell.write(MANIFEST.replace("{BAKERY_OOM: split}", "{}"))
    shell.deploy()
    assert endpoint["workers"] == {"min": 0, "max": 3, "idleTimeout": 5}
    assert endpoint["gpu"]["excludedTypes"] == []
    assert "BAKERY_OOM" not in endpoint["env"]


@pytest.mark.parametrize(
    "section",
    ["{type: load_balancer}", "{scaling: {requests: 3}}", "{type: load_balancer, scaling: {requests: 2}}"],
)  # fmt: skip
def test_other_types_and_scalings(shell: Shell, section: str) -> None:
    shell.write(MANIFEST.partition("deploy:")[0] + f"deploy: {section}\n")
    said = shell.deploy()
    (endpoint,) = shell.api.endpoints.values()
    assert endpoint["scaling"]["type"] == "REQUEST_COUNT"
    # RunPod refuses an idle time-out for a queue that scales by requests.
    assert ("idleTimeout" in endpoint["workers"]) == (endpoint["type"] == "LOAD_BALANCER")
    assert "worker w1: waited" in said
    other = "{type: queue}" if "load_balancer" in section else "{type: load_balancer}"
    shell.write(MANIFEST.partition("deploy:")[0] + f"deploy: {other}\n")
    assert "which RunPod cannot change" in shell.deploy(code=2)


def test_what_was_edited_by_hand_is_shown_and_stays(shell: Shell) -> None:
    shell.deploy()
    (endpoint,) = shell.api.endpoints.values()
    env = {**endpoint["env"], "BAKERY_OOM": "fail", "MINE": "typed-in-secret"}
    shell.api.edit("ep1", disk=99, env=env, dataCenterIds=["US-TX-3"])
    said = shell.deploy(SECOND, code=2)
    assert "~ disk: 99 → 22   ← edited by hand" in said
    assert "~ env.BAKERY_OOM: fail → split   ← edited by hand" in said
    assert "somebody edited disk, env.BAKERY_OOM by hand" in said
    assert "--overwrite" in said
    assert endpoint["image"] == FIRST
    assert shell.api.requests("PATCH") == []
    said = shell.deploy(SECOND, "--overwrite")
    assert (endpoint["image"], endpoint["disk"]) == (SECOND, 22)
    # What the manifest says nothing about is nobody's to overwrite.
    assert endpoint["env"]["MINE"] == "typed-in-secret"
    assert endpoint["dataCenterIds"] == ["US-TX-3"]
    assert "typed-in-secret" not in said


def test_a_foreign_endpoint_is_not_taken_over_unasked(shell: Shell) -> None:
    shell.deploy()
    (endpoint,) = shell.api.endpoints.values()
    shell.api.edit("ep1", env={}, name="shapes -fb")
    said = shell.deploy(SECOND, code=2)
    assert "or bake never set it" in said
    shell.deploy(SECOND, "--overwrite")
    assert endpoint["image"] == SECOND


def test_two_of_one_name_are_a_mistake(shell: Shell) -> None:
    shell.deploy()
    shell.api.endpoints["ep2"] = {**shell.api.endpoints["ep1"], "id": "ep2"}
    assert "2 endpoints are called 'shapes': ep1, ep2" in shell.deploy(SECOND, code=2)


def test_a_dry_run_changes_nothing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    said = shell.deploy(FIRST, "--dry-run")
    assert f"+ image: {FIRST}" in said
    assert shell.api.endpoints == {}
    shell.deploy()
    assert f"~ image: {FIRST} → {SECOND}" in shell.deploy(SECOND, "--dry-run")
    assert shell.api.endpoints["ep1"]["image"] == FIRST
    monkeypatch.delenv("RUNPOD_API_KEY")
    count = len(shell.api.seen)
    said = shell("deploy", "--dry-run")
    assert "+ image: ghcr.io/you/shapes@(digest of the bake)" in said
    assert "RUNPOD_API_KEY is not set: not compared with what is there" in said
    assert len(shell.api.seen) == count
    assert "RunPod's API key is missing" in shell.deploy(code=2)


def test_nobody_is_asked_without_a_terminal(shell: Shell) -> None:
    said = shell("deploy", "--image", FIRST, code=2)
    assert "there is no terminal to ask on" in said
    assert shell.api.endpoints == {}


def test_the_key_may_be_in_a_file(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (shell.folder / "key").write_text(f"{TOKEN}\n")
    monkeypatch.delenv("RUNPOD_API_KEY")
    monkeypatch.setenv("RUNPOD_API_KEY_FILE", str(shell.folder / "key"))
    shell.deploy()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "RunPod does not accept this: HTTP 400, because"),
        (401, "RunPod does not know the API key: HTTP 401, because"),
        (402, "RunPod asks for payment: HTTP 402, because"),
        (403, "the API key lacks the right to this: HTTP 403, because"),
        (404, "RunPod does not have this, or not in this account: HTTP 404, because"),
        (409, "another change is under way: HTTP 409, because"),
        (418, "RunPod gives an answer that bake does not know: HTTP 418, because"),
        (422, "RunPod does not accept this: HTTP 422, because"),
        (301, "RunPod gives an answer that bake does not know: HTTP 301, because"),
    ],
)
def test_refusals_in_words(shell: Shell, status: int, words: str) -> None:
    shell.api.fail("POST", "/v2/serverless", status)
    said = shell.deploy(code=7)
    assert f"POST /v2/serverless: {words}" in said
    assert len(shell.api.requests("POST")) == 1


def test_a_problem_document_is_told_whole_and_without_the_key(shell: Shell) -> None:
    errors = ["$.gpu.pools: ADA_99 is no pool", f"odd {TOKEN}\n\x1b[31m line"]
    shell.api.fail("POST", "/v2/serverless", 422, detail="validation failed", errors=errors)
    said = shell.deploy(code=7)
    assert "HTTP 422, validation failed; $.gpu.pools: ADA_99 is no pool; odd ***" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b"[]", b'{"errors": 7}', b"\xff"])
def test_other_bodies_are_not_shown(shell: Shell, body: bytes) -> None:
    shell.api.fail("GET", "/v2/serverless", 403, body=body or b" ")
    said = shell.deploy(code=7)
    assert "the API key lacks the right to this: HTTP 403\n" in said


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 520, 524, 0])
def test_what_passes_is_tried_again(shell: Shell, status: int) -> None:
    shell.api.fail("GET", "/v2/serverless", status, times=2, headers={"Retry-After": "0"})
    shell.deploy()
    shell.api.fail("PATCH", "/v2/serverless/ep1", status, times=2)
    shell.deploy(SECOND)
    assert shell.api.endpoints["ep1"]["image"] == SECOND


def test_what_does_not_pass_ends(shell: Shell) -> None:
    shell.api.fail("GET", "/v2/serverless", 503, times=99)
    assert "HTTP 503, because, 7 times in a row" in shell.deploy(code=7)


@pytest.mark.parametrize("status", [500, 504, 0])
def test_an_endpoint_is_never_made_twice(shell: Shell, status: int) -> None:
    shell.api.fail("POST", "/v2/serverless", status, is_applied=True)
    said = shell.deploy(code=7)
    assert "whether the endpoint was made is not known" in said
    assert "run the command again" in said
    assert len(shell.api.endpoints) == 1
    shell.deploy()
    assert len(shell.api.endpoints) == 1


@pytest.mark.parametrize("is_balanced", [False, True])
def test_what_came_while_this_machine_stood_still_is_seen(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, is_balanced: bool
) -> None:
    """The time is over then, and nobody has looked since."""
    shell.write(BALANCED if is_balanced else MANIFEST)
    looks = 0

    def is_first() -> bool:
        nonlocal looks
        looks += 1
        return looks == 1

    clock = SimpleNamespace(monotonic=lambda: 3600.0 * looks, sleep=lambda _: None)
    monkeypatch.setattr(release, "time", clock)
    shell.api.after_status = lambda job: None if is_first() else shell.api.complete(job)
    shell.api.after_request = lambda: (504, b"", {}) if is_first() else shell.api.draw()
    assert "worker w1: waited" in shell.deploy(FIRST, "--timeout", "60")
    assert looks == 2


def test_too_many_requests_made_nothing(shell: Shell) -> None:
    shell.api.fail("POST", "/v2/serverless", 429, times=2)
    shell.deploy()
    assert len(shell.api.endpoints) == 1


def test_answers_that_are_not_documented(shell: Shell) -> None:
    shell.api.fail("GET", "/v2/serverless", 200, body=b'{"endpoints": {}}')
    assert "RunPod's answer lacks the list 'endpoints'" in shell.deploy(code=7)
    shell.api.fail("GET", "/v2/serverless", 200, body=b'{"endpoints": [{}]}')
    assert "RunPod's answer lacks 'id' of an endpoint" in shell.deploy(code=7)
    shell.api.fail("GET", "/v2/serverless", 200, body=b"<html>", times=99)
    assert "HTTP 200 without JSON, 7 times in a row" in shell.deploy(code=7)


def test_a_job_that_fails(shell: Shell) -> None:
    def fail(job: dict[str, Any]) -> None:
        shell.api.worker("w1")
        error = json.dumps({"code": "out_of_memory", "message": "the picture does not fit"})
        job.update(status="FAILED", workerId="w1", error=error)

    shell.api.after_status = fail
    said = shell.deploy(code=6)
    assert "ended as FAILED: out_of_memory: the picture does not fit; workers: 1 idle" in said
    assert "  model loaded\n" in said
    assert "bake deploy MANIFEST --rollback goes back" in said


def test_an_answer_without_a_picture(shell: Shell) -> None:
    shell.api.after_status = lambda job: job.update(status="COMPLETED", workerId="w1", output={})
    assert "the test job's answer holds no picture" in shell.deploy(code=6)


def test_a_worker_that_never_gets_ready(shell: Shell) -> None:
    shell.api.after_status = lambda _: shell.api.worker("w1", "INITIALIZING")
    said = shell.deploy(FIRST, "--timeout", "1", code=6)
    assert (
        "no worker of the new release served the test job in time; workers: 1 initializing" in said
    )
    assert "workers: none" in said
    assert "  loading the model\n" in said
    # Nobody pays for a picture that nobody waits for.
    assert [each["status"] for each in shell.api.jobs.values()] == ["CANCELLED"]


def test_an_unhealthy_worker_ends_the_wait_at_once(shell: Shell) -> None:
    shell.api.after_status = lambda _: shell.api.worker("w7", "UNHEALTHY")
    said = shell.deploy(code=6)
    assert "worker w7 of the new release is unhealthy; workers: 1 unhealthy" in said
    assert [each["status"] for each in shell.api.jobs.values()] == ["CANCELLED"]


def test_a_worker_of_the_older_release_is_no_proof(shell: Shell) -> None:
    shell.deploy()
    shell.api.worker("old", is_stale=True)
    answers: list[Callable[[dict[str, Any]], None]] = [
        lambda job: shell.api.complete(job, "new"),
        lambda job: job.update(status="COMPLETED", workerId="old", output={}),
    ]

    def answer(job: dict[str, Any]) -> None:
        answers.pop()(job)

    shell.api.after_status = answer
    said = shell.deploy(SECOND)
    assert "worker old of the older release took the job; once more" in said
    assert "worker new: waited" in said


BALANCED = MANIFEST.partition("deploy:")[0] + "deploy: {type: load_balancer}\n"


def test_a_load_balancer_draws_with_a_request(shell: Shell) -> None:
    shell.write(BALANCED)
    busy: list[tuple[int, Any, Mapping[str, str]]] = [
        (502, b"no worker", {}),
        (503, {"code": "busy"}, {}),
    ]

    def answer() -> tuple[int, Any, Mapping[str, str]]:
        return busy.pop() if busy else shell.api.draw()

    shell.api.after_request = answer
    said = shell.deploy()
    assert "worker w1: waited" in said
    asked = [body for method, path, body in shell.api.seen if path.endswith("/txt2img")]
    assert [each["prompt"] for each in asked] == ["a red circle"] * 3
    assert (shell.folder / "build/shapes/deployed.png").read_bytes() == PNG


def test_a_load_balancer_does_not_say_who_answered(shell: Shell) -> None:
    shell.write(BALANCED)
    shell.deploy()
    shell.api.worker("old", is_stale=True)
    asked = itertools.count()

    def answer() -> tuple[int, Any, Mapping[str, str]]:
        if next(asked):
            shell.api.workers = []
        return shell.api.draw()

    shell.api.after_request = answer
    assert "worker w1: waited" in shell.deploy(SECOND)
    assert next(asked) == 2


def test_a_load_balancer_whose_worker_fails(shell: Shell) -> None:
    shell.write(BALANCED)
    shell.api.worker("w1")
    shell.api.after_request = lambda: (500, {"detail": "the picture does not fit"}, {})
    said = shell.deploy(code=6)
    assert "the test request fails: HTTP 500, the picture does not fit; workers: 1 idle" in said
    assert "  model loaded\n" in said
    shell.api.after_request = lambda: (422, {"detail": "prompt: is missing"}, {})
    assert "the test request is refused: " in shell.deploy(code=6)
    shell.api.after_request = lambda: (504, b"", {})
    said = shell.deploy(FIRST, "--timeout", "1", code=6)
    assert "no worker of the new release served the test request in time; at last: HTTP 504" in said
    shell.api.after_request = lambda: (200, {"images": []}, {})
    assert "the test job's answer holds no picture" in shell.deploy(code=6)


def test_a_release_that_is_superseded(shell: Shell) -> None:
    shell.api.after_status = lambda _: shell.api.edit("ep1", image=THIRD)
    said = shell.deploy(code=6)
    assert "release 1 was superseded by release 2 while it was waited for" in said


def test_logs(shell: Shell) -> None:
    assert "there is no endpoint 'shapes'" in shell("logs", code=2)
    shell.deploy()
    assert "worker w1 of ep1\n" in shell("logs", "--tail", "5")
    shell.api.workers = []
    assert "the endpoint has no worker now" in shell("logs", code=2)
    lines = [json.loads(line) for line in shell("logs", "--worker", "w1", "--json").splitlines()]
    assert [each["line"] for each in lines if each["event"] == "log"] == shell.api.log_lines


def test_to_no_worker_and_away(shell: Shell) -> None:
    shell.deploy()
    (endpoint,) = shell.api.endpoints.values()
    assert "there is no terminal to ask on" in shell("undeploy", code=2)
    shell("undeploy", "--yes")
    assert (endpoint["workers"]["min"], endpoint["workers"]["max"]) == (0, 0)
    # Our own edit: the next deploy lets it run again, without a word about hands.
    assert "by hand" not in shell.deploy()
    assert endpoint["workers"]["max"] == 3
    shell.api.fail("DELETE", "/v2/serverless/ep1", 502, is_applied=True)
    assert "ep1 removed" in shell("undeploy", "--remove", "--yes")
    assert shell.api.endpoints == {}


def test_the_key_goes_to_nobody_else(shell: Shell) -> None:
    shell.deploy()
    shell.api.endpoints["ep1"]["requestUrls"]["run"] = "https://runpod.ai.evil.example/run"
    assert "the API names no address of its own for requests (run)" in shell.deploy(code=7)


def test_a_redirect_is_not_followed() -> None:
    api = RunpodApi(DOCUMENTS[0])
    try:
        api.fail("GET", "/v2/serverless", 302, headers={"Location": "http://127.0.0.1:1/"})
        with (
            RunpodClient(url=api.url, token=TOKEN) as client,
            pytest.raises(PushError, match="302"),
        ):
            client.endpoints()
    finally:
        api.close()


def test_from_the_manifest_to_an_endpoint_and_back(shell: Shell) -> None:
    """The part of a pipeline: deploy, test job, new image, test job, rollback, test job."""
    began = time.monotonic()
    events = []
    for options in (("--image", FIRST), ("--image", SECOND), ("--rollback",)):
        said = shell("deploy", *options, "--yes", "--json")
        events += [json.loads(line) for line in said.splitlines()]
    served = [each for each in events if each["event"] == "served"]
    assert [each["worker"] for each in served] == ["w1", "w1", "w1"]
    assert [each["image"] for each in events if each["event"] == "deployed"] == [
        FIRST,
        SECOND,
        FIRST,
    ]
    assert len(shell.api.jobs) == 3
    assert time.monotonic() - began < 600
