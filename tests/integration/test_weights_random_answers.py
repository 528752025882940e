"""Whatever a source answers, to whichever request: the right file, or an error in words, and no token elsewhere.

Many random (status, header, body) answers for each operation of `bake` and of a worker, over sockets.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from bake.errors import MachineError, SourceError
from bake.lock import Pin
from bake.weights.context import Context, bake_errors
from bake.weights.providers import provider_for
from bake.weights.sources import parse_source
from bake.weights.transfer import locations
from bake.weights.update import find_standing
from runtime.errors import JobError
from runtime.files.answers import pause_after
from runtime.job.lora import LoraStore
from runtime.job.rules.models import LoraRequest
from runtime.settings import Settings as WorkerSettings
from runtime.worker import Webui
from tests.examples import EXAMPLES
from tests.integration.weights_case import VERSION, Case, open_case
from tests.samples import make_worker
from tests.standins import models
from tests.standins.civitai import GOOD_TOKEN, CivitaiFile, CivitaiVersion
from tests.standins.http_server import Answer, Handler, Request, Server
from tests.standins.huggingface import HF_TOKEN, Repository, Revision
from tests.standins.storage import Blob
from tests.standins.world import COMMIT

DEADLINE_S = 300
"""One undertaking's: six tries of silence that lasts a second, on a machine that pauses now and then."""
DATA = models.safetensors(models.SDXL, seed=14, padding_bytes=20_000)
LORA = models.safetensors(
    {"lora_demo_a.lora_down.weight": (2, 4), "lora_demo_a.lora_up.weight": (4, 2)}
)
GOOD_PIN = Pin(
    key="checkpoint", role="checkpoint", name="x", source="", file_name="x.safetensors", size_bytes=len(DATA),
    sha256=hashlib.sha256(DATA).hexdigest(), url="", version_id=VERSION, model_id=400,
)  # fmt: skip
NEEDS_LOGIN, OF_LORA = VERSION + 1, VERSION + 2
TOKENS = (GOOD_TOKEN, HF_TOKEN)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Requests of one kind, and an undertaking that sends some."""

    run: Callable[[Case], object]
    server: str
    """`civitai`, `hub` or `storage`."""
    path: str = "/"
    method: str = "GET"

    def fits(self, request: Request) -> bool:
        return request.path.startswith(self.path) and request.method == self.method


def context_of(case: Case) -> Context:
    return Context(settings=case.settings, store=case.store, console=case.console)


def find(text: str) -> Callable[[Case], object]:
    """Asks what a source is, as `bake lock` does."""
    source = parse_source(text)
    provider = provider_for(source)
    assert provider is not None

    def run(case: Case) -> object:
        with bake_errors("checkpoint"):
            return provider.find(context_of(case), source)

    return run


def download(**changes: Any) -> Callable[[Case], object]:
    """Brings what is pinned into the store."""
    return lambda case: case.fetch(replace(GOOD_PIN, **changes))


def lock_an_address(case: Case) -> None:
    case.pin(f"{case.world.storage.server.url}/plain/x.safetensors")


def look_for_news(source: str) -> Callable[[Case], object]:
    def run(case: Case) -> object:
        manifest = case.manifest(source)
        pin = replace(GOOD_PIN, source=source, revision=COMMIT)
        return find_standing(context_of(case), manifest, pin)

    return run


def serve_a_lora(case: Case) -> None:
    webui = Webui(
        name="webui", version="1", revision="0", directory="/", python="python", script="x",
        lora_dir=str(case.folder / "loras"),
    )  # fmt: skip
    site = case.settings.civitai_url
    settings = WorkerSettings(
        lora_cache=str(case.folder / "cache"), lora_hosts="127.0.0.1", lora_loopback=True,
        civitai_url=site, lora_timeout_s=2,
    )  # fmt: skip
    store = LoraStore(settings, make_worker(webui=webui), {site: GOOD_TOKEN})
    for kept in (case.folder / "cache").glob("*"):
        kept.unlink()
    request = LoraRequest(name="mine", scale=1.0, civitai=str(OF_LORA))
    deadline = time.monotonic() + DEADLINE_S
    (applied,) = store.prepare([request], deadline=deadline, cancelled=threading.Event())
    assert applied.sha256 == hashlib.sha256(LORA).hexdigest()


AT_CIVITAI, AT_THE_HUB = f"civitai:{VERSION}", "hf://a/b/x.safetensors"
AGAIN = download(source=AT_THE_HUB, revision=COMMIT)
OPERATIONS = {
    "civitai version": Operation(run=find(AT_CIVITAI), server="civitai", path="/api/v1/model-versions/"),
    "civitai model": Operation(run=find(AT_CIVITAI), server="civitai", path="/api/v1/models/"),
    "civitai news": Operation(run=look_for_news(AT_CIVITAI), server="civitai", path="/api/v1/models/"),
    "civitai token": Operation(
        run=download(source=f"civitai:{NEEDS_LOGIN}", version_id=NEEDS_LOGIN), server="civitai", path="/api/v1/me"
    ),
    "civitai download": Operation(run=download(source=AT_CIVITAI), server="civitai", path="/api/download/"),
    "civitai storage": Operation(run=download(source=AT_CIVITAI), server="storage"),
    "hub head": Operation(run=find(AT_THE_HUB), server="hub", path="/a/b/resolve/", method="HEAD"),
    "hub record": Operation(run=find(AT_THE_HUB), server="hub", path="/api/models/"),
    "hub news": Operation(run=look_for_news(AT_THE_HUB), server="hub", path="/a/b/resolve/", method="HEAD"),
    "hub download": Operation(run=AGAIN, server="hub", path="/a/b/resolve/"),
    "hub storage": Operation(run=AGAIN, server="storage"),
    "https file": Operation(run=lock_an_address, server="storage", path="/plain/"),
    "lora download": Operation(run=serve_a_lora, server="civitai", path="/api/download/"),
    "lora storage": Operation(run=serve_a_lora, server="storage"),
}  # fmt: skip

STATUSES = (200, 200, 200, 201, 204, 206, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 410,
            416, 418, 425, 429, 451, 500, 502, 503, 504, 511, 520, 525, 530, 599)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, "", "x", "\x1b[2J", "\ud800", "9" * 400, -1, 0, 1, 1e308, 2**70, True, [], {}, [[]], [{}], {"a": 1},
    "https://evil.example/x", "../../x", "0" * 64, "x" * 20_000,
)  # fmt: skip
BODIES = (
    b"", b"{}", b"[]", b"null", b"1", b"[" * 50_000, b'{"a":' * 20_000, b'{"error":{"message":[]}}', b"<html>",
    b"<!DOCTYPE html><p>Sign in", b"\xff" * 600, b"\x1f\x8b" + bytes(600), DATA[:100], DATA[:-1], DATA + b"x", DATA,
    LORA, LORA[:60], b"\xff\xff\xff\xff\xff\xff\xff\x7f{", bytes(8) + b"{}", b"PK\x03\x04" + bytes(100), b"\x80\x02.",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"<Error><Code>NoSuchKey</Code></Error>",
    b'{"error":"\xc3\x28"}', b'{"message":"' + b"A" * 9000 + b'"}', b'{"deadline":[],"error":"Early Access"}',
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Makes answers by chance."""

    chance: random.Random
    foreign: str
    """The address of a server that no token is for."""

    def answer(self, true: Answer) -> Answer:
        """Of anything, or nearly the true one."""
        pick = self.chance
        headers = {name: pick.choice(values) for name, values in self._headers().items()}
        kept = pick.sample(sorted(headers), pick.randrange(5))
        body = pick.choice(BODIES) if pick.random() < 0.6 else self._spoilt(true.body)
        status = pick.choice(STATUSES) if pick.random() < 0.9 else pick.randrange(100, 600)
        near = dict(true.headers) if pick.random() < 0.4 else {}
        near = {name: value for name, value in near.items() if name != "Content-Length"}
        sent = {**near, **{name: headers[name] for name in kept}, "Connection": "close"}
        if true.status in (301, 302, 307) and pick.random() < 0.3:
            status = true.status
        sent.setdefault("Content-Length", str(len(body)))
        is_silent = pick.random() < 0.002
        return Answer(
            status=status, headers=sent, stream=lambda to: self._send(to, body, is_silent)
        )

    def _headers(self) -> dict[str, tuple[str, ...]]:
        size = len(DATA)
        return {
            "Content-Length": ("", "0", "1", "-1", "x", "9" * 18, "9" * 5000, str(size)),
            "Content-Range": (f"bytes 0-{size - 1}/{size}", "bytes 0-0/1", "bytes */5", "bytes 5-1/2",
                              f"bytes 1-{size - 1}/{size}", "bytes 0-9/*", "x", "bytes 0-" + "9" * 400 + "/*"),
            "Content-Encoding": ("gzip", "identity", "br", "aws-chunked", "", "\xe9"),
            "Transfer-Encoding": ("chunked", "gzip, chunked", "x"),
            "Content-Type": ("text/html", "application/json", "\xff", "text/html; charset=\xe9", ""),
            "Retry-After": ("0", "-1", "9" * 400, "soon", "Mon, 01 Jan 0001 00:00:00 GMT", "\xb2"),
            "RateLimit": ('"x";r=0;t=0', '"x";t=' + "9" * 400, "t="),
            "Location": (f"{self.foreign}/x", f"{self.foreign}/a/b/resolve/main/x", "", "/login", "//[x", "x",
                         f"{self.foreign.replace('127.0.0.1', 'localhost')}/x", "http://169.254.169.254/x", "\xe9",
                         "https://192.0.2.1/x", "ftp://127.0.0.1/x", "https://a:b@127.0.0.1/", "/" * 3000,
                         f"{self.foreign.replace('http://', '//')}/resolve/x", "javascript:1", "http://[::1"),
            "ETag": ('"x"', "W/", '"' + "0" * 64 + '"', f'"{hashlib.sha256(DATA).hexdigest()}"', "\xff"),
            "X-Repo-Commit": (COMMIT, "x", "", "\xe9"),
            "X-Linked-Etag": ('"' + "0" * 64 + '"', f'"{hashlib.sha256(DATA).hexdigest()}"', "x"),
            "X-Linked-Size": (str(size), "-1", "\xb2", "9" * 5000),
            "X-Error-Code": ("GatedRepo", "EntryNotFound", "x"),
            "Set-Cookie": ("a=b; Domain=127.0.0.1",),
        }  # fmt: skip

    def _spoilt(self, body: bytes) -> bytes:
        """A record in which one value is another; of a file, one byte."""
        try:
            data = json.loads(body)
        except ValueError:
            at = self.chance.randrange(len(body)) if body else 0
            return body[:at] + b"\x00" + body[at + 1 :]
        node: Any = None
        key: Any = None
        inner: Any = data
        while isinstance(inner, (dict, list)) and inner and self.chance.random() < 0.8:
            node = inner
            key = self.chance.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
            inner = node[key]
        if node is None:
            return body
        node[key] = self.chance.choice(ODD_VALUES)
        return json.dumps(data).encode()

    def _send(self, to: Handler, body: bytes, is_silent: bool) -> None:
        if is_silent:
            to.connection.settimeout(DEADLINE_S)
            to.rfile.read(1)  # until the other side hangs up
        to.wfile.write(body)
        to.break_off()


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def expired(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"it hangs: no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:

    def no_pause(*args: Any, **options: Any) -> float:
        return 0 * pause_after(*args, **options)

    monkeypatch.setattr("runtime.files.fetch.pause_after", no_pause)
    monkeypatch.setattr("os.fsync", lambda _: None)  # a busy disk takes longer for it than all else
    with open_case(tmp_path) as opened:
        opened.with_tokens(civitai=GOOD_TOKEN, huggingface=HF_TOKEN)
        opened.settings = replace(opened.settings, stall_s=1, backoff_s=0)
        opened.add_civitai(DATA)
        for number, data in ((NEEDS_LOGIN, DATA), (OF_LORA, LORA)):
            file = CivitaiFile(file_id=number, name="x.safetensors", blob=Blob(data=data))
            version = CivitaiVersion(version_id=number, model_id=400, files=[file])
            version.download = "grant" if number == NEEDS_LOGIN else "ok"
            opened.world.civitai.add(version)
        files = {"x.safetensors": Blob(data=DATA)}
        repository = Repository(name="a/b", revisions=[Revision(commit=COMMIT, files=files)])
        opened.world.huggingface.add(repository)
        opened.world.plain_url("x.safetensors", Blob(data=DATA))
        yield opened


@contextmanager
def foreign_server() -> Iterator[Server]:
    server = Server("foreign", lambda _: Answer(body=DATA))
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("name", OPERATIONS)
def test_many_random_answers(case: Case, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    operation = OPERATIONS[name]
    world = case.world
    servers = {
        "civitai": world.civitai.server,
        "hub": world.huggingface.server,
        "storage": world.storage.server,
    }
    given = 0
    with foreign_server() as foreign:
        noise = Noise(chance=random.Random(f"{name} 14"), foreign=foreign.url)
        lock, true_answer = threading.Lock(), servers[operation.server].answer

        def answer(request: Request) -> Answer:
            nonlocal given
            true = true_answer(request)
            with lock:
                if not operation.fits(request) or (given and noise.chance.random() < 0.1):
                    return true
                given += 1
                return noise.answer(true)

        monkeypatch.setattr(servers[operation.server], "answer", answer)
        ends = Counter[str]()
        while given < EXAMPLES:
            with within(DEADLINE_S):
                ends[undertake(case, operation)] += 1
            assert given, "the operation was never asked for"
            for server in (*servers.values(), foreign):
                check_no_token(server, servers)
        assert ends["well"] or name == "civitai token", ends


def undertake(case: Case, operation: Operation) -> str:
    """`well`, with the right file, or `in words`."""
    shutil.rmtree(case.store.root, ignore_errors=True)
    locations._known.clear()
    try:
        operation.run(case)
        said = ""
    except (
        SourceError,
        MachineError,
        JobError,
    ) as error:  # MachineError: a length that no disk has
        said = str(error)
    assert not any(each in said for each in ("Traceback", "Error(", "\x1b", *TOKENS)), said
    assert not any(each in "".join(case.console.warnings) for each in (*TOKENS, "Error(")), said
    case.console.warnings.clear()
    for file in case.store.files():
        assert hashlib.sha256(file.path.read_bytes()).hexdigest() == file.path.name
    return "in words" if said else "well"


def check_no_token(server: Server, servers: dict[str, Server]) -> None:
    """A token comes to its own site only, and to no storage."""
    own = {"civitai": GOOD_TOKEN, "hub": HF_TOKEN}
    allowed = {own[name] for name, each in servers.items() if each is server and name in own}
    shown = "\n".join(request.text for request in server.requests)
    assert not any(token in shown for token in set(TOKENS) - allowed)
    server.requests.clear()
