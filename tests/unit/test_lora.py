"""LoRAs by URL: which addresses are refused, what a file must be, and the cache. Nothing is connected to."""

import hashlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runtime.clock import clock
from runtime.errors import JobError
from runtime.files.errors import FailureKind, WeightsError
from runtime.files.fetch import Fetched
from runtime.job import lora
from runtime.job.lora import Applied, LoraStore
from runtime.job.rules.models import LoraRequest
from runtime.settings import Settings
from runtime.worker import Webui
from tests.samples import make_worker
from tests.standins.models import LORA_SDXL, SDXL, safetensors

DEMO_LORA = {"lora_demo_a.lora_down.weight": (2, 4), "lora_demo_a.lora_up.weight": (4, 2)}
URL = "https://civitai.com/api/download/models/1"


def make_store(tmp_path: Path, **settings: Any) -> LoraStore:
    webui = Webui(
        name="webui",
        version="1",
        revision="0",
        directory="/",
        python="python",
        script="x",
        lora_dir=str(tmp_path / "webui-lora"),
        embedding_dir=str(tmp_path / "webui-embeddings"),
    )
    cache = {"lora_cache": str(tmp_path / "cache")}
    return LoraStore(Settings(**{**cache, **settings}), make_worker(webui=webui), {})


def prepare(store: LoraStore, **request: Any) -> Applied:
    one = LoraRequest(**{"name": "mine", "scale": 1.0, **request})
    (applied,) = store.prepare([one], **deadline_and_event())
    return applied


def deadline_and_event() -> dict[str, Any]:
    return {"deadline": time.monotonic() + 60, "cancelled": threading.Event()}


def refusal(store: LoraStore, **request: Any) -> JobError:
    with pytest.raises(JobError) as caught:
        prepare(store, **request)
    return caught.value


class Source:
    """Stands for the network: gives `data` for every address."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.urls: list[str] = []
        self.arguments: dict[str, Any] = {}
        self.error: WeightsError | None = None

    def fetch(self, url: str, target: Path, **arguments: Any) -> Fetched:
        self.urls.append(url)
        self.arguments = arguments
        if self.error is not None:
            raise self.error
        if arguments["cancelled"].is_set():
            raise WeightsError("cancelled", "the job was cancelled")
        target.write_bytes(self.data)
        digest = hashlib.sha256(self.data).hexdigest()
        return Fetched(path=target, size_bytes=len(self.data), sha256=digest, url=url)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    made = Source(safetensors(DEMO_LORA))
    monkeypatch.setattr(lora, "fetch_url", made.fetch)
    return made


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names resolve to what the table says; a connection to anywhere is the test's failure."""
    zone = {
        "civitai.com": ["10.0.0.8"],
        "huggingface.co": ["8.8.8.8", "169.254.169.254"],
        "cdn.civitai.com": ["8.8.8.8"],
    }

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        addresses = zone.get(host, ["127.0.0.1"])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]

    def connect(_self: socket.socket, address: Any) -> None:
        raise AssertionError(f"connected to {address}")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)


# Redirects, zips, pickles, oversize and endless answers need a server: tests/integration.
FORBIDDEN = [
    "http://civitai.com/x.safetensors",
    "file:///etc/passwd",
    "ftp://civitai.com/x",
    "gopher://civitai.com/x",
    "data:application/octet-stream;base64,AAAA",
    "//civitai.com/x",
    "civitai.com/x",
    "",
    "https://",
    "https://127.0.0.1/x",
    "https://localhost/x",
    "https://localhost./x",
    "http://127.0.0.1:3000/sdapi/v1/options",
    "https://127.1/x",
    "https://2130706433/x",
    "https://0x7f000001/x",
    "https://0177.0.0.1/x",
    "https://0.0.0.0/x",
    "https://[::1]/x",
    "https://[::]/x",
    "https://[::ffff:127.0.0.1]/x",
    "https://[::ffff:a00:1]/x",
    "https://[64:ff9b::7f00:1]/x",
    "https://[fe80::1%25eth0]/x",
    "https://[fd00::1]/x",
    "https://10.0.0.1/x",
    "https://172.16.0.1/x",
    "https://192.168.1.1/x",
    "https://100.64.0.1/x",
    "https://169.254.169.254/latest/meta-data/",
    "https://metadata.google.internal/computeMetadata/v1/",
    "https://224.0.0.1/x",
    "https://255.255.255.255/x",
    "https://8.8.8.8/x.safetensors",
    "https://example.com/x.safetensors",
    "https://civitai.com.example.com/x",
    "https://evil-civitai.com/x",
    "https://civitai.com@example.com/x",
    "https://user:password@civitai.com/x",
    "https://example.com#@civitai.com/x",
    "https://example.com\\@civitai.com/x",
    "https://civitai.com:99999/x",
    "https://[civitai.com/x",
    # Anybody has a bucket there: good for a redirect of CivitAI's, not for a request.
    "https://evil.r2.cloudflarestorage.com/x.safetensors",
    "https://cdn.civitai.com/x",
    # The host is allowed, what it resolves to is not; one bad address of several is enough.
    "https://civitai.com/api/download/models/1",
    "https://huggingface.co/a/b/resolve/main/c.safetensors",
]


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("url", FORBIDDEN)
def test_forbidden_addresses(tmp_path: Path, url: str) -> None:
    error = refusal(make_store(tmp_path), url=url)
    assert error.code == "lora_refused"
    assert error.message == (
        "LoRA 'mine': the address is not allowed;"
        " files come by https from civitai.com,huggingface.co"
    )
    assert error.fields[0].field == "loras[0]"
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_an_operator_may_allow_no_host_at_all(tmp_path: Path) -> None:
    assert refusal(make_store(tmp_path, lora_hosts="none"), url=URL).code == "lora_refused"


def test_a_fetched_lora_is_shown_to_the_webui_under_a_name_of_its_own(
    tmp_path: Path, source: Source
) -> None:
    store = make_store(tmp_path)
    applied = prepare(store, name="detail", url=f"{URL}?token=secret")
    digest = hashlib.sha256(source.data).hexdigest()
    assert applied == Applied(
        name="detail",
        tag=f"detail-{digest[:12]}",
        scale=1.0,
        sha256=digest,
        source=URL,
        was_cached=False,
    )
    link = tmp_path / "webui-lora" / "from-requests" / f"detail-{digest[:12]}.safetensors"
    assert link.read_bytes() == source.data
    policy = source.arguments["policy"]
    assert policy.hosts[:2] == ("civitai.com", "huggingface.co")
    assert ".r2.cloudflarestorage.com" in policy.hosts
    assert source.arguments["max_bytes"] == 10**9
    assert 0 < source.arguments["timeouts"].total_s <= 60


def test_what_is_logged_of_a_fetch(
    tmp_path: Path, source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path)
    prepare(store, url=URL)
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["level"], line["phase"], line["message"]) == ("INFO", "lora", "fetched")
    assert (line["url"], line["bytes"]) == (URL, len(source.data))
    assert 0 <= line["seconds"] < 60
    source.error = WeightsError("stalled", "the server stopped sending", where=URL)
    refusal(store, url=f"{URL}1")
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["level"], line["phase"], line["kind"]) == ("ERROR", "lora", "stalled")
    assert line["message"] == f"{URL}: the server stopped sending"


def test_a_fetch_has_the_job_s_time_and_the_operator_s_bounds(
    tmp_path: Path, source: Source
) -> None:
    store = make_store(tmp_path, lora_timeout_s=7, lora_max_mb=3, lora_hosts="A.example, b.example")
    url = "https://a.example/x.safetensors"
    prepare(store, url=url, sha256_prefix=hashlib.sha256(source.data).hexdigest()[:63])
    given = source.arguments
    assert (given["timeouts"].total_s, given["max_bytes"], given["sha256"]) == (7, 3_000_000, None)
    assert given["policy"].hosts[:2] == ("a.example", "b.example")
    one = LoraRequest(name="mine", url=f"{url}?2")
    soon = {**deadline_and_event(), "deadline": clock.now() + 5}
    store.prepare([one], **soon)
    assert 0 < source.arguments["timeouts"].total_s <= 5
    assert source.arguments["cancelled"] is soon["cancelled"]


def test_a_loopback_server_is_asked_where_the_operator_says_so(
    tmp_path: Path, source: Source
) -> None:
    url = "http://127.0.0.1:8000/x/resolve/main/y.safetensors"
    assert refusal(make_store(tmp_path, lora_hosts="127.0.0.1"), url=url).code == "lora_refused"
    store = make_store(tmp_path, lora_hosts="127.0.0.1", lora_loopback=True)
    assert prepare(store, url=url).source == url
    assert source.arguments["policy"].loopback is True


def test_every_entry_is_prepared_and_a_wrong_one_is_named_by_its_number(
    tmp_path: Path, source: Source
) -> None:
    store = make_store(tmp_path)
    requests = [LoraRequest(name=name, scale=0.5) for name in ("detail", "blue-pencil")]
    ready = store.prepare(requests, **deadline_and_event())
    assert [(each.name, each.scale, each.was_cached) for each in ready] == [
        ("detail", 0.5, True), ("blue-pencil", 0.5, True),
    ]  # fmt: skip
    source.data = b"<!DOCTYPE html><html>"
    wrong = [*requests, LoraRequest(name="mine", url=URL)]
    with pytest.raises(JobError) as caught:
        store.prepare(wrong, **deadline_and_event())
    assert [each.field for each in caught.value.fields] == ["loras[2]"]
    assert caught.value.message == f"LoRA 'mine': {caught.value.fields[0].message}"


def test_a_baked_lora_needs_no_fetching(tmp_path: Path, source: Source) -> None:
    applied = prepare(make_store(tmp_path), name="detail")
    assert (applied.tag, applied.source, applied.sha256) == ("detail", "baked", "d" * 64)
    assert source.urls == []


def test_the_same_address_is_fetched_once(tmp_path: Path, source: Source) -> None:
    store = make_store(tmp_path)
    assert not prepare(store, url=URL).was_cached
    again = prepare(store, name="other", url=URL)
    assert again.was_cached
    assert again.tag.startswith("other-")
    assert len(source.urls) == 1


def test_two_jobs_at_once_fetch_it_once(tmp_path: Path, source: Source) -> None:
    stores = [make_store(tmp_path) for _ in range(4)]
    threads = [
        threading.Thread(target=prepare, args=(each,), kwargs={"url": URL}) for each in stores
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(source.urls) == 1


def test_the_hash_decides_whether_the_cached_file_is_meant(tmp_path: Path, source: Source) -> None:
    store = make_store(tmp_path)
    first = prepare(store, url=URL).sha256
    assert prepare(store, url=URL, sha256_prefix=first[:10]).was_cached
    source.data = safetensors(DEMO_LORA, seed=1)
    second = hashlib.sha256(source.data).hexdigest()
    assert prepare(store, url=URL, sha256_prefix=second[:10]).sha256 == second
    error = refusal(store, url=URL, sha256_prefix="0" * 10)
    assert (error.code, error.message) == (
        "lora_refused",
        f"LoRA 'mine': the file has the SHA-256 {second}",
    )


def test_a_wrong_hash_takes_no_file_from_the_others(tmp_path: Path, source: Source) -> None:
    store = make_store(tmp_path)
    prepare(store, url=URL)
    assert refusal(store, url=URL, sha256_prefix="f" * 10).code == "lora_refused"
    assert prepare(store, url=URL).was_cached
    assert len(source.urls) == 2


def test_a_full_hash_is_checked_while_it_is_fetched(tmp_path: Path, source: Source) -> None:
    digest = hashlib.sha256(source.data).hexdigest()
    prepare(make_store(tmp_path), url=URL, sha256_prefix=digest)
    assert source.arguments["sha256"] == digest


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (safetensors(SDXL), "the file is no LoRA"),
        (safetensors(LORA_SDXL), "the LoRA is for sdxl, this model is demo"),
        (
            safetensors({"unet.x.lora_A.weight": (4, 8)}),
            "the webui cannot apply it: its names are those of diffusers (unet.x.lora_A.weight): the "
            "webui maps none of them and would draw without it; convert it to kohya's names "
            "(diffusers.utils.convert_state_dict_to_kohya), or choose a file for the webui",
        ),
        (b"PK\x03\x04" + bytes(600), "this is a pickle (.ckpt, .pt), which can run code"),
        (b"\x80\x02}q\x00." + bytes(600), "this is a pickle"),
        (b"<!DOCTYPE html><html>", "this is an HTML page, not a model"),
        (b'{"error": "no"}', "this is a JSON answer"),
        (b"\xff" * 600, "no weights file that is known here"),
        (safetensors(DEMO_LORA)[:-3], "breaks off"),
        (safetensors(DEMO_LORA) + b"PK\x03\x04", "bytes follow the last tensor"),
    ],
)
def test_what_is_no_lora_for_this_model(
    tmp_path: Path, source: Source, data: bytes, message: str
) -> None:
    source.data = data
    error = refusal(make_store(tmp_path), url=URL)
    assert error.code == "lora_refused"
    assert message in error.message
    assert str(tmp_path) not in error.to_json()
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] in ([], [".lock"])


@pytest.mark.parametrize(
    ("kind", "code"),
    [("stalled", "lora_unavailable"), ("quota", "lora_unavailable"), ("login", "lora_refused")],
)
def test_what_may_work_later_says_so(
    tmp_path: Path, source: Source, kind: FailureKind, code: str
) -> None:
    source.error = WeightsError(kind, "the server stopped sending")
    assert refusal(make_store(tmp_path), url=URL).code == code


def test_civitai_by_version_and_by_air(tmp_path: Path, source: Source) -> None:
    store = make_store(tmp_path)
    prepare(store, civitai="368189")
    prepare(store, civitai="urn:air:sdxl:lora:civitai:328553@368190+99")
    assert source.urls == [
        "https://civitai.com/api/download/models/368189",
        "https://civitai.com/api/download/models/368190?fileId=99",
    ]
    error = refusal(store, civitai="urn:air:sdxl:lora:civitai:328553")
    assert error.code == "lora_refused"


@pytest.mark.parametrize(
    ("url", "fetched"),
    [
        (
            "https://www.civitai.com/models/328553/detail?modelVersionId=368190",
            "https://civitai.com/api/download/models/368190",
        ),
        (
            "https://civitai.green/api/download/models/368190?type=Model&format=SafeTensor",
            "https://civitai.com/api/download/models/368190?type=Model&format=SafeTensor",
        ),
        (
            "https://hf.co/someone/lora/blob/main/sub/it.safetensors",
            "https://huggingface.co/someone/lora/resolve/main/sub/it.safetensors",
        ),
    ],
)
def test_pages_of_the_two_sites(tmp_path: Path, source: Source, url: str, fetched: str) -> None:
    prepare(make_store(tmp_path), url=url)
    assert source.urls == [fetched]


def test_a_page_that_names_no_version_says_what_is_missing(tmp_path: Path) -> None:
    error = refusal(make_store(tmp_path), url="https://civitai.com/models/328553")
    assert error.code == "lora_refused"
    assert "version" in error.message


def test_the_hashes_that_civitai_shows(tmp_path: Path, source: Source) -> None:
    header = int.from_bytes(source.data[:8], "little")
    whole = hashlib.sha256(source.data).hexdigest()
    auto_v3 = hashlib.sha256(source.data[8 + header :]).hexdigest()[:12]
    store = make_store(tmp_path)
    for number, text in enumerate((whole, whole[:10], auto_v3)):
        assert prepare(store, url=f"{URL}{number}", sha256_prefix=text).sha256 == whole
        assert prepare(store, url=f"{URL}{number}", sha256_prefix=text).was_cached
    assert "has the SHA-256" in refusal(store, url=URL, sha256_prefix="0" * 12).message
    assert "has the SHA-256" in refusal(store, url=f"{URL}0", sha256_prefix="0" * 12).message


def test_tokens_go_to_their_own_origin_only(tmp_path: Path, source: Source) -> None:
    store = make_store(tmp_path)
    store = LoraStore(store._settings, store._worker, {"https://civitai.com": "secret"})
    prepare(store, url=URL)
    assert source.arguments["credentials"].value == "Bearer secret"
    prepare(store, url="https://huggingface.co/a/resolve/main/b.safetensors")
    assert source.arguments["credentials"] is None


def test_the_least_recently_used_is_evicted_but_none_in_use(
    tmp_path: Path, source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    def evicted() -> list[tuple[str, str, int]]:
        lines = map(json.loads, capsys.readouterr().out.splitlines())
        gone = [line for line in lines if line["message"] == "evicted"]
        return [(line["level"], line["phase"], line["bytes"]) for line in gone]

    size = len(source.data)
    store = make_store(tmp_path, lora_cache_mb=2.5 * size / 10**6)
    for number in range(2):
        prepare(store, url=f"{URL}{number}")
    files = sorted(
        (tmp_path / "cache").glob("*.safetensors"), key=lambda each: each.stat().st_mtime
    )
    for age, path in zip((9000, 8000), files, strict=True):
        os.utime(path, (time.time() - age, path.stat().st_mtime))
    prepare(store, url=f"{URL}0")
    prepare(store, url=f"{URL}2")
    assert evicted() == [("INFO", "lora", size)]
    left = {path.name[:32] for path in (tmp_path / "cache").glob("*.safetensors")}
    keys = [hashlib.sha256(f"{URL}{n}".encode()).hexdigest()[:32] for n in range(3)]
    assert left == {keys[0], keys[2]}
    prepare(store, url=f"{URL}3")
    # All of them were used a moment ago: over the limit, but nothing is taken from under a job.
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3


def test_links_to_evicted_files_are_removed(tmp_path: Path, source: Source) -> None:
    store = make_store(tmp_path)
    prepare(store, url=URL)
    for path in (tmp_path / "cache").glob("*.safetensors"):
        path.unlink()
    source.data = safetensors(DEMO_LORA, seed=2)
    prepare(store, url=f"{URL}1")
    links = list((tmp_path / "webui-lora" / "from-requests").iterdir())
    assert len(links) == 1
    assert links[0].exists()


def test_a_cancelled_job_ends_its_download(tmp_path: Path, source: Source) -> None:
    cancelled = threading.Event()
    cancelled.set()
    store = make_store(tmp_path)
    request = LoraRequest(name="mine", scale=1, url=URL)
    with pytest.raises(JobError, match="cancelled"):
        store.prepare([request], deadline=time.monotonic() + 60, cancelled=cancelled)


def test_the_cache_is_on_the_volume_if_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "VOLUME", tmp_path)
    assert LoraStore(Settings(), make_worker(), {}).folder == tmp_path / "bakery/loras"
    monkeypatch.setattr(lora, "VOLUME", tmp_path / "none")
    assert LoraStore(Settings(), make_worker(), {}).folder == Path("/tmp/bakery/loras")


def test_a_cache_that_cannot_be_written(tmp_path: Path, source: Source) -> None:
    (tmp_path / "file").write_text("")
    error = refusal(make_store(tmp_path, lora_cache=str(tmp_path / "file" / "x")), url=URL)
    assert (error.code, error.message) == ("lora_unavailable", "the LoRA could not be stored")
