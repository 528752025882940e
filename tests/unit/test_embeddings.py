"""Embeddings by URL: there for one job, of the right kind. What they share with LoRAs is in test_lora.py."""

import time
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import JobError
from runtime.job.lora import EMBEDDING, Applied, LoraStore
from runtime.job.rules.models import FileRequest
from tests.standins.models import safetensors
from tests.unit.test_lora import (
    DEMO_LORA,
    URL,
    Source,
    deadline_and_event,
    make_store,
    prepare,
    refusal,
    source,
)

__all__ = ["source"]
WORD = {"emb_params": (2, 16)}


def prepare_embeddings(store: LoraStore, *names: str, url: str = URL) -> list[Applied]:
    requests = [FileRequest(name=name, url=url) for name in names]
    return store.prepare(requests, kind=EMBEDDING, **deadline_and_event())


def embeddings_in(tmp_path: Path) -> list[str]:
    folder = tmp_path / "webui-embeddings"
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_an_embedding_is_there_for_one_job(tmp_path: Path, source: Source) -> None:
    source.data = safetensors(WORD)
    store = make_store(tmp_path)
    folder = tmp_path / "webui-embeddings"
    (applied,) = prepare_embeddings(store, "mine")
    assert (applied.name, applied.source, applied.was_cached) == ("mine", URL, False)
    assert embeddings_in(tmp_path) == ["mine.safetensors"]
    times = [folder.stat().st_mtime_ns]
    for names in ([], ["mine"], ["other"]):
        time.sleep(0.02)
        assert all(each.was_cached for each in prepare_embeddings(store, *names))
        assert embeddings_in(tmp_path) == [f"{name}.safetensors" for name in names]
        times.append(folder.stat().st_mtime_ns)
    # By this the webui sees that it must look again.
    assert times == sorted(set(times))
    # A copy: the webui keeps a hash by the name until a file is newer.
    made = (folder / "from-requests" / "other.safetensors").stat()
    assert made.st_mtime_ns >= times[0]
    assert len(source.urls) == 1


def test_one_that_another_worker_left_is_taken_away(tmp_path: Path) -> None:
    left = tmp_path / "webui-embeddings" / "from-requests"
    left.mkdir(parents=True)
    (left / "old.safetensors").touch()
    (left.parent / "baked.safetensors").touch()
    prepare_embeddings(make_store(tmp_path))
    assert embeddings_in(tmp_path) == ["baked.safetensors"]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (DEMO_LORA, "the file is no embedding"),
        ({"emb_params": (2, 768)}, "the embedding is for sd1, this model is demo"),
        ({"clip_l": (2, 768)}, "the embedding is for sdxl, this model is demo"),
        ({"emb_params": (80, 16)}, "the webui cannot apply it: it has 80 vectors"),
    ],
)
def test_it_must_be_one_that_the_model_takes(
    tmp_path: Path,
    source: Source,
    tensors: Any,
    message: str,
) -> None:
    source.data = safetensors(tensors)
    store = make_store(tmp_path)
    with pytest.raises(JobError) as caught:
        prepare_embeddings(store, "mine")
    failure = caught.value
    assert (failure.code, failure.fields[0].field) == ("embedding_refused", "embeddings[0]")
    assert message in failure.message
    assert embeddings_in(tmp_path) == []
    assert source.arguments["max_bytes"] == 10_000_000


def test_what_was_fetched_as_a_lora_is_no_embedding_from_the_cache(
    tmp_path: Path,
    source: Source,
) -> None:
    store = make_store(tmp_path)
    prepare(store, url=URL)
    with pytest.raises(JobError, match="the file is no embedding"):
        prepare_embeddings(store, "mine")
    source.data = safetensors(WORD)
    other = URL.replace("/1", "/2")
    prepare_embeddings(store, "mine", url=other)
    assert "the file is no LoRA" in refusal(store, url=other).message


def test_a_clock_that_is_set_back_hides_no_change(
    tmp_path: Path,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source.data = safetensors(WORD)
    store, folder = make_store(tmp_path), tmp_path / "webui-embeddings"
    prepare_embeddings(store, "mine")
    times = [folder.stat().st_mtime_ns]
    monkeypatch.setattr(time, "time_ns", lambda: times[0] - 10**12)
    for names in ([], ["mine"], []):
        prepare_embeddings(store, *names)
        times.append(folder.stat().st_mtime_ns)
    assert times == sorted(set(times))
