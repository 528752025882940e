"""One job from input to output: retries, memory, death, cancellation, time, and what a client gets to see."""

import asyncio
import dataclasses
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.clock import clock
from runtime.errors import SettingsError
from runtime.job import handler, lora
from runtime.job.bucket import Bucket
from runtime.job.handler import Handler
from runtime.job.lora import LoraStore
from runtime.job.names import check_allowed, pin_settings
from runtime.log import Counters
from runtime.settings import Settings
from runtime.webui import generate, keeper
from runtime.webui.client import WebuiAnswerError, WebuiError, WebuiUnreachableError
from runtime.webui.generate import Generator, smaller_batch
from runtime.webui.keeper import Keeper
from runtime.worker import Worker
from tests.fake_webui import FakeWebui, out_of_memory
from tests.samples import DEFAULT_LIMITS, make_worker
from tests.standins.models import safetensors
from tests.unit.test_lora import DEMO_LORA, URL, Source


@pytest.fixture(autouse=True)
def _poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_POLL_S", 0.02)


FAST: dict[str, Any] = {"retry_wait_s": 0.01, "interrupt_timeout_s": 60.0}


class Bench:
    """A handler on a fake webui, and what it did."""

    def __init__(self, webui: FakeWebui, *, worker: Worker | None = None, **settings: Any) -> None:
        self.webui = webui
        self.settings = Settings(**{**FAST, **settings})
        self.counters = Counters()
        self.keeper = Keeper(webui, self.settings, self.counters)  # type: ignore[arg-type]
        self.reports: list[Any] = []
        self.refreshed = 0
        worker = worker or make_worker()
        self.handler = Handler(
            settings=self.settings,
            worker=worker,
            keeper=self.keeper,
            generator=Generator(self.keeper, self.settings, self.counters),
            loras=LoraStore(self.settings, worker, {}),
            bucket=Bucket(self.settings),
            limits=DEFAULT_LIMITS,
            counters=self.counters,
            report=lambda _job, progress: self.reports.append(progress),
            on_refresh=self._refresh,
        )

    def _refresh(self) -> None:
        self.refreshed += 1

    def run(self, value: Any = None, job_id: str = "job-1") -> dict[str, Any]:
        return asyncio.run(
            self.handler({"id": job_id, "input": {"prompt": "p"} if value is None else value})
        )

    def error(self, value: Any = None) -> dict[str, Any]:
        result = self.run(value)
        assert set(result) <= {"error", "refresh_worker"}
        assert isinstance(result["error"], str)
        assert "webui/" not in result["error"]
        assert "Traceback" not in result["error"]
        error: dict[str, Any] = json.loads(result["error"])
        return {**error, "refresh": result.get("refresh_worker", False)}


def test_a_worker_s_handler_is_made_with_all_that_it_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared: list[Bucket] = []

    def prepare(bucket: Bucket) -> None:
        prepared.append(bucket)

    monkeypatch.setattr(Bucket, "prepare", prepare)
    source = Source(safetensors(DEMO_LORA))
    monkeypatch.setattr(lora, "fetch_url", source.fetch)
    webui, counters = FakeWebui(), Counters()
    folder = str(tmp_path / "loras")
    worker = make_worker(webui=dataclasses.replace(make_worker().webui, lora_dir=folder))
    settings = Settings(
        **FAST, civitai_token="of-civitai", hf_token="of-hf", lora_cache=str(tmp_path / "cache"),
        progress_s=0.01,
    )  # fmt: skip
    reports: list[Any] = []
    refreshed: list[None] = []
    made = Handler.create(
        worker,
        settings,
        limits={**DEFAULT_LIMITS, "images": 3},
        keeper=Keeper(webui, settings, counters),  # type: ignore[arg-type]
        counters=counters,
        report=lambda job, progress: reports.append((job["id"], progress["steps"])),
        on_refresh=lambda: refreshed.append(None),
    )
    assert prepared == [made.bucket]

    def run(job_id: str, **asked: Any) -> Any:
        return asyncio.run(made({"id": job_id, "input": {"prompt": "p", **asked}}))

    def reported(_payload: Mapping[str, Any]) -> None:
        end = time.monotonic() + 60
        while not reports:
            assert time.monotonic() < end
            time.sleep(0.01)

    webui.script = [reported]
    output = run("job-1", loras=[{"name": "mine", "url": URL}])
    assert (len(output["images"]), output["bakery"]["image"]["name"]) == (1, "sample")
    assert reports[0] == ("job-1", 20)
    credentials = source.arguments["credentials"]
    assert (credentials.origin, credentials.value) == (
        "https://civitai.com", "Bearer of-civitai",
    )  # fmt: skip
    run("job-2", loras=[{"name": "m", "url": "https://huggingface.co/a/b/resolve/main/c.safetensors"}])  # fmt: skip
    assert source.arguments["credentials"].value == "Bearer of-hf"
    assert "at most 3 are allowed" in run("job-3", batch_size=4)["error"]
    bucketless = run("job-4", delivery="s3")["error"]
    assert json.loads(bucketless)["code"] == "storage_not_configured"
    webui.exit_code, webui.fails_to_start = 1, True
    assert run("job-5")["refresh_worker"] is True
    assert len(refreshed) == 1
    capsys.readouterr()
    counters.write()
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert (counts["jobs"], counts["jobs_failed"]) == (2, 3)


def test_the_output_is_the_webuis_with_what_it_was_made_with() -> None:
    bench = Bench(FakeWebui())
    output = bench.run({"prompt": "p", "seed": 5, "batch_size": 2})
    assert set(output) == {"images", "parameters", "info", "bakery"}
    assert len(output["images"]) == 2
    assert isinstance(output["info"], str)
    assert output["parameters"]["prompt"] == "p"
    ours = output["bakery"]
    assert ours["seeds"] == [5, 6]
    assert ours["model"] == {"name": "base", "sha256": "a" * 64}
    assert ours["image"] == {"name": "sample", "lock_sha256": "f" * 64, "webui": "1.9.3"}
    assert ours["output"] == {"delivery": "base64", "format": "png"}
    assert (ours["attempts"], ours["degraded"], ours["loras"]) == (1, None, [])
    assert set(ours["timings"]) == {"wait_s", "lora_s", "generate_s", "output_s", "total_s"}
    json.dumps(output)


def test_a_baked_lora_is_put_in_front_and_its_layers_are_counted() -> None:
    bench = Bench(webui := FakeWebui())
    value = {
        "prompt": "an <lora:x a fox <lora:blue-pencil:1>".replace("<lora:x ", ""),
        "loras": [{"name": "detail", "scale": 0.55}],
    }
    output = bench.run(value)
    assert webui.payloads[0]["prompt"] == "<lora:detail:0.55>an a fox <lora:blue-pencil:1>"
    assert output["bakery"]["loras"] == [
        {
            "name": "detail",
            "tag": "detail",
            "scale": 0.55,
            "sha256": "d" * 64,
            "source": "baked",
            "was_cached": True,
            "layers": 10,
            "applied": 10,
        }
    ]
    assert output["bakery"]["notes"] == []
    assert "bakery" not in json.loads(output["info"])


def test_an_embedding_comes_back_with_its_source() -> None:
    bench = Bench(FakeWebui({"bakery": {"loras": [], "embeddings": ["EasyNegative"]}}))
    output = bench.run({"prompt": "EasyNegative", "embeddings": ["EasyNegative"]})
    assert output["bakery"]["embeddings"] == [
        {"name": "EasyNegative", "sha256": "2" * 64, "source": "baked", "was_cached": True}
    ]


FAILED = {"matched": 8, "applied": 6, "failed": 2}


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        (
            {"matched": 0, "applied": 0, "has_effect": False},
            "none of its names is that of a layer of this model",
        ),
        ({"applied": 0, "has_effect": False}, "none of its 10 layers took part in the drawing"),
        ({"has_effect": False}, "all its changes are zero"),
        (FAILED, "2 of 8 layers failed"),
        (
            {**FAILED, "reason": "\"addmm_impl_cpu_\" not implemented for 'Half'"},
            "2 of 8 layers failed: its precision cannot be computed here",
        ),
        (
            {**FAILED, "reason": "The size of tensor a (3) must match the size of tensor b (4)"},
            "2 of 8 layers failed: its shapes are not those of this model's layers",
        ),
        (
            {
                "layers": 0,
                "matched": 0,
                "applied": 0,
                "reason": "AssertionError: Could not find a module type (out of /webui/x)",
            },
            "a layer's parts are of no kind that the webui knows",
        ),
        (
            {"matched": 0, "applied": 0, "reason": "OSError: /webui/x"},
            "the webui could not read it",
        ),
    ],
)
@pytest.mark.parametrize("value", [{"loras": [{"name": "detail"}]}, {"prompt": "<lora:detail:1>"}])
def test_a_lora_that_was_not_applied_fails_the_job_with_the_reason(
    counts: dict[str, Any], why: str, value: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    error = Bench(FakeWebui({"counts": {"detail": counts}})).error(value)
    assert (error["code"], error["retryable"]) == ("lora_not_applied", False)
    assert error["message"].startswith(f"the webui drew without detail ({why}")
    assert '"layers\\": ' in capsys.readouterr().out


def test_a_layer_without_memory_is_no_fault_of_the_lora() -> None:
    reason = "CUDA out of memory. Tried to allocate 20.00 MiB"
    error = Bench(FakeWebui({"counts": {"detail": {**FAILED, "reason": reason}}})).error(
        {"loras": [{"name": "detail"}]}
    )
    assert error["code"] == "out_of_memory"
    assert "fewer LoRAs" in error["message"]


def test_a_lora_of_scale_zero_asks_for_nothing() -> None:
    zero = {"counts": {"detail": {"applied": 0, "has_effect": False}}}
    assert "images" in Bench(FakeWebui(zero)).run({"loras": [{"name": "detail", "scale": 0}]})


def test_a_lora_that_was_applied_in_part_is_noted() -> None:
    part = {"counts": {"detail": {"matched": 7, "applied": 7}}}
    ours = Bench(FakeWebui(part)).run({"loras": [{"name": "detail"}]})["bakery"]
    assert (ours["loras"][0]["layers"], ours["loras"][0]["applied"]) == (10, 7)
    assert ours["notes"] == [
        "the LoRA 'detail' is for another model in part: 7 of its 10 layers were applied"
    ]


def test_a_webui_that_boot_does_not_know_is_held_against_its_list() -> None:
    unknown = {"bakery": None}
    webui = FakeWebui(unknown, {**unknown, "extra_generation_params": {"Lora hashes": "other: a"}})
    ours = Bench(webui).run({"loras": [{"name": "detail"}]})["bakery"]
    assert (ours["loras"][0]["layers"], ours["loras"][0]["applied"]) == (None, None)
    assert ours["notes"] == [
        "the webui listed the LoRAs as loaded; which of their layers it applied cannot be seen here"
    ]
    error = Bench(webui).error({"loras": [{"name": "detail"}]})
    assert (error["code"], error["message"]) == (
        "lora_not_applied",
        "the webui drew without detail",
    )


HIRES = {"enable_hr": True, "denoising_strength": 0.5}


@pytest.mark.parametrize("changes", [{}, {"bakery": None}])
def test_each_pass_may_have_a_lora_of_its_own(changes: dict[str, Any]) -> None:
    value = {**HIRES, "prompt": "<lora:detail:1>a", "hr_prompt": "<lora:blue-pencil:1>b"}
    bench = Bench(FakeWebui(changes, changes))
    assert "images" in bench.run(value)
    assert "images" in bench.run({**value, "n_iter": 2})


def test_an_interrupted_picture_is_none() -> None:
    error = Bench(FakeWebui({"bakery": {"loras": [], "interrupted": True}})).error()
    assert (error["code"], error["message"]) == ("generation_failed", "the drawing was interrupted")


def test_a_prompt_cannot_swallow_the_tag() -> None:
    webui = FakeWebui()
    Bench(webui).run({"prompt": "> <lora:oops", "loras": [{"name": "detail", "scale": 1e-05}]})
    assert webui.payloads[0]["prompt"] == "<lora:detail:0.00001>> <lora:oops"


def test_the_second_pass_has_the_loras_too_where_it_has_a_prompt_of_its_own() -> None:
    webui = FakeWebui()
    hires = {**HIRES, "loras": [{"name": "detail"}]}
    bench = Bench(webui)
    bench.run({**hires, "prompt": "a", "hr_prompt": "b"})
    bench.run({**hires, "prompt": "a", "hr_prompt": ""})
    assert [each["hr_prompt"] for each in webui.payloads] == ["<lora:detail:1>b", ""]


@pytest.mark.parametrize(
    "asked", [{"restore_faces": True}, {"enable_hr": True, "denoising_strength": 0.5}]
)
def test_an_upscaler_or_face_restorer_without_its_model_is_an_error(asked: dict[str, Any]) -> None:
    webui = FakeWebui()

    def draws_without(_payload: Mapping[str, Any]) -> None:
        webui.missing_models += 1

    webui.script = [draws_without]
    bench = Bench(webui)
    error = bench.error({"prompt": "p", **asked})
    assert (error["code"], error["retryable"]) == ("not_honoured", False)
    assert "the model of the upscaler or of the face restorer" in error["message"]
    assert "images" in bench.run({"prompt": "p", **asked})


def test_what_the_webui_has_printed_is_read_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that reads it may come late where the machine is busy, or stood still."""

    class Unread(FakeWebui):
        looks = 0

        @property
        def has_unread_output(self) -> bool:
            self.looks += 1
            self.missing_models = int(self.looks == 4)
            return self.looks < 4

        @has_unread_output.setter
        def has_unread_output(self, _value: bool) -> None:
            pass

    error = Bench(Unread()).error({"prompt": "p", "restore_faces": True})
    assert "the model of the upscaler or of the face restorer" in error["message"]
    endless = FakeWebui()
    endless.has_unread_output = True
    monkeypatch.setattr("runtime.webui.generate._PRINTED_S", 0)
    assert "images" in Bench(endless).run({"prompt": "p", "restore_faces": True})


def test_another_model_than_asked_for_is_an_error() -> None:
    error = Bench(FakeWebui({"sd_model_name": "base"})).error({"checkpoint": "second"})
    assert error["code"] == "not_honoured"
    assert "'second'" in error["message"]


def test_fewer_pictures_than_asked_for_are_an_error() -> None:
    def one_only(payload: Mapping[str, Any]) -> Any:
        payload["override_settings"].clear()
        return {}

    webui = FakeWebui(one_only)
    original = webui.draw

    def cut(payload: Mapping[str, Any], **more: Any) -> Any:
        answer = original(payload, **more)
        return {**answer, "images": answer["images"][:1]}

    webui.draw = cut  # type: ignore[method-assign]
    error = Bench(webui).error({"prompt": "p", "batch_size": 2})
    assert error["message"] == "the webui drew 1 of 2 pictures"


def test_an_invalid_request_never_reaches_the_webui() -> None:
    webui = FakeWebui()
    error = Bench(webui).error({"promt": "p"})
    assert error["code"] == "invalid_request"
    assert error["fields"] == [
        {"field": "promt", "message": "there is no such field (did you mean 'prompt'?)"}
    ]
    assert webui.payloads == []


def test_a_transient_failure_is_tried_three_times() -> None:
    broken = WebuiAnswerError(status=500, kind="RuntimeError", detail="cuBLAS in /webui/x.py")
    webui = FakeWebui(broken, WebuiUnreachableError("reset"))
    bench = Bench(webui)
    assert bench.run()["bakery"]["attempts"] == 3
    webui.script = [broken, broken, broken]
    assert bench.error()["code"] == "generation_failed"
    assert len(webui.payloads) == 6


@pytest.mark.parametrize(
    ("status", "kind"),
    [(422, ""), (404, "HTTPException"), (500, "NansException"), (500, "TypeError")],
)
def test_what_cannot_get_better_is_tried_once(status: int, kind: str) -> None:
    webui = FakeWebui(WebuiAnswerError(status=status, kind=kind, detail="/webui/modules/x.py"))
    assert Bench(webui).error()["code"] == "generation_failed"
    assert len(webui.payloads) == 1


def test_out_of_memory_is_an_error_that_says_so() -> None:
    webui = FakeWebui(out_of_memory())
    error = Bench(webui).error({"prompt": "p", "batch_size": 4})
    assert error["code"] == "out_of_memory"
    assert error["message"] == "the device's memory ran out; a smaller batch_size may fit"
    assert error["retryable"] is False
    assert error["refresh"] is False
    assert len(webui.payloads) == 1


def test_out_of_memory_splits_the_batch_where_the_operator_allows() -> None:
    webui = FakeWebui(out_of_memory(), out_of_memory())
    output = Bench(webui, oom="split").run({"prompt": "p", "batch_size": 4, "seed": 9})
    assert [(p["batch_size"], p.get("n_iter")) for p in webui.payloads] == [
        (4, None),
        (2, 2),
        (1, 4),
    ]
    assert output["bakery"]["seeds"] == [9, 10, 11, 12]
    assert output["bakery"]["degraded"] == {"batch_size": 1, "n_iter": 4}
    webui.script = [out_of_memory()]
    error = Bench(webui, oom="split").error({"prompt": "p"})
    assert error["message"] == "the device's memory ran out; a smaller picture may fit"


def test_smaller_batches_keep_the_number_of_pictures() -> None:
    assert smaller_batch({"batch_size": 6, "n_iter": 2}) == {"batch_size": 3, "n_iter": 4}
    assert smaller_batch({"batch_size": 5}) == {"batch_size": 1, "n_iter": 5}
    assert smaller_batch({}) is None
    one = {"batch_size": 2, "init_images": ["x"]}
    assert smaller_batch(one) == {**one, "batch_size": 1, "n_iter": 2}
    assert smaller_batch({**one, "init_images": ["x", "y"]}) is None
    assert smaller_batch({**one, "inpainting_fill": 2}) is None


def test_a_webui_found_dead_is_started_again_once() -> None:
    webui = FakeWebui()
    bench = Bench(webui)
    webui.exit_code = 1
    assert "images" in bench.run()
    assert webui.starts == 2
    webui.exit_code = 1
    error = bench.error()
    assert (error["code"], error["retryable"], error["refresh"]) == (
        "webui_unavailable",
        True,
        True,
    )
    assert (webui.starts, bench.refreshed) == (2, 1)


def test_one_that_dies_between_jobs_is_started_again_at_once_but_not_beyond_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper, "_WATCH_S", 0.01)
    webui = FakeWebui()
    bench = Bench(webui)

    async def watch() -> None:
        watching = asyncio.ensure_future(bench.keeper.watch())
        webui.exit_code = -9
        while webui.starts == 1:
            await asyncio.sleep(0.01)
        assert "images" in await bench.handler({"id": "a", "input": {"prompt": "p"}})
        webui.exit_code = -9
        await asyncio.sleep(0.1)
        assert (webui.starts, bench.refreshed) == (2, 0)
        failed = await bench.handler({"id": "b", "input": {"prompt": "p"}})
        assert json.loads(failed["error"])["message"] == "the webui ended"
        assert bench.refreshed == 1
        assert not watching.done()
        watching.cancel()

    asyncio.run(watch())


def test_the_watch_leaves_a_webui_alone_while_a_job_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_WATCH_S", 0.01)
    webui = FakeWebui()
    webui.script = [webui.dies(drawing=True)]
    bench = Bench(webui)

    async def watch() -> None:
        watching = asyncio.ensure_future(bench.keeper.watch())
        failed = await bench.handler({"id": "a", "input": {"prompt": "p"}})
        assert json.loads(failed["error"])["message"] == "the webui ended while it drew"
        watching.cancel()

    asyncio.run(watch())


def test_one_that_dies_before_it_drew_is_started_again_and_the_job_goes_on() -> None:
    webui = FakeWebui()
    webui.script = [webui.dies()]
    bench = Bench(webui)
    assert bench.run()["bakery"]["attempts"] == 2
    assert (webui.starts, bench.refreshed) == (2, 0)


def test_the_last_jobs_steps_are_not_those_of_one_that_waits() -> None:
    webui = FakeWebui()
    webui.state["job"] = ""
    webui.script = [webui.dies(drawing=True)]
    bench = Bench(webui, progress_s=0.01)
    assert bench.run()["bakery"]["attempts"] == 2
    assert (webui.starts, bench.refreshed, bench.reports) == (2, 0, [])


def test_one_that_dies_while_it_draws_ends_the_job_and_the_worker() -> None:
    webui = FakeWebui()
    webui.script = [webui.dies(drawing=True)]
    bench = Bench(webui)
    error = bench.error()
    assert error["message"] == "the webui ended while it drew"
    assert (error["refresh"], bench.refreshed, webui.starts) == (True, 1, 1)


def test_one_that_does_not_start_again_ends_the_worker() -> None:
    webui = FakeWebui()
    webui.exit_code, webui.fails_to_start = 1, True
    assert Bench(webui).error()["message"] == "the webui did not start again"


def test_a_hung_webui_is_killed() -> None:
    webui = FakeWebui()
    webui.script = [webui.draws_until_interrupted]
    webui.answers_progress = False
    bench = Bench(webui, hang_timeout_s=0.6)
    error = bench.error()
    assert (error["code"], error["message"]) == ("webui_unavailable", "the webui hung")
    assert webui.stops == 1
    webui.answers_progress = True
    assert "images" in Bench(webui).run()


def test_one_that_hangs_before_it_said_what_it_offers_is_started_again() -> None:
    webui = FakeWebui()
    bench = Bench(webui)
    offers = webui.get

    def hangs(_name: str) -> Any:
        raise WebuiError("no answer within 30 s")

    webui.get = hangs  # type: ignore[method-assign, assignment]
    error = bench.error()
    assert error["message"] == "the webui did not say what it offers"
    assert (error["retryable"], error["refresh"], webui.stops) == (True, False, 1)
    webui.get = offers  # type: ignore[method-assign]
    assert "images" in bench.run()
    assert webui.starts == 2


def test_one_that_hangs_again_without_an_answer_ends_the_worker() -> None:
    webui = FakeWebui()
    bench = Bench(webui, restarts=0)

    def hangs() -> Any:
        raise WebuiError("no answer within 30 s")

    webui.options = hangs  # type: ignore[method-assign]
    assert bench.error()["refresh"] is True
    assert bench.refreshed == 1


@pytest.mark.parametrize("ends", ["stop_at", "deadline"])
def test_a_download_does_not_outlive_its_job(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "_WATCH_S", 0.01)
    bench = Bench(FakeWebui(), job_timeout_s=0.1 if ends == "deadline" else 540.0)
    began, ended = threading.Event(), threading.Event()

    def fetches(_requests: Any, *, cancelled: threading.Event, **_: Any) -> Any:
        began.set()
        if ends == "stop_at":
            bench.keeper.stop_at = time.monotonic()
        cancelled.wait(30)
        ended.set()
        return []

    bench.handler.loras.prepare = fetches  # type: ignore[method-assign, assignment]
    code = {"stop_at": "worker_stopping", "deadline": "timeout"}[ends]
    assert bench.error()["code"] == code
    # On a busy machine the deadline may have passed before the download began.
    assert ended.is_set() or not began.is_set()
    assert bench.webui.payloads == []


def test_no_interrupt_is_on_its_way_when_the_next_job_may_begin() -> None:
    webui = FakeWebui()
    webui.script = [webui.draws_until_interrupted]
    webui.interrupt_takes_s = 0.5
    bench = Bench(webui, job_timeout_s=0.2)
    assert bench.error()["code"] == "timeout"
    assert webui.interrupts_answered == webui.interrupts > 0


def test_a_job_that_takes_too_long_is_interrupted_and_the_next_one_works() -> None:
    webui = FakeWebui()
    webui.script = [webui.draws_until_interrupted]
    bench = Bench(webui, job_timeout_s=0.3)
    error = bench.error()
    assert (error["code"], error["retryable"], error["refresh"]) == ("timeout", True, False)
    # Once a second until the webui stops, so more than once where a busy machine pauses.
    assert webui.interrupts >= 1
    assert webui.stops == 0
    assert "images" in Bench(webui).run()


def test_what_does_not_stop_when_interrupted_is_killed() -> None:
    webui = FakeWebui()
    webui.script = [webui.draws_until_interrupted]
    webui.heeds_interrupts = False
    bench = Bench(webui, job_timeout_s=0.2, interrupt_timeout_s=0.3)
    assert bench.error()["code"] == "timeout"
    assert webui.stops == 1


def test_a_cancelled_job_interrupts_the_webui_and_is_over_only_then() -> None:
    webui = FakeWebui()
    webui.script = [webui.draws_until_interrupted]
    bench = Bench(webui)

    async def cancel() -> None:
        task = asyncio.ensure_future(bench.handler({"id": "a", "input": {"prompt": "p"}}))
        while not webui.payloads and not task.done():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert webui.interrupts >= 1
        following = await bench.handler({"id": "b", "input": {"prompt": "p"}})
        assert "images" in following

    asyncio.run(cancel())


def test_a_stopping_worker_ends_its_job_when_the_grace_is_over() -> None:
    webui = FakeWebui()
    webui.script = [webui.draws_until_interrupted]
    bench = Bench(webui)
    bench.keeper.stop_at = time.monotonic() + 0.2
    assert bench.error()["code"] == "worker_stopping"


def test_jobs_at_the_same_time_take_turns() -> None:
    running = 0

    def alone(_payload: Mapping[str, Any]) -> None:
        nonlocal running
        running += 1
        assert running == 1
        time.sleep(0.05)
        running -= 1

    webui = FakeWebui(alone, alone, alone)
    bench = Bench(webui)

    async def all_at_once() -> list[Any]:
        jobs = [{"id": str(number), "input": {"prompt": "p"}} for number in range(3)]
        return list(await asyncio.gather(*map(bench.handler, jobs)))

    results = asyncio.run(all_at_once())
    assert all("images" in each for each in results)
    assert max(each["bakery"]["timings"]["wait_s"] for each in results) > 0


def test_progress_is_reported_where_the_operator_wants_it() -> None:
    def until_reported(_payload: Mapping[str, Any]) -> None:
        end = time.monotonic() + 60
        while not bench.reports:
            assert time.monotonic() < end
            time.sleep(0.01)

    bench = Bench(FakeWebui(until_reported), progress_s=0.05)
    bench.run()
    assert bench.reports[0] == {"progress": 0.5, "eta_s": 1.2, "step": 0, "steps": 20}
    silent = Bench(FakeWebui(lambda _payload: time.sleep(0.2)), progress_s=0)
    silent.run()
    assert silent.reports == []


def test_progress_is_not_reported_more_often_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 100.25, 100.5, 100.75, 101.25, 101.5, 101.75))
    monkeypatch.setattr(handler, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    reports: list[Any] = []
    on_progress = handler._throttle(lambda _job, what: reports.append(what["step"]), {}, 0.5)
    for step in range(6):
        on_progress({"state": {"sampling_step": step}})
    assert reports == [1, 3, 5]


def test_a_fault_of_ours_shows_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def breaks(_payload: Mapping[str, Any]) -> None:
        raise ZeroDivisionError("/opt/bakery/secret")

    error = Bench(FakeWebui(breaks)).error()
    assert error["code"] == "internal"
    assert "secret" not in json.dumps(error)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    fault = next(line for line in lines if "traceback" in line)
    assert "ZeroDivisionError" in fault["traceback"]
    assert fault["requestId"] == "job-1"


def test_the_log_has_the_jobs_id_and_phase_and_no_prompt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Bench(FakeWebui(out_of_memory())).run({"prompt": "a secret garden"}, job_id="job-42")
    out = capsys.readouterr().out
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["requestId"] for line in lines} == {"job-42"}
    assert {line["phase"] for line in lines} == {"job"}
    assert "CUDA out of memory" in out
    assert "secret garden" not in out
    Bench(FakeWebui(), log_prompts=True).run({"prompt": "a secret garden"})
    assert "secret garden" in capsys.readouterr().out


def test_counters_of_the_workers_life(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(FakeWebui())
    bench.run()
    bench.run({"promt": 1})
    capsys.readouterr()
    bench.counters.write()
    (line,) = capsys.readouterr().out.splitlines()
    counts = json.loads(line)["counts"]
    assert (counts["jobs"], counts["jobs_failed"], counts["error_invalid_request"]) == (1, 1, 1)
    assert 0 < counts["job_seconds"] < 600


def test_what_is_logged_of_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(FakeWebui(), log_prompts=True)
    bench.run({"prompt": "a fox", "seed": 5})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    logged = {line["message"]: line for line in lines}
    assert set(logged) >= {"request", "done"}
    assert (logged["request"]["level"], logged["request"]["phase"]) == ("INFO", "job")
    assert logged["request"]["payload"]["prompt"] == "a fox"
    done = logged["done"]
    assert (done["level"], done["phase"], done["failed"]) == ("INFO", "job", False)
    assert {"wait_s", "lora_s", "generate_s", "output_s", "total_s"} <= set(done)
    bench.error({"promt": 1, "steps": 0})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (failure,) = [line for line in lines if line["level"] == "ERROR"]
    what = "promt: there is no such field (did you mean 'prompt'?) (and 1 more)"
    assert (failure["message"], failure["phase"]) == (what, "job")
    assert (failure["code"], failure["fields"]) == ("invalid_request", ["promt", "steps"])
    assert lines[-1]["failed"] is True


def test_the_result_is_written_for_whoever_verifies_the_image(tmp_path: Path) -> None:
    output = Bench(FakeWebui(), test_output=str(tmp_path / "out.json")).run()
    assert json.loads((tmp_path / "out.json").read_text()) == output


def test_an_operators_override_is_typed_like_the_webuis_present_value() -> None:
    webui = FakeWebui()
    bench = Bench(webui, override_settings="live_previews_enable, not_there")
    bench.run({"override_settings": {"live_previews_enable": False}})
    assert webui.payloads[0]["override_settings"] == {"live_previews_enable": False}
    assert bench.error({"override_settings": {"not_there": 1}})["code"] == "invalid_request"


def test_settings_that_the_webui_could_not_restore_are_pinned_once(tmp_path: Path) -> None:
    webui = FakeWebui()
    bench = Bench(webui)
    bench.run()
    bench.run()
    assert webui.settings == [
        {
            "CLIP_stop_at_last_layers": 1,
            "enable_prompt_comments": True,
            "samples_format": "png",
            "live_previews_enable": True,
        }
    ]
    config = tmp_path / "config.json"
    config.write_text('{"CLIP_stop_at_last_layers": 2}')
    values = pin_settings(webui, config, ["CLIP_stop_at_last_layers", "not_there"])  # type: ignore[arg-type]
    assert values == {"CLIP_stop_at_last_layers": 1}
    assert len(webui.settings) == 1


def test_an_override_that_the_operator_misspelt_or_that_does_nothing_ends_the_start() -> None:
    webui = FakeWebui()
    check_allowed(webui, ["samples_format", "live_previews_enable"])  # type: ignore[arg-type]
    with pytest.raises(SettingsError) as caught:
        check_allowed(webui, ["sample_format", "samples_save"])  # type: ignore[arg-type]
    text = str(caught.value)
    assert text.startswith("BAKERY_OVERRIDE_SETTINGS: this webui has no setting 'sample_format'")
    assert "(did you mean 'samples_format'?); 'samples_save' does nothing in a single job" in text


def test_the_answer_says_what_was_accepted_though_it_changes_nothing() -> None:
    output = Bench(FakeWebui()).run({"save_images": True})
    assert output["bakery"]["notes"] == [
        "save_images: a worker keeps no pictures; they are in the answer"
    ]


def test_the_whole_prompt_is_drawn_where_a_hash_stands_in_it() -> None:
    output = Bench(FakeWebui()).run({"prompt": "hair of #ff0000, eyes"})
    assert json.loads(output["info"])["prompt"] == "hair of #ff0000, eyes"


def test_a_connection_that_did_not_outlive_a_freeze_is_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    webui = FakeWebui()

    def breaks_after_a_thaw(_payload: Mapping[str, Any]) -> None:
        webui.state["sampling_step"] = 3
        for _ in range(2):
            webui.asked.clear()
            assert webui.asked.wait(60)
        monkeypatch.setattr(clock, "frozen_s", 1000.0)
        raise WebuiUnreachableError("the connection broke")

    webui.script = [breaks_after_a_thaw]
    assert Bench(webui).run()["bakery"]["attempts"] == 2
    assert webui.starts == 1
