"""LoRAs from servers that mean harm: redirects, disguised files, sizes and speeds. The cache stays clean."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import JobError
from runtime.job.lora import LoraStore
from runtime.job.rules.models import LoraRequest
from runtime.settings import Settings
from runtime.worker import Webui
from tests.samples import make_worker
from tests.standins.models import LORA_SDXL, SDXL, safetensors

DEMO_LORA = {"lora_demo_a.lora_down.weight": (2, 4), "lora_demo_a.lora_up.weight": (4, 2)}
GOOD = safetensors(DEMO_LORA)
ZIP = b"PK\x03\x04" + bytes(2000)
PICKLE = b"\x80\x02}q\x00." + bytes(2000)

Answer = Callable[["_Requests"], None]


def send(data: bytes, *, status: int = 200, **headers: str) -> Answer:
    def answer(request: "_Requests") -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return answer


def redirect(location: str) -> Answer:
    return send(b"", status=302, Location=location)


def endless(request: "_Requests") -> None:
    """Never says how long it is, and never ends."""
    request.send_response(200)
    request.end_headers()
    request.wfile.write(GOOD)
    while True:
        request.wfile.write(bytes(65536))


def trickle(request: "_Requests") -> None:
    """A byte now and then, for ever."""
    request.send_response(200)
    request.send_header("Content-Length", "100000")
    request.end_headers()
    while True:
        request.wfile.write(b"\x10")
        request.wfile.flush()
        time.sleep(0.1)


ANSWERS: dict[str, Answer] = {
    "/good": send(GOOD),
    "/to-good": redirect("/good"),
    "/to-metadata": redirect("http://169.254.169.254/latest/meta-data/"),
    "/to-private": redirect("https://10.0.0.1/x"),
    "/to-private-v6": redirect("https://[fd00::1]/x"),
    "/to-mapped": redirect("https://[::ffff:192.168.0.1]/x"),
    "/to-other-host": redirect("https://example.com/x.safetensors"),
    "/to-plain-http": redirect("http://huggingface.co/x"),
    "/to-file": redirect("file:///etc/passwd"),
    "/to-user": redirect("https://civitai.com@10.0.0.1/x"),
    "/to-login": redirect("/login?returnUrl=/x"),
    "/to-itself": redirect("/to-itself"),
    "/zip.safetensors": send(ZIP),
    "/pickle.safetensors": send(PICKLE),
    "/page.safetensors": send(b"<!DOCTYPE html><html></html>", Content_Type="text/html"),
    "/empty": send(b""),
    "/cut": send(GOOD[:-5]),
    "/with-a-tail": send(GOOD + ZIP),
    "/checkpoint": send(safetensors(SDXL)),
    "/other-family": send(safetensors(LORA_SDXL)),
    "/large": send(safetensors(DEMO_LORA, padding_bytes=300_000)),
    "/says-large": send(b"", Content_Length=str(10**12)),
    "/endless": endless,
    "/trickle": trickle,
    "/404": send(b"secret words", status=404),
    "/500": send(b"secret words", status=500),
}


class _Requests(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with contextlib.suppress(OSError):
            ANSWERS[self.path.split("?")[0]](self)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Requests)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def make_store(tmp_path: Path, **settings: Any) -> LoraStore:
    webui = Webui(
        name="webui",
        version="1",
        revision="0",
        directory="/",
        python="python",
        script="x",
        lora_dir=str(tmp_path / "webui-lora"),
    )
    values = {
        "lora_cache": str(tmp_path / "cache"),
        "lora_loopback": True,
        "lora_max_mb": 0.1,
        "lora_timeout_s": 120.0,
    }
    return LoraStore(Settings(**{**values, **settings}), make_worker(webui=webui), {})


def prepare(store: LoraStore, url: str, **more: Any) -> Any:
    request = LoraRequest(**{"name": "mine", "scale": 1.0, "url": url, **more})
    return store.prepare([request], deadline=time.monotonic() + 300, cancelled=threading.Event())[0]


@pytest.mark.parametrize("path", ["/good", "/to-good"])
def test_a_good_file_arrives_also_by_a_redirect(server: str, tmp_path: Path, path: str) -> None:
    applied = prepare(make_store(tmp_path), server + path)
    (link,) = (tmp_path / "webui-lora" / "from-requests").iterdir()
    assert link.name == f"{applied.tag}.safetensors"
    assert link.read_bytes() == GOOD


@pytest.mark.parametrize(
    "path",
    sorted(each for each in ANSWERS if each not in ("/good", "/to-good", "/500", "/trickle")),
)
def test_what_is_refused(server: str, tmp_path: Path, path: str) -> None:
    with pytest.raises(JobError) as caught:
        prepare(make_store(tmp_path), server + path)
    error = caught.value
    assert error.code == "lora_refused", error.message
    assert "secret" not in error.to_json()
    assert str(tmp_path) not in error.to_json()
    assert list((tmp_path / "cache").glob("*.safetensors")) == []
    assert not (tmp_path / "webui-lora" / "from-requests").exists()


@pytest.mark.parametrize("path", ["/500", "/trickle"])
def test_what_may_work_later_is_not_waited_for_without_end(
    server: str, tmp_path: Path, path: str
) -> None:
    with pytest.raises(JobError) as caught:
        prepare(make_store(tmp_path, lora_timeout_s=2.0), server + path)
    assert caught.value.code == "lora_unavailable", caught.value.message


def test_a_wrong_hash_is_refused(server: str, tmp_path: Path) -> None:
    for digest in ("0" * 10, "0" * 64):
        with pytest.raises(JobError, match=r"SHA-?256"):
            prepare(make_store(tmp_path), f"{server}/good", sha256_prefix=digest)
    assert list((tmp_path / "cache").glob("*.safetensors")) == []


def test_loopback_itself_is_refused_without_the_switch(server: str, tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught:
        prepare(make_store(tmp_path, lora_loopback=False), f"{server}/good")
    assert caught.value.code == "lora_refused"
