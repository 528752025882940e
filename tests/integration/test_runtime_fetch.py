"""A worker's download over one connection: whatever goes wrong, the right file, or an error and no file."""

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.files.errors import WeightsError
from runtime.files.fetch import Fetched, fetch_url
from runtime.files.http import Timeouts
from runtime.files.policy import HostPolicy
from runtime.retry import Retry
from tests.standins import models
from tests.standins.http_server import Request
from tests.standins.huggingface import HuggingFace, Repository, Revision
from tests.standins.storage import Blob, Fault, FaultKind, Storage, always, in_turn

DATA = models.safetensors(models.LORA_SDXL, seed=7, padding_bytes=600_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    made = Storage(blobs={"x.safetensors": Blob(data=DATA)})
    yield made
    made.close()


class Fetcher:
    """Fetches the module's file."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        storage.server.requests.clear()
        storage._count = 0
        storage.fault = in_turn()
        storage.blobs["x.safetensors"] = Blob(data=DATA)
        self.storage, self.folder = storage, folder
        self.url = f"{storage.server.url}/plain/x.safetensors?signed=secret"

    def run(
        self,
        *,
        sha256: str | None = None,
        max_bytes: int | None = None,
        stall_s: float = 120.0,
        total_s: float | None = None,
        cancelled: threading.Event | None = None,
    ) -> Fetched:
        # A pause of a busy machine is no stall: only the tests of stalls are impatient.
        return fetch_url(
            self.url,
            self.folder / "x",
            policy=HostPolicy(loopback=True),
            timeouts=Timeouts(stall_s=stall_s, total_s=total_s),
            max_bytes=max_bytes,
            sha256=sha256,
            cancelled=cancelled,
            retry=Retry(backoff_s=0.001),
        )

    def fail(self, text: str, **arguments: float | str | threading.Event) -> WeightsError:
        with pytest.raises(WeightsError, match=text) as raised:
            self.run(**arguments)  # type: ignore[arg-type]
        assert list(self.folder.iterdir()) == []
        assert "secret" not in str(raised.value)
        return raised.value

    @property
    def requests(self) -> list[Request]:
        return self.storage.server.requests


@pytest.fixture
def fetcher(storage: Storage, tmp_path: Path) -> Fetcher:
    return Fetcher(storage, tmp_path)


def is_right(fetched: Fetched) -> bool:
    assert list(fetched.path.parent.iterdir()) == [fetched.path]
    return (
        fetched.path.read_bytes() == DATA
        and fetched.sha256 == SHA256
        and fetched.size_bytes == len(DATA)
        and "?" not in fetched.url
    )


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_a_plain_fetch(fetcher: Fetcher, sha256: str | None) -> None:
    assert is_right(fetcher.run(sha256=sha256))
    assert "range" not in fetcher.requests[0].headers
    assert len(fetcher.requests) == 1


@pytest.mark.parametrize("seed", range(20))
def test_cuts_at_random_bytes(fetcher: Fetcher, seed: int) -> None:
    chance = random.Random(seed)
    kind: FaultKind = chance.choice(["cut", "reset"])
    cuts = [Fault(kind=kind, after=chance.randrange(len(DATA) // 3)) for _ in range(3)]
    fetcher.storage.fault = in_turn(*cuts)
    assert is_right(fetcher.run())


def test_a_cut_is_continued_at_its_byte(fetcher: Fetcher) -> None:
    fetcher.storage.fault = in_turn(Fault(kind="cut", after=123_457))
    assert is_right(fetcher.run())
    assert [each.headers.get("range") for each in fetcher.requests] == [None, "bytes=123457-"]


@pytest.fixture
def hub(storage: Storage, fetcher: Fetcher) -> Iterator[HuggingFace]:
    made = HuggingFace(storage=storage)
    revision = Revision(commit="0" * 40, files={"x.safetensors": Blob(data=DATA)})
    made.add(Repository(name="a/b", revisions=[revision]))
    fetcher.url = f"{made.server.url}/a/b/resolve/main/x.safetensors?signed=secret"
    yield made
    made.server.close()


def test_a_hub_says_which_file_it_is_where_its_storage_does_not(
    fetcher: Fetcher, hub: HuggingFace
) -> None:
    """A LoRA that breaks off again and again would else begin at its first byte each time, and never end."""
    cuts = [Fault(kind="cut", after=60_000) for _ in range(9)]
    fetcher.storage.fault = in_turn(*cuts)
    assert is_right(fetcher.run())
    ranges = [each.headers.get("range") for each in fetcher.requests]
    assert ranges == [None, *(f"bytes={number * 60_000}-" for number in range(1, 10))]
    assert len(hub.server.requests) == 1


def test_a_hubs_digest_is_held_against_the_whole_file(fetcher: Fetcher, hub: HuggingFace) -> None:
    fetcher.storage.fault = in_turn(
        Fault(kind="cut", after=1000), Fault(kind="other_bytes", after=2000)
    )
    assert fetcher.fail(f"the server sent a file .*, {SHA256} was expected").kind == "hash"
    fetcher.storage.server.requests.clear()
    asked = "0" * 64
    failure = fetcher.fail(f"the server has a file .* {SHA256}, {asked} was expected", sha256=asked)
    assert failure.kind == "hash"
    assert len(fetcher.requests) == 1  # of which no byte was read


@pytest.mark.parametrize("second", ["other_etag", "other_length", "shifted", "whole", "no_range"])
def test_what_cannot_be_continued_begins_again(fetcher: Fetcher, second: FaultKind) -> None:
    fetcher.storage.fault = in_turn(Fault(kind="cut", after=1000), Fault(kind=second))
    assert is_right(fetcher.run())


@pytest.mark.parametrize("kind", ["whole", "chunked"])
def test_a_server_without_ranges(fetcher: Fetcher, kind: FaultKind) -> None:
    fetcher.storage.fault = always(Fault(kind=kind))
    assert is_right(fetcher.run())


def test_a_server_that_always_breaks_off_is_given_up(fetcher: Fetcher) -> None:
    fetcher.storage.fault = always(Fault(kind="cut", after=0))
    assert fetcher.fail("broken off 6 times, and not continued").kind == "connection"
    assert len(fetcher.requests) == 7


def test_a_server_that_never_continues_is_given_up(fetcher: Fetcher) -> None:
    lost = (Fault(kind="cut", after=1000), Fault(kind="other_etag"))
    fetcher.storage.fault = in_turn(*lost * 50)
    assert fetcher.fail("broken off 6 times, and not continued").kind == "connection"


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 520, 522, 525, 530])
def test_a_server_in_trouble_is_asked_again(fetcher: Fetcher, status: int) -> None:
    fetcher.storage.fault = in_turn(*[Fault(kind="status", status=status)] * 3)
    assert is_right(fetcher.run())


def test_a_limit_that_opens_soon_is_waited_for(fetcher: Fetcher) -> None:
    """As Hugging Face's hub says it, without a Retry-After (github.com/huggingface/huggingface_hub/issues/3553)."""
    limited = Fault(kind="status", status=429, headers=(("RateLimit", '"resolvers";r=0;t=1'),))
    fetcher.storage.fault = in_turn(limited)
    assert is_right(fetcher.run())


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (404, (), "http"),
        (429, (), "quota"),
        (429, (("RateLimit", '"resolvers";r=0;t=7200'),), "quota"),
        (503, (("Retry-After", "7200"),), "server"),
    ],
)
def test_what_does_not_pass_is_not_waited_for(
    fetcher: Fetcher, status: int, headers: tuple[tuple[str, str], ...], kind: str
) -> None:
    fetcher.storage.fault = always(Fault(kind="status", status=status, headers=headers))
    assert fetcher.fail(str(status)).kind == kind
    assert len(fetcher.requests) == 1


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("html", "an HTML page in place of the file"),
        ("gzip", r"packs the file \(gzip\)"),
        ("empty", "the file is empty"),
        ("no_length", "does not say how long the file is"),
    ],
)
def test_answers_that_are_not_the_file(fetcher: Fetcher, kind: FaultKind, text: str) -> None:
    fetcher.storage.fault = always(Fault(kind=kind))
    fetcher.fail(text)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (b"<!DOCTYPE html><p>Sign in", "an HTML page"),
        (b'{"error": "no"}', "a JSON answer"),
        (b"<Error><Code>AccessDenied</Code></Error>", r"error in XML \(AccessDenied\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer.*/resolve/"),
    ],
)
def test_a_page_is_seen_by_its_first_bytes(fetcher: Fetcher, page: bytes, text: str) -> None:
    fetcher.storage.blobs["x.safetensors"] = Blob(data=page + b" " * 4000)
    assert fetcher.fail(text).kind == "page"


@pytest.mark.parametrize("kind", ["whole", "chunked"])
def test_a_file_above_the_limit_is_refused(fetcher: Fetcher, kind: FaultKind) -> None:
    fetcher.storage.fault = always(Fault(kind=kind))
    assert fetcher.fail("100000 are allowed", max_bytes=100_000).kind == "too_large"


def test_a_wrong_digest(fetcher: Fetcher) -> None:
    fetcher.storage.fault = always(Fault(kind="other_bytes", after=400_000))
    assert fetcher.fail(f"{SHA256} was expected", sha256=SHA256).kind == "hash"


def test_a_stall_is_noticed_and_continued(fetcher: Fetcher) -> None:
    fetcher.storage.fault = in_turn(Fault(kind="stall", after=5000))
    assert is_right(fetcher.run(stall_s=0.5))


@pytest.mark.parametrize("kind", ["stall", "trickle"])
def test_the_whole_time_is_limited(fetcher: Fetcher, kind: FaultKind) -> None:
    fetcher.storage.fault = always(Fault(kind=kind, after=5000))
    assert fetcher.fail("takes longer than 1 s", total_s=0.9).kind == "too_slow"


@pytest.mark.parametrize("kind", ["stall", "trickle"])
def test_a_cancelled_job_ends_its_download(fetcher: Fetcher, kind: FaultKind) -> None:
    fetcher.storage.fault = always(Fault(kind=kind, after=5000))
    cancelled = threading.Event()
    threading.Timer(0.5, cancelled.set).start()
    began = time.monotonic()
    assert fetcher.fail("the job was cancelled", cancelled=cancelled).kind == "cancelled"
    assert time.monotonic() - began < 110, "it waited for the stalled server"


def test_a_cancelled_job_waits_for_no_pause(fetcher: Fetcher) -> None:
    header = (("Retry-After", "100"),)
    fetcher.storage.fault = always(Fault(kind="status", status=503, headers=header))
    cancelled = threading.Event()
    threading.Timer(0.5, cancelled.set).start()
    began = time.monotonic()
    assert fetcher.fail("the job was cancelled", cancelled=cancelled).kind == "cancelled"
    assert time.monotonic() - began < 90, "it slept on"


def test_a_full_disk(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert fetcher.fail("the disk is full").kind == "disk"
