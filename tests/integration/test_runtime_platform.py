"""Workers under the real SDKs on a stand-in of the platform: many jobs, lost ones, and every way to fail."""

import base64
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.worker import SDKS, SMALL, RunningWorker, Sdk, running
from tests.processes import stop
from tests.standins.runpod import Job, Platform

SLOW = {**SMALL, "steps": 150}
"""With DEMO_FAULT=slow=400 a minute: long enough to do something to it meanwhile on any machine."""


def start(
    sdk: Sdk, platform: Platform, tmp_path: Path, pod: str = "pod-1", **environment: str
) -> Any:
    return running(sdk, tmp_path / pod, **{**platform.environment(pod), **environment})


def begun(platform: Platform, value: Any) -> Job:
    """A job that draws, as a progress report says; another one where it is drawn already, since the worker stood still."""
    for _ in range(20):
        job = platform.submit(value)
        platform.wait_for(lambda job=job: job.results or any(each["step"] for each in job.progress))
        if not job.results:
            break
    return job


def is_png(job: Job) -> bool:
    return base64.b64decode(job.output["images"][0]).startswith(b"\x89PNG")


def drawn_in_the_end(platform: Platform, value: Any) -> Job:
    """A job of a worker with short deadlines, which a webui that stands still may miss: sent again then."""
    for _ in range(20):
        job = platform.wait(platform.submit(value))
        if "error" not in job.results[-1]:
            break
        assert job.error["code"] in {"timeout", "webui_unavailable"}, job.error
    return job


@pytest.mark.parametrize("sdk", SDKS)
def test_two_workers_share_the_jobs(sdk: Sdk, tmp_path: Path) -> None:
    with (
        Platform() as platform,
        start(sdk, platform, tmp_path, "pod-1") as first,
        start(sdk, platform, tmp_path, "pod-2"),
    ):
        jobs = [platform.submit({**SMALL, "seed": number}) for number in range(8)]
        wrong = platform.submit({"promt": "x"})
        for job in jobs:
            platform.wait(job)
            assert is_png(job)
            assert job.output["bakery"]["seeds"] == [job.input["seed"]]
        assert platform.wait(wrong).error["code"] == "invalid_request"
        assert {each.taken_by[0] for each in jobs} <= {"pod-1", "pod-2"}
        assert all(len(each.results) == 1 for each in jobs)
        # The second may have done them all before the first was ready.
        platform.wait_for(lambda: platform.pings["pod-1"] and "pod-1" in platform.asked)
        # One line for each job, with its id, and as many as there were.
        done = {each["requestId"] for each in first.entries(message="done")}
        assert done == {each.id for each in platform.jobs.values() if "pod-1" in each.taken_by}
        first.terminate()
        assert first.wait() == 0
        assert first.entries(message="worker ends")[0]["counts"].get("jobs", 0) >= 0


def test_lost_results_and_late_acknowledgements(tmp_path: Path) -> None:
    with Platform(lose_results=2, delay_s=0.3) as platform, start("runtime", platform, tmp_path):
        jobs = [platform.submit(SMALL) for _ in range(2)]
        for job in jobs:
            assert is_png(platform.wait(job))
        assert [len(each.results) for each in jobs] == [1, 1]


def test_progress_is_throttled_and_never_comes_after_the_result(tmp_path: Path) -> None:
    environment = {"DEMO_FAULT": "slow=40", "BAKERY_PROGRESS_S": "0.5"}
    with (
        Platform(delay_s=0.2) as platform,
        start("runtime", platform, tmp_path, **environment),
    ):
        for _ in range(20):
            began = time.monotonic()
            job = platform.wait(platform.submit(SLOW))
            steps = [each["step"] for each in job.progress]
            assert steps == sorted(steps)
            assert len(steps) <= (time.monotonic() - began) / 0.5 + 1
            assert job.late_progress == 0
            if len(steps) >= 2:  # fewer where the worker stood still while the webui drew
                break
        assert set(job.progress[0]) == {"progress", "eta_s", "step", "steps"}
        assert len(steps) >= 2


def test_a_report_that_is_slow_to_arrive_is_not_overtaken_by_the_result(tmp_path: Path) -> None:
    """It would set the job back to IN_PROGRESS, and the picture would be lost."""
    environment = {"DEMO_FAULT": "slow=40", "BAKERY_PROGRESS_S": "0.2"}
    with Platform(report_s=5) as platform, start("runtime", platform, tmp_path, **environment):
        for _ in range(20):
            job = platform.wait(platform.submit({**SMALL, "steps": 50}))
            platform.wait_for(lambda: not platform.reports_on_their_way)
            if job.progress:  # none where the worker stood still while the webui drew
                break
        assert job.progress
        assert job.late_progress == 0


def test_a_cancelled_job_is_interrupted_and_the_next_one_is_whole(tmp_path: Path) -> None:
    environment = {"DEMO_FAULT": "slow=400", "BAKERY_PROGRESS_S": "0.2"}
    with (
        Platform() as platform,
        start("runtime-latest", platform, tmp_path, **environment) as worker,
    ):
        job = begun(platform, SLOW)
        platform.cancel(job)
        following = platform.wait(platform.submit({**SMALL, "steps": 3}))
        assert is_png(following)
        assert json.loads(following.output["info"])["steps"] == 3
        assert job.results == []
        worker.terminate()
        assert worker.wait() == 0
        assert worker.entries(message="worker ends")[0]["counts"]["cancelled"] == 1


def test_a_job_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    # A later job has to be done in that time, on a busy machine too.
    environment = {
        "DEMO_FAULT": "slow=400",
        "BAKERY_JOB_TIMEOUT_S": "8",
        "BAKERY_WEBUI_RESTARTS": "20",
    }
    with Platform() as platform, start("runtime", platform, tmp_path, **environment):
        job = platform.wait(platform.submit(SLOW))
        assert (job.error["code"], job.error["retryable"]) == ("timeout", True)
        assert is_png(drawn_in_the_end(platform, {**SMALL, "steps": 3}))


@pytest.mark.parametrize("sdk", SDKS)
def test_sigterm_lets_the_running_job_finish(sdk: Sdk, tmp_path: Path) -> None:
    environment = {
        "DEMO_FAULT": "slow=100",
        "BAKERY_PROGRESS_S": "0.2",
        "BAKERY_TERM_GRACE_S": "100",
    }
    with Platform() as platform, start(sdk, platform, tmp_path, **environment) as worker:
        job = begun(platform, {**SMALL, "steps": 60})
        worker.terminate()
        worker.wait_for_log("told to stop")
        later = platform.submit(SMALL)
        assert worker.wait() == 0
        assert job.results, worker.log
        assert is_png(job)
        assert later.taken_by == []


def test_sigterm_ends_a_job_that_outlives_the_grace_and_an_idle_worker_at_once(
    tmp_path: Path,
) -> None:
    sdk: Sdk = "runtime-latest"
    environment = {
        "DEMO_FAULT": "slow=400",
        "BAKERY_PROGRESS_S": "0.2",
        "BAKERY_TERM_GRACE_S": "1",
    }
    with Platform() as platform, start(sdk, platform, tmp_path, **environment) as worker:
        job = begun(platform, SLOW)
        worker.terminate()
        assert worker.wait() == 0
        assert job.error["code"] == "worker_stopping"
    with Platform() as platform, start(sdk, platform, tmp_path, "pod-2") as worker:
        platform.wait(platform.submit(SMALL))
        worker.terminate()
        assert worker.wait() == 0


def test_a_webui_that_dies_while_it_draws_ends_the_worker(tmp_path: Path) -> None:
    environment = {"DEMO_FAULT": "slow=400", "BAKERY_PROGRESS_S": "0.2"}
    with Platform() as platform, start("runtime", platform, tmp_path, **environment) as worker:
        job = begun(platform, SLOW)
        os.kill(worker.webui_pid(), signal.SIGKILL)
        platform.wait(job)
        assert (job.error["code"], job.error["retryable"]) == ("webui_unavailable", True)
        assert job.results[0]["stopPod"] is True
        assert worker.wait() == 1
        assert "the webui ended while it drew" in worker.log


def test_a_webui_that_dies_between_jobs_is_started_again_once(tmp_path: Path) -> None:
    with Platform() as platform, start("runtime", platform, tmp_path) as worker:
        platform.wait(platform.submit(SMALL))
        os.kill(worker.webui_pid(), signal.SIGKILL)
        assert is_png(platform.wait(platform.submit(SMALL)))
        assert worker.entries(message="started again")
        os.kill(worker.webui_pid(), signal.SIGKILL)
        job = platform.wait(platform.submit(SMALL))
        assert job.error["message"] == "the webui ended"
        assert job.results[0]["stopPod"] is True
        assert worker.wait() == 1


def test_a_dead_webui_is_started_again_without_waiting_for_a_job(tmp_path: Path) -> None:
    with Platform() as platform, start("runtime", platform, tmp_path) as worker:
        platform.wait(platform.submit(SMALL))
        os.kill(worker.webui_pid(), signal.SIGKILL)
        worker.wait_for_log("started again")
        job = platform.wait(platform.submit(SMALL))
        assert is_png(job)
        assert job.output["bakery"]["attempts"] == 1
        assert len(worker.entries(message="started again")) == 1


def test_a_stopped_webui_is_killed_and_the_next_job_works(tmp_path: Path) -> None:
    # Long enough that a busy machine's webui is not taken for one that hangs.
    environment = {
        "DEMO_FAULT": "slow=400",
        "BAKERY_HANG_TIMEOUT_S": "6",
        "BAKERY_WEBUI_RESTARTS": "20",
    }
    with Platform() as platform, start("runtime", platform, tmp_path, **environment) as worker:
        drawn_in_the_end(platform, SMALL)
        job = platform.submit(SLOW)
        platform.wait_for(lambda: job.taken_by)
        stop(worker.webui_pid())
        assert platform.wait(job).error["message"] == "the webui hung"
        assert is_png(drawn_in_the_end(platform, SMALL))


def test_a_job_that_neither_ends_nor_heeds_an_interrupt(tmp_path: Path) -> None:
    environment = {
        "DEMO_FAULT": "hang-job",
        "BAKERY_JOB_TIMEOUT_S": "2",
        "BAKERY_INTERRUPT_TIMEOUT_S": "2",
        # The small picture at the start would hang as well.
        "BAKERY_BOOT": "all",
    }
    with Platform() as platform, start("runtime", platform, tmp_path, **environment) as worker:
        report_loaded(worker)
        job = platform.wait(platform.submit(SMALL))
        assert job.error["code"] == "timeout"
        assert worker.entries(message="does not stop drawing; killed")


def report_loaded(worker: RunningWorker) -> None:
    """Writes the event that boot writes where the webui is AUTOMATIC1111's, after boot's own first one."""
    timeline_file = worker.folder / "timeline"
    while not timeline_file.exists() or not timeline_file.stat().st_size:
        assert worker.exit_code is None, worker.log
        time.sleep(0.01)
    with timeline_file.open("a") as timeline:
        timeline.write('{"name": "model", "began": 0, "ended": 0}\n')


def test_out_of_memory_is_an_error_and_the_worker_goes_on(tmp_path: Path) -> None:
    environment = {"DEMO_FAULT": f"oom>{2 * 64 * 64}"}
    with Platform() as platform, start("runtime", platform, tmp_path, **environment) as worker:
        job = platform.wait(platform.submit({**SMALL, "batch_size": 4}))
        assert job.error["code"] == "out_of_memory"
        assert "GiB" not in job.results[0]["error"]
        assert "CUDA out of memory" in worker.log
        assert is_png(platform.wait(platform.submit(SMALL)))


def test_out_of_memory_may_split_the_batch_into_the_same_pictures(tmp_path: Path) -> None:
    request = {**SMALL, "batch_size": 4}
    with Platform() as platform, start("runtime", platform, tmp_path):
        whole = platform.wait(platform.submit(request)).output
    environment = {"DEMO_FAULT": f"oom>{2 * 64 * 64}", "BAKERY_OOM": "split"}
    with Platform() as platform, start("runtime", platform, tmp_path, "pod-2", **environment):
        split = platform.wait(platform.submit(request)).output
    assert split["bakery"]["degraded"] == {"batch_size": 2, "n_iter": 2}
    assert split["bakery"]["seeds"] == whole["bakery"]["seeds"] == [1, 2, 3, 4]
    assert len(split["images"]) == 4


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no-start", "the webui exited with code 1"),
        ("hang-start", "the webui's model was not loaded within 4 s"),
        ("hang-load", "the webui's model was not loaded within 4 s"),
    ],
)
def test_a_webui_that_does_not_get_ready_ends_the_worker_with_its_last_words(
    tmp_path: Path, fault: str, words: str
) -> None:
    environment = {"DEMO_FAULT": fault}
    if fault.startswith("hang"):
        environment["BAKERY_START_TIMEOUT_S"] = "4"
    with Platform() as platform, start("runtime", platform, tmp_path, **environment) as worker:
        job = platform.submit(SMALL)
        assert worker.wait() == 3
        (entry,) = worker.entries(phase="start", level="ERROR")
        assert words in entry["message"]
        assert entry["last_lines"] or fault.startswith("hang")
        assert job.taken_by == []


def test_a_worker_that_vanishes_loses_no_job(tmp_path: Path) -> None:
    environment = {"DEMO_FAULT": "slow=400", "BAKERY_PROGRESS_S": "0.2"}
    with Platform() as platform, start("runtime", platform, tmp_path, **environment) as worker:
        job = begun(platform, SLOW)
        webui = worker.webui_pid()
        worker.kill()
        os.kill(webui, signal.SIGKILL)  # it would live on as an orphan
        with start("runtime", platform, tmp_path, "pod-2"):
            platform.requeue(job)
            assert is_png(platform.wait(job))
            assert job.taken_by == ["pod-1", "pod-2"]


def test_a_result_above_the_limit_is_never_lost(tmp_path: Path) -> None:
    with (
        Platform() as platform,
        start("runtime", platform, tmp_path, BAKERY_MAX_RESPONSE_MB="0.01"),
    ):
        big = {**SMALL, "width": 256, "height": 256, "batch_size": 4}
        assert platform.wait(platform.submit(big)).error["code"] == "result_too_large"
        job = platform.wait(platform.submit({**SMALL, "if_too_large": "webp"}))
        assert job.results[0].get("error") or len(json.dumps(job.output)) < 10_000


def test_wrong_settings_end_the_worker_before_anything_starts(tmp_path: Path) -> None:
    with running("runtime", tmp_path, BAKERY_ATTEMPTS="many") as worker:
        assert worker.wait() == 2
        assert "BAKERY_ATTEMPTS='many'" in worker.log
        assert not (tmp_path / "webui.log").exists()
