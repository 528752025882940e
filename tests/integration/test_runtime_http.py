"""The worker behind a load balancer: an HTTP server of its own, with the demo's webui."""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import CODES
from tests.conformance.pictures import PICTURE
from tests.integration.worker import ROOT, SMALL, RunningWorker, running
from tests.ports import free_port
from tests.processes import stop

SLOW = {**SMALL, "steps": 150}
"""With DEMO_FAULT=slow=400, a minute."""


class Client:
    """One connection a request."""

    def __init__(self, worker: RunningWorker, port: int) -> None:
        self.worker = worker
        self.port = port

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        with contextlib.closing(self.connect()) as connection:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer, answer.read()

    def draw(self, body: Any, **headers: str) -> tuple[http.client.HTTPResponse, Any]:
        answer, content = self.ask("POST", "/txt2img", body, **headers)
        return answer, json.loads(content)

    def ping(self, path: str = "/ping") -> int:
        return self.ask("GET", path)[0].status

    def wait_until(self, status: int, path: str = "/ping") -> None:
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                if self.ping(path) == status:
                    return
            assert self.worker.exit_code is None, self.worker.log
            assert time.monotonic() < end, self.worker.log
            time.sleep(0.05)


@contextlib.contextmanager
def serving(folder: Path, **environment: str) -> Iterator[Client]:
    port = free_port()
    environment = {"BAKERY_SERVER": "http", "PORT": str(port), **environment}
    with running("runtime", folder, **environment) as worker:
        yield Client(worker, port)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(tmp_path_factory.mktemp("http"), BAKERY_PROGRESS_S="0.1") as found:
        found.wait_until(200)
        yield found


def check_problem(answer: http.client.HTTPResponse, document: Any, code: str, status: int) -> None:
    assert answer.status == document["status"] == status, document
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert document["code"] == code
    assert document["title"] == CODES[code][1]
    assert document["type"] == "about:blank"
    assert isinstance(document["detail"], str)
    assert isinstance(document["retryable"], bool)


def test_a_job_and_its_bare_input_give_the_same_answer(client: Client) -> None:
    answer, wrapped = client.draw({"input": SMALL}, **{"X-Request-ID": "mine-1"})
    assert answer.status == 200, wrapped
    assert answer.headers["X-Request-ID"] == "mine-1"
    assert client.worker.entries(requestId="mine-1", phase="job", message="done")
    _, bare = client.draw(SMALL)
    assert bare["images"] == wrapped["images"]
    assert set(bare) == {"images", "parameters", "info", "bakery"}
    assert base64.b64decode(bare["images"][0]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("accept", "begin"),
    [
        ("image/png", b"\x89PNG"),
        ("image/avif,image/webp;q=0.9,image/png;q=0.5", b"RIFF"),
        ("image/jpeg", b"\xff\xd8"),
        ("image/*", b"\x89PNG"),
    ],
)
def test_the_picture_itself(client: Client, accept: str, begin: bytes) -> None:
    answer, content = client.ask("POST", "/txt2img", SMALL, Accept=accept)
    assert answer.status == 200, content
    assert content.startswith(begin)
    if begin == b"\x89PNG":
        _, job = client.draw(SMALL)
        assert content == base64.b64decode(job["images"][0])


def test_the_picture_of_an_upscaling(client: Client) -> None:
    larger = {"image": PICTURE, "upscaler_1": "Lanczos"}
    answer, content = client.ask("POST", "/txt2img", larger, Accept="image/png")
    assert answer.status == 200, content
    _, job = client.draw(larger)
    assert content == base64.b64decode(job["image"])
    _, content = client.ask("POST", "/txt2img", larger, Accept="image/webp")
    assert content.startswith(b"RIFF")


def test_several_pictures_have_no_single_form(client: Client) -> None:
    answer, document = client.draw({**SMALL, "batch_size": 2}, Accept="image/png")
    check_problem(answer, document, "invalid_request", 406)
    assert "2 pictures" in document["detail"]


def test_progress_comes_as_events(client: Client) -> None:
    answer, content = client.ask("POST", "/txt2img", SMALL, Accept="text/event-stream")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events = [
        (lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: ")))
        for lines in (each.split("\n") for each in content.decode().strip().split("\n\n"))
    ]
    assert events[-1][0] == "result"
    assert events[-1][1]["images"]
    assert {name for name, _ in events[:-1]} <= {"progress"}
    _, content = client.ask("POST", "/txt2img", {"stepz": 4}, Accept="text/event-stream")
    assert content.count(b"event:") == 1, content
    name, data = content.decode().strip().split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["code"] == "invalid_request"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "says"),
    [
        ("POST", "/txt2img", b"{", {}, 400, "the body is no JSON"),
        ("POST", "/txt2img", b"[" * 100_000, {}, 400, "the body is no JSON"),
        ("POST", "/txt2img", b"[]", {}, 422, ""),
        ("POST", "/txt2img", {"prompt": "x", "stepz": 4}, {}, 422, ""),
        ("POST", "/txt2img", SMALL, {"Accept": "image/gif"}, 406, "the answer can be"),
        ("GET", "/txt2img", None, {}, 405, "/txt2img takes POST"),
        ("POST", "/img2img", SMALL, {}, 404, "POST /txt2img"),
        ("POST", "/txt2img", b"x" * 30_000_001, {}, 413, "at most 30 MB"),
    ],
)
def test_what_is_refused_is_a_problem_in_words(
    client: Client,
    method: str,
    path: str,
    body: Any,
    headers: dict[str, str],
    status: int,
    says: str,
) -> None:
    answer, content = client.ask(method, path, body, **headers)
    document = json.loads(content)
    check_problem(answer, document, "invalid_request", status)
    assert says in document["detail"]
    if "stepz" in str(body):
        assert [each["field"] for each in document["fields"]] == ["stepz"]
    assert client.ping() == 200


def test_a_chunked_body_has_the_same_limit(client: Client) -> None:
    with contextlib.closing(client.connect()) as connection:
        chunks = (b"x" * 1_000_000 for _ in range(31))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", "/txt2img", chunks, encode_chunked=True,
                               headers={"Transfer-Encoding": "chunked"})  # fmt: skip
        assert connection.getresponse().status == 413
    assert client.ping() == 200


def test_start_full_queue_cancelled_and_ended(tmp_path: Path) -> None:
    health = free_port()
    environment = {
        "BAKERY_HTTP_QUEUE": "1",
        "PORT_HEALTH": str(health),
        "HEALTH_CHECK_PATH": "/healthy",
        "BAKERY_PROGRESS_S": "0.1",
        "DEMO_FAULT": "slow=400",
        "BAKERY_TERM_GRACE_S": "100",
    }
    with serving(tmp_path, **environment) as client:
        worker = client.worker
        worker.wait_for_log('"listening"')
        asked = Client(worker, health)
        asked.wait_until(200, "/healthy")
        assert asked.ask("POST", "/txt2img", SMALL)[0].status == 404

        # One is drawn, one waits, the others are told to come again.
        first = client.connect()
        headers = {"X-Request-ID": "first", "Accept": "text/event-stream"}
        first.request("POST", "/txt2img", json.dumps(SLOW), headers)
        assert first.getresponse().readline() == b"event: progress\n"
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.draw(SMALL))) for _ in range(3)
        ]
        for each in threads:
            each.start()
        end = time.monotonic() + 120
        while len(answers) < 2:
            assert time.monotonic() < end, worker.log
            time.sleep(0.01)
        for answer, document in answers:
            check_problem(answer, document, "busy", 503)
            assert int(answer.headers["Retry-After"]) > 0

        # The first one's connection goes: its picture is interrupted, the waiting one is drawn.
        assert first.sock is not None
        first.sock.shutdown(socket.SHUT_RDWR)
        first.close()
        for each in threads:
            each.join(120)
        assert answers[2][0].status == 200, answers
        assert not worker.entries(requestId="first", message="done", failed=False)

        # Told to stop: no new jobs, the running one ends.
        last, begun = client.connect(), b""
        body = json.dumps({**SMALL, "steps": 10})
        while begun != b"event: progress\n":  # it is drawn already where the worker stood still
            last.request("POST", "/txt2img", body, {"Accept": "text/event-stream"})
            drawn = last.getresponse()
            begun = drawn.readline()
            if begun == b"event: result\n":
                drawn.read()
        webui = worker.webui_pid()
        stop(webui)  # so that it does not end before the others are refused
        worker.terminate()
        end = time.monotonic() + 120
        while asked.ping("/healthy") != 503:
            assert time.monotonic() < end, worker.log
        answer, document = client.draw(SMALL)
        check_problem(answer, document, "worker_stopping", 503)
        os.kill(webui, signal.SIGCONT)
        assert b"event: result\n" in drawn.read()
        last.close()
        assert worker.wait() == 0
        assert worker.entries(message="worker ends")


def test_told_to_stop_before_the_model_is_there(tmp_path: Path) -> None:
    health = free_port()
    environment = {"PORT_HEALTH": str(health), "HEALTH_CHECK_PATH": "/healthy"}
    with serving(tmp_path, DEMO_FAULT="hang-load", **environment) as client:
        Client(client.worker, health).wait_until(204, "/healthy")
        client.wait_until(204, "/healthy")
        check_problem(*client.draw(SMALL), "worker_starting", 503)
        client.worker.terminate()
        assert client.worker.wait() == 143


A_LATE_BODY = """
import asyncio, sys
from types import SimpleNamespace
from runtime import http_server

class Asked:
    def __init__(self):
        self.whole = asyncio.Event()
    async def read(self):
        await self.whole.wait()
        return b'{"input": {"prompt": "x"}}'

async def read(second_s, comes):
    asked, times = Asked(), iter([10.0, second_s])
    def now():
        at = next(times)
        if comes and at == second_s:
            asked.whole.set()
        return at
    http_server.clock = SimpleNamespace(now=now)
    return await http_server.read_input(asked, "application/json")

assert asyncio.run(read(69.0, True)) == {"prompt": "x"}
late = asyncio.run(read(71.0, False))
assert late.status == 408 and "no whole request came in 60 s" in late.text, late.text
"""


def test_a_body_is_waited_for_on_the_workers_clock() -> None:
    """Which does not count for how long the worker was frozen."""
    ended = subprocess.run(
        [ROOT / ".venv-runtime/bin/python", "-c", A_LATE_BODY],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
