"""Sources as servers really are: mirrors that redirect, raw UTF-8 in a Location, encodings that are none."""

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bake.errors import SourceError
from runtime.files.errors import WeightsError
from runtime.files.fetch import fetch_url
from runtime.files.http import Timeouts
from runtime.files.policy import HostPolicy
from tests.integration.weights_case import VERSION, Case, open_case
from tests.standins import models
from tests.standins.http_server import Answer, Request, Server, html_answer, json_answer
from tests.standins.huggingface import HF_TOKEN, Repository, Revision
from tests.standins.storage import Blob
from tests.standins.world import COMMIT, VAE_REPOSITORY, add_catalogue

SDXL = models.safetensors(models.SDXL, seed=5, padding_bytes=200_000)
SHA256 = hashlib.sha256(SDXL).hexdigest()


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    with open_case(tmp_path) as opened:
        yield opened


@contextmanager
def serve(answer: Callable[[Request], Answer]) -> Iterator[Server]:
    server = Server("wild", answer)
    try:
        yield server
    finally:
        server.close()


def file_answer(data: bytes = SDXL, **headers: str) -> Answer:
    return Answer(headers={each.replace("_", "-"): headers[each] for each in headers}, body=data)


def bake_it(case: Case, url: str) -> str:
    """Locks and fetches; the digest of what is in the store then."""
    return hashlib.sha256(case.fetch(case.pin(url)).read_bytes()).hexdigest()


def fetch_it(case: Case, url: str) -> str:
    """As a worker does."""
    policy = HostPolicy(loopback=True)
    return fetch_url(url, case.folder / "x", policy=policy, timeouts=Timeouts()).sha256


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_mirror_that_redirects_to_the_hub(case: Case, status: int) -> None:
    add_catalogue(case.world)
    case.add_civitai(SDXL)
    hub = case.world.huggingface.server

    def answer(request: Request) -> Answer:
        return Answer(status=status, headers={"Location": hub.url + request.target})

    with serve(answer) as mirror:
        case.with_tokens(huggingface=HF_TOKEN)
        case.settings = replace(case.settings, huggingface_url=mirror.url)
        more = f"vae: hf://{VAE_REPOSITORY}/sdxl_vae.safetensors\n"
        pin = case.lock(case.manifest(f"civitai:{VERSION}", more=more)).pin("vae")
        assert pin.revision == COMMIT
        assert pin.licence.name == "mit"
        assert hashlib.sha256(case.fetch(pin).read_bytes()).hexdigest() == pin.sha256
        assert all(each.token == HF_TOKEN for each in mirror.requests)
    assert all(each.token is None for each in hub.requests)
    assert HF_TOKEN not in "".join(each.text for each in case.world.storage.server.requests)


@pytest.mark.parametrize("run", [bake_it, fetch_it])
@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/ü à/Å.safetensors?name=é", "/%C3%BC%20%C3%A0/%C3%85.safetensors?name=%C3%A9"),
        ("/%C3%BC%20x.safetensors?a=%2F+%26", "/%C3%BC%20x.safetensors?a=%2F+%26"),
        ("/模型[1].safetensors", "/%E6%A8%A1%E5%9E%8B%5B1%5D.safetensors"),
    ],
)
def test_a_location_is_encoded_once(
    case: Case, run: Callable[[Case, str], str], location: str, target: str
) -> None:
    def answer(request: Request) -> Answer:
        if request.path == "/x.safetensors":
            return Answer(status=302, headers={"Location": location.encode().decode("latin-1")})
        return file_answer() if request.target == target else Answer(status=404)

    with serve(answer) as server:
        assert run(case, f"{server.url}/x.safetensors") == SHA256


@pytest.mark.parametrize("run", [bake_it, fetch_it])
@pytest.mark.parametrize(
    "encoding",
    [
        "",
        " ",
        "identity",
        "aws-chunked",
        "AWS-chunked,identity",
        "binary",
        "utf-8",
        "none",
        "base64",
    ],
)
def test_an_encoding_that_changes_no_byte(
    case: Case, run: Callable[[Case, str], str], encoding: str
) -> None:
    with serve(lambda _: file_answer(Content_Encoding=encoding)) as server:
        assert run(case, f"{server.url}/x.safetensors") == SHA256


@pytest.mark.parametrize("run", [bake_it, fetch_it])
@pytest.mark.parametrize("encoding", ["gzip", "br", "X-Gzip", "deflate", "aws-chunked,zstd"])
def test_an_encoding_that_packs_is_named(
    case: Case, run: Callable[[Case, str], str], encoding: str
) -> None:
    name = encoding.rpartition(",")[2].lower()
    with (
        serve(lambda _: file_answer(Content_Encoding=encoding)) as server,
        pytest.raises((SourceError, WeightsError), match=rf"packs the file \({name}\)"),
    ):
        run(case, f"{server.url}/x.safetensors")
    assert case.stored() == []


@pytest.mark.parametrize("run", [bake_it, fetch_it])
@pytest.mark.parametrize(
    ("data", "name"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a Git LFS pointer",
        ),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', r"in XML \(NoSuchKey\)"),
        (b'{"detail": "Not Found"}', "a JSON answer"),
        (b"<html><body>Sign in</body></html>", "an HTML page"),
        (b"404: Not Found, really", "a text"),
        (b"", "the file is empty"),
    ],
)
def test_what_comes_in_place_of_a_file_is_named(
    case: Case, run: Callable[[Case, str], str], data: bytes, name: str
) -> None:
    with (
        serve(lambda _: file_answer(data)) as server,
        pytest.raises((SourceError, WeightsError), match=name),
    ):
        run(case, f"{server.url}/x.safetensors")
    assert case.stored() == []
    assert not (case.folder / "x").exists()


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"\x1f\x8b" + bytes(600), "packed with gzip"), (b"GGUF" + bytes(600), "a GGUF file")],
)
def test_a_file_of_another_form_is_named(case: Case, data: bytes, name: str) -> None:
    with (
        serve(lambda _: file_answer(data)) as server,
        pytest.raises(SourceError, match=f"this is {name}"),
    ):
        bake_it(case, f"{server.url}/x.safetensors")
    assert case.stored() == []


CLOUDFLARE = [520, 521, 522, 523, 524, 525, 526, 527, 530]


@pytest.mark.parametrize("run", [bake_it, fetch_it])
@pytest.mark.parametrize("status", CLOUDFLARE)
def test_what_cloudflare_says_of_an_origin_passes(
    case: Case, run: Callable[[Case, str], str], status: int
) -> None:
    count = iter(range(100))

    def answer(_: Request) -> Answer:
        return Answer(status=status) if next(count) % 3 == 0 else file_answer()

    with serve(answer) as server:
        assert run(case, f"{server.url}/x.safetensors") == SHA256


@pytest.mark.parametrize("page", [False, True])
@pytest.mark.parametrize("status", [*CLOUDFLARE, 408, 425, 500, 502, 503, 504])
def test_what_passes_at_a_sites_api_is_asked_again(
    case: Case, monkeypatch: pytest.MonkeyPatch, status: int, page: bool
) -> None:
    add_catalogue(case.world)
    case.add_civitai(SDXL)
    refused: set[str] = set()

    def first_refuses(server: Server) -> None:
        answer = server.answer

        def refuse_once(request: Request) -> Answer:
            if request.path in refused:
                return answer(request)
            refused.add(request.path)
            return html_answer(status, "down") if page else Answer(status=status)

        monkeypatch.setattr(server, "answer", refuse_once)

    for server in (case.world.civitai.server, case.world.huggingface.server):
        first_refuses(server)
    more = f"vae: hf://{VAE_REPOSITORY}/sdxl_vae.safetensors\n"
    lock = case.lock(case.manifest(f"civitai:{VERSION}", more=more))
    assert lock.pin("checkpoint").sha256 == SHA256
    assert lock.pin("checkpoint").licence.commercial_use is not None
    assert lock.pin("vae").licence.name == "mit"
    assert len(refused) == 6


def test_a_file_that_the_hub_keeps_in_its_cache(case: Case) -> None:
    """Files outside of LFS are redirected to the hub's own cache, with or without the commit's header."""
    cached = f"/api/resolve-cache/models/a/b/{COMMIT}/x.safetensors?etag=x"
    for says_commit in (False, True):
        headers = {"X-Repo-Commit": COMMIT, "ETag": '"abc"'}

        def answer(request: Request, headers: dict[str, str] = headers) -> Answer:
            if request.target == cached:
                return Answer(headers=headers, body=SDXL)
            if request.path.startswith("/a/b/resolve/"):
                redirect = headers if says_commit else {}  # noqa: B023  # asked in this round only
                return Answer(status=307, headers={"Location": cached, **redirect})
            return json_answer(200, {"cardData": {"license": "mit"}})

        with serve(answer) as hub:
            case.settings = replace(case.settings, huggingface_url=hub.url)
            pin = case.pin("hf://a/b/x.safetensors")
            assert (pin.revision, pin.sha256) == (COMMIT, SHA256)


@pytest.mark.parametrize("site", ["civitai", "hub"])
def test_a_file_that_draws_noise_is_refused_before_it_is_fetched(case: Case, site: str) -> None:
    data = models.safetensors({**models.SDXL, "v_pred": (0,)}, padding_bytes=5_000_000)
    case.add_civitai(data)
    source = f"civitai:{VERSION}"
    if site == "hub":
        files = {"x.safetensors": Blob(data=data)}
        revision = Revision(commit=COMMIT, files=files)
        case.world.huggingface.add(Repository(name="a/b", revisions=[revision]))
        source = "hf://a/b/x.safetensors"
    with pytest.raises(SourceError, match="predicts v, which the webui cannot tell"):
        case.pin(source)
    assert case.stored() == []
    config = "config: builtin:sdxl-v-prediction\n"
    assert case.lock(case.manifest(source, more=config)).pin("config").suffix == ".yaml"


@pytest.mark.parametrize("run", [bake_it, fetch_it])
@pytest.mark.parametrize(
    "location",
    [
        "//[x",
        "http://[::1",
        "https://",
        "caf\xe9",
        "http://a.example:99999/",
        "\x85",
        " ",
        "http:///x",
    ],
)
def test_a_location_that_is_none_is_an_error_in_words(
    case: Case, run: Callable[[Case, str], str], location: str
) -> None:
    def answer(request: Request) -> Answer:
        if request.path == "/x.safetensors":
            return Answer(status=302, headers={"Location": location})
        return Answer(status=404)

    with serve(answer) as server, pytest.raises((SourceError, WeightsError)) as raised:
        run(case, f"{server.url}/x.safetensors")
    assert "Error" not in str(raised.value)
    assert case.stored() == []


ODD = [
    "",
    "0",
    "-1",
    "1",
    "9" * 5000,
    "é",
    "\x85\xa0",
    "bytes */5",
    "bytes 0-4/5",
    "gzip",
    "chunked",
    "now",
]
NAMES = ["Content-Length", "Content-Range", "Content-Encoding", "Retry-After", "Location", "ETag"]
NAMES += ["Content-Type", "Transfer-Encoding", "X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size"]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_a_server_answers_ends_in_words_or_with_the_file(case: Case, seed: int) -> None:
    chance = random.Random(seed)

    def answer(_: Request) -> Answer:
        headers = {name: chance.choice(ODD) for name in chance.sample(NAMES, 3)}
        headers.setdefault("Content-Length", "5")
        body = chance.choice([b"", b"hello", SDXL[:600], b"{}", b"<a>"])
        known = chance.choice([200, 200, 206, 301, 304, 404, 416, 429, 503, 525, 599])
        return Answer(status=known, headers=headers, body=body)

    with serve(answer) as server:
        case.settings = replace(
            case.settings, huggingface_url=server.url, civitai_url=server.url, stall_s=2
        )
        for source in (f"{server.url}/x.safetensors", "hf://a/b/x.safetensors", "civitai:7"):
            with pytest.raises(SourceError) as raised:
                case.pin(source)
            assert "Error(" not in str(raised.value)
        policy, timeouts = HostPolicy(loopback=True), Timeouts(stall_s=2, total_s=20)
        url = f"{server.url}/x.safetensors"
        with pytest.raises(WeightsError):
            fetch_url(url, case.folder / "x", policy=policy, timeouts=timeouts, sha256="0" * 64)
    assert not (case.folder / "x").exists()
