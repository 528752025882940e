"""The hub's headers and records: commit, digest and size of a file, and what its repository says of itself."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from bake.console import Console
from bake.lock import Licence, Pin
from bake.settings import Settings
from bake.weights.context import Context
from bake.weights.sites import huggingface
from bake.weights.sites.huggingface import find_huggingface, newer_huggingface, published_sha256
from bake.weights.sources import Source
from bake.weights.store import Store
from runtime.files.errors import WeightsError

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
SHA256 = "0123456789abcdef" * 4
SOURCE = Source(provider="huggingface", repository="you/model", path="sub/it.safetensors")
FILE = "https://huggingface.co/you/model/resolve/{}/sub/it.safetensors"


class Warnings(Console):
    """Keeps what it would have warned of."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    settings, store = Settings(store=tmp_path), Store(tmp_path)
    return Context(settings=settings, store=store, console=Warnings(), folder=tmp_path)


class Hub:
    """What it answers: headers by address, and one record; what it was asked."""

    def __init__(self) -> None:
        self.heads: dict[str, tuple[int, dict[str, str]]] = {}
        self.record: Any = {}
        self.asked: list[str] = []

    def ask(self, _client: object, url: str, *, method: str, **_more: object) -> requests.Response:
        assert method == "HEAD"
        self.asked.append(url)
        response = requests.Response()
        response.status_code, headers = self.heads[url]
        response.headers.update(headers)
        response.raw = io.BytesIO()
        return response

    def get_json(self, _client: object, url: str, **_more: object) -> Mapping[str, Any]:
        self.asked.append(url)
        if isinstance(self.record, Exception):
            raise self.record
        record: Mapping[str, Any] = self.record
        return record


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(huggingface, "ask", made.ask)
    monkeypatch.setattr(huggingface, "get_json", made.get_json)
    headers = {
        "X-Repo-Commit": COMMIT.upper(),
        "X-Linked-Etag": f'"{SHA256.upper()}"',
        "X-Linked-Size": "123",
        "Location": "https://cdn-lfs.hf.co/x",
        "ETag": '"x"',
    }
    made.heads[FILE.format("main")] = 302, headers
    return made


def test_a_file_is_found_at_its_commit(context: Context, hub: Hub) -> None:
    hub.record = {
        "cardData": {"license": "mit", "base_model": ["a/base", "b/base"]},
        "lastModified": "2025-01-02T03:04:05.000Z",
    }
    found = find_huggingface(context, SOURCE)
    assert hub.asked == [
        FILE.format("main"), f"https://huggingface.co/api/models/you/model/revision/{COMMIT}",
    ]  # fmt: skip
    assert (found.file_name, found.url) == ("it.safetensors", FILE.format(COMMIT))
    assert (found.sha256, found.size_bytes, found.revision) == (SHA256, 123, COMMIT)
    assert (found.title, found.base_model) == ("you/model", "a/base")
    assert found.published_at == "2025-01-02T03:04:05.000Z"
    assert found.licence == Licence(name="mit")


def test_a_file_of_a_data_set_is_found_and_its_licence_too(context: Context, hub: Hub) -> None:
    source = Source(provider="huggingface", repository="datasets/you/set", path="it.safetensors")
    file = "https://huggingface.co/datasets/you/set/resolve/{}/it.safetensors"
    hub.heads[file.format("main")] = hub.heads[FILE.format("main")]
    hub.record = {"cardData": {"license": "mit"}}
    found = find_huggingface(context, source)
    assert hub.asked == [
        file.format("main"), f"https://huggingface.co/api/datasets/you/set/revision/{COMMIT}",
    ]  # fmt: skip
    assert (found.url, found.title) == (file.format(COMMIT), "datasets/you/set")
    assert found.licence == Licence(name="mit")


def test_a_revision_of_the_source_is_asked_for(context: Context, hub: Hub) -> None:
    hub.heads[FILE.format("v1.0")] = 200, {
        "X-Repo-Commit": OTHER, "ETag": f'W/"{"a" * 40}"', "Content-Length": "77",
    }  # fmt: skip
    tagged = Source(
        provider="huggingface", repository="you/model", path="sub/it.safetensors", revision="v1.0"
    )
    found = find_huggingface(context, tagged)
    # A plain git file's digest pins nothing.
    assert (found.sha256, found.size_bytes, found.revision) == (None, 77, OTHER)


@pytest.mark.parametrize(
    ("record", "licence", "base", "changed"),
    [
        ({}, None, None, None),
        ({"cardData": None, "lastModified": None}, None, None, None),
        ({"cardData": [], "lastModified": 5}, None, None, None),
        ({"cardData": {"license": "other", "license_name": "own", "base_model": "a/b"}}, "own", "a/b", None),
        ({"cardData": {"license": "other"}}, None, None, None),
        ({"cardData": {"license": ["mit"], "base_model": []}}, None, None, None),
        ({"cardData": {"license": "mit", "license_name": "x", "base_model": [5]}}, "mit", None, None),
    ],
)  # fmt: skip
def test_a_card_may_say_anything(
    context: Context, hub: Hub, record: Any, licence: str | None, base: Any, changed: Any
) -> None:
    hub.record = record
    found = find_huggingface(context, SOURCE)
    assert (found.licence.name, found.base_model, found.published_at) == (licence, base, changed)


def test_a_hub_that_does_not_describe_itself_is_no_obstacle(context: Context, hub: Hub) -> None:
    hub.record = WeightsError("missing", "there is no such repository")
    found = find_huggingface(context, SOURCE)
    assert (found.licence, found.title, found.sha256) == (Licence(), "you/model", SHA256)
    assert isinstance(context.console, Warnings)
    assert context.console.said == [
        "hf://you/model: no licence known (there is no such repository)"
    ]


@pytest.mark.parametrize("commit", ["", COMMIT[:-1], COMMIT + "0", "main"])
def test_an_answer_without_a_commit_is_no_hub(context: Context, hub: Hub, commit: str) -> None:
    hub.heads[FILE.format("main")] = 200, {"X-Repo-Commit": commit}
    with pytest.raises(WeightsError) as caught:
        find_huggingface(context, SOURCE)
    assert (caught.value.kind, caught.value.where) == ("page", FILE.format("main"))
    assert caught.value.what == (
        "the answer names no commit: this is not a Hugging Face hub, or it is in maintenance"
    )
    assert caught.value.hint == "check HF_ENDPOINT; try again later"


def test_a_renamed_repository_is_followed_within_the_hub_only(context: Context, hub: Hub) -> None:
    renamed = FILE.format("main").replace("you/", "them/")
    hub.heads[renamed] = hub.heads[FILE.format("main")]
    hub.heads[FILE.format("main")] = (
        307, {"Location": "/them/model/resolve/main/sub/it.safetensors"},
    )  # fmt: skip
    assert find_huggingface(context, SOURCE).revision == COMMIT
    assert hub.asked[:2] == [FILE.format("main"), renamed]
    hub.asked.clear()
    hub.heads[FILE.format("main")] = 302, {"Location": "//cdn.example/x"}
    with pytest.raises(WeightsError, match="names no commit"):
        find_huggingface(context, SOURCE)
    assert hub.asked == [FILE.format("main")]


def pin(**changes: Any) -> Pin:
    known: dict[str, Any] = {
        "key": "checkpoint", "role": "checkpoint", "name": "x", "source": "hf://you/model/x", "url": "",
        "file_name": "x.safetensors", "size_bytes": 1, "sha256": "0" * 64, "revision": OTHER, **changes,
    }  # fmt: skip
    return Pin(**known)


def test_what_is_at_the_tip_is_newer_where_it_is_another_file(context: Context, hub: Hub) -> None:
    hub.record = {"lastModified": "2025-01-02"}
    (newer,) = newer_huggingface(context, SOURCE, pin())
    assert newer.source == f"hf://you/model@{COMMIT}/sub/it.safetensors"
    assert (newer.title, newer.published_at, newer.base_model) == (
        f"main at {COMMIT[:12]}", "2025-01-02", None,
    )  # fmt: skip
    assert newer_huggingface(context, SOURCE, pin(revision=COMMIT)) == []
    assert newer_huggingface(context, SOURCE, pin(sha256=SHA256)) == []


def test_the_digest_of_today_is_that_of_the_pinned_commit(context: Context, hub: Hub) -> None:
    hub.heads[FILE.format(OTHER)] = 200, {"X-Repo-Commit": OTHER, "X-Linked-Etag": f'"{"b" * 64}"'}
    assert published_sha256(context, SOURCE, pin()) == "b" * 64
    assert published_sha256(context, SOURCE, pin(revision=None)) == SHA256
    hub.heads[FILE.format(OTHER)] = 200, {"X-Repo-Commit": OTHER, "ETag": '"c"'}
    assert published_sha256(context, SOURCE, pin()) is None
