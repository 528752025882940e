"""The stand-in webui's life: how it loads, what ends or hangs a job, and the faults that it plays."""

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.integration.demo_case import QUICK, Start, Webui, starting, wait_until


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with starting(tmp_path) as run:
        yield run


def test_answers_before_the_model_is_loaded(start: Start) -> None:
    webui = start(faults="hang-load").wait()
    assert webui.call("GET", "/sdapi/v1/sd-models")[1][0]["model_name"] == "shapes"
    with pytest.raises(OSError, match="timed out"):
        webui.call("POST", "/sdapi/v1/txt2img", QUICK, timeout_s=1)


def test_jobs_wait_for_a_slow_load(start: Start) -> None:
    assert start(faults="slow-load=500").wait().draw()[0] == 200


def test_failed_load_leaves_sd_models_and_breaks_jobs(start: Start, tmp_path: Path) -> None:
    models = tmp_path / "data" / "models" / "Stable-diffusion"
    models.mkdir(parents=True)
    (models / "shapes.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not safetensors")
    webui = start().wait()
    assert webui.call("GET", "/sdapi/v1/sd-models")[0] == 200
    status, answer = webui.draw()
    assert (status, answer["error"]) == (500, "AttributeError")
    assert "model failed to load" in webui.log.read_text()


def test_missing_checkpoint_is_only_spoken_of(tmp_path: Path) -> None:
    webui = Webui(tmp_path / "data", "--ckpt", str(tmp_path / "none.safetensors"))
    try:
        assert webui.wait().call("GET", "/sdapi/v1/sd-models") == (200, [])
        assert webui.draw()[0] == 500
        assert "Checkpoint in --ckpt argument not found" in webui.log.read_text()
    finally:
        webui.stop()


def in_background(webui: Webui, **request: Any) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(webui.draw(**request)))
    thread.start()
    return thread, answers


def state_of(webui: Webui) -> Any:
    return webui.call("GET", "/sdapi/v1/progress?skip_current_image=true")[1]["state"]


def test_interrupt_gives_200_and_a_partial_picture(start: Start) -> None:
    webui = start(faults="slow=400").wait()
    assert webui.call("POST", "/sdapi/v1/interrupt") == (200, {})
    _, whole = webui.draw(steps=4)
    thread, answers = in_background(webui, steps=200, n_iter=2)
    wait_until(lambda: state_of(webui)["sampling_step"] > 2)
    progress = webui.call("GET", "/sdapi/v1/progress")[1]
    assert 0 < progress["progress"] < 1
    assert progress["current_image"]
    webui.call("POST", "/sdapi/v1/interrupt")
    thread.join()
    status, answer = answers[0]
    assert (status, len(answer["images"])) == (200, 1)
    assert answer["images"] != whole["images"]
    assert state_of(webui)["job_count"] == 0
    assert len(webui.draw()[1]["images"]) == 1, "the next job is not interrupted"


def _is_at(webui: Webui, batch: int) -> bool:
    state = state_of(webui)
    return bool(state["job_no"] == batch and state["sampling_step"] > 2)


def test_skip_goes_on_to_the_next_batch(start: Start) -> None:
    webui = start(faults="slow=400").wait()
    thread, answers = in_background(webui, steps=150, n_iter=2)
    for number in range(2):
        wait_until(partial(_is_at, webui, number))
        webui.call("POST", "/sdapi/v1/skip")
    thread.join()
    assert len(answers[0][1]["images"]) == 2


def test_jobs_run_one_at_a_time_and_a_lost_client_cancels_nothing(start: Start) -> None:
    webui = start(faults="slow=400").wait()
    webui.draw()
    # A minute, so that it surely draws when it is looked at; the end is an interrupt.
    body = json.dumps({**QUICK, "steps": 150}).encode()
    with socket.create_connection(("127.0.0.1", webui.port)) as client:
        head = f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        wait_until(lambda: state_of(webui)["sampling_step"] > 1)
    thread, answers = in_background(webui, steps=3)
    time.sleep(0.1)
    assert state_of(webui)["sampling_steps"] == 150, "the lost client's job goes on, ours waits"
    assert answers == []
    webui.call("POST", "/sdapi/v1/interrupt")
    thread.join()
    assert answers[0][0] == 200


def test_same_bytes_in_another_process_with_other_thread_settings(start: Start) -> None:
    request = {"steps": 8, "width": 256, "height": 256}
    first = start(OPENBLAS_NUM_THREADS="4").wait().draw(**request)[1]["images"]
    second = start(data="other", OMP_NUM_THREADS="1").wait().draw(**request)[1]["images"]
    assert first == second


def test_unknown_flag_ends_it(start: Start) -> None:
    webui = start("--no-such-flag")
    assert webui.process.wait(timeout=120) == 2
    assert "unrecognized arguments: --no-such-flag" in webui.log.read_text()


def test_fault_no_start(start: Start) -> None:
    webui = start(faults="no-start")
    assert webui.process.wait(timeout=120) == 1
    assert "Traceback" in webui.log.read_text()


def test_fault_hang_start(start: Start) -> None:
    webui = start(faults="hang-start")
    time.sleep(1)
    assert webui.process.poll() is None
    assert not webui.answers()


def test_fault_die_mid_job(start: Start) -> None:
    webui = start(faults="die-mid-job").wait()
    with pytest.raises(OSError, match=r"closed connection|reset"):
        webui.draw()
    assert webui.process.wait(timeout=120) == -9


def test_fault_hang_job_heeds_no_interrupt(start: Start) -> None:
    webui = start(faults="hang-job").wait()
    with pytest.raises(OSError, match="timed out"):
        webui.call("POST", "/sdapi/v1/txt2img", QUICK, timeout_s=1)
    # A slow machine may have left the first request before its job began.
    wait_until(lambda: state_of(webui)["job_count"] == 1)
    webui.call("POST", "/sdapi/v1/interrupt")
    assert state_of(webui)["interrupted"] is True
    assert state_of(webui)["job_count"] == 1


def test_fault_oom_above_a_number_of_pixels(start: Start) -> None:
    webui = start(faults=f"oom>{64 * 64}").wait()
    assert webui.draw()[0] == 200
    status, answer = webui.draw(batch_size=2)
    assert (status, answer["error"]) == (500, "OutOfMemoryError")
    assert answer["errors"].startswith("CUDA out of memory. Tried to allocate")
    assert webui.draw(n_iter=2)[0] == 200, "one after the other they fit"


def test_fault_black(start: Start) -> None:
    _, answer = start(faults="black").wait().draw()
    image = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    assert image.getextrema() == ((0, 0), (0, 0), (0, 0))


def test_unknown_fault_is_refused(start: Start) -> None:
    webui = start(faults="no-such-fault")
    assert webui.process.wait(timeout=120) == 1
    assert "DEMO_FAULT names 'no-such-fault'" in webui.log.read_text()
