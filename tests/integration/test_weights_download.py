"""Every fault of a download ends with the right file or a clear error, never with a wrong or half file."""

import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bake.weights.transfer.download import Download, run_download
from bake.weights.transfer.judge import Options
from bake.weights.transfer.partial import PartFile
from bake.weights.transfer.remote import Remote
from runtime.files.errors import WeightsError
from runtime.files.http import Client, Timeouts
from runtime.files.policy import HostPolicy
from runtime.retry import Retry
from tests.standins import models
from tests.standins.civitai import CivitaiFile, CivitaiVersion
from tests.standins.http_server import Request
from tests.standins.storage import Blob, Fault, FaultKind, always, in_turn, random_cuts
from tests.standins.world import Standins

SIZE = 600_000
DATA = models.safetensors(models.SDXL, seed=7, padding_bytes=SIZE)
SHA256 = hashlib.sha256(DATA).hexdigest()
SEGMENT = 64 << 10


@pytest.fixture(scope="module")
def world() -> Iterator[Standins]:
    with Standins() as standins:
        yield standins


class Fetcher:
    """Downloads the module's file from a plain server."""

    def __init__(self, world: Standins, folder: Path) -> None:
        world.storage.server.requests.clear()
        world.storage._count = world.storage._counted_on = 0
        world.storage.fault = in_turn()
        self.world = world
        self.url = world.plain_url("x.safetensors", Blob(data=DATA))
        self.part = PartFile(folder / "x.part")
        # A pause of a busy machine is no stall: only the tests of stalls are impatient.
        self.client = Client(HostPolicy(loopback=True), timeouts=Timeouts(stall_s=120))

    def be_impatient(self) -> None:
        self.client.timeouts = Timeouts(stall_s=0.3)

    def run(
        self,
        *,
        connections: int = 1,
        sha256: str | None = SHA256,
        size_bytes: int | None = len(DATA),
        attempts: int = 7,
        backoff_s: float = 0.001,
    ) -> str:
        options = Options(
            size_bytes=size_bytes,
            sha256=sha256,
            connections=connections,
            segment_bytes=SEGMENT,
            retry=Retry(attempts=attempts, backoff_s=backoff_s),
        )
        remote = Remote(self.client, self.url)
        return run_download(remote, PartFile(self.part.path), options)

    @property
    def requests(self) -> int:
        return len(self.world.storage.server.requests)

    def is_right(self) -> bool:
        return self.part.path.read_bytes() == DATA and not self.part.journal.exists()


@pytest.fixture
def fetcher(world: Standins, tmp_path: Path) -> Iterator[Fetcher]:
    made = Fetcher(world, tmp_path)
    yield made
    made.client.close()


@pytest.mark.parametrize("connections", [1, 2, 5])
@pytest.mark.parametrize("known", ["both", "size", "sha256", "nothing"])
def test_a_plain_download(fetcher: Fetcher, connections: int, known: str) -> None:
    found = fetcher.run(
        connections=connections,
        sha256=SHA256 if known in ("both", "sha256") else None,
        size_bytes=len(DATA) if known in ("both", "size") else None,
    )
    assert found == SHA256
    assert fetcher.is_right()
    assert fetcher.requests == (1 if connections == 1 else -(-len(DATA) // SEGMENT))


@pytest.mark.parametrize("seed", range(100))
def test_a_hundred_cuts_at_random_bytes(fetcher: Fetcher, seed: int) -> None:
    chance = random.Random(seed)
    kind: FaultKind = chance.choice(["cut", "reset"])
    faults = [Fault(kind=kind, after=chance.randrange(len(DATA))) for _ in range(3)]
    fetcher.world.storage.fault = in_turn(*faults)
    assert fetcher.run(connections=chance.choice([1, 3])) == SHA256
    assert fetcher.is_right()


def test_most_connections_are_cut(fetcher: Fetcher) -> None:
    fetcher.world.storage.fault = random_cuts(seed=1, share=0.8, most_bytes=SEGMENT)
    assert fetcher.run(connections=4) == SHA256
    assert fetcher.is_right()


def test_a_cut_is_continued_at_its_byte(fetcher: Fetcher) -> None:
    fetcher.world.storage.fault = in_turn(Fault(kind="cut", after=123_457))
    assert fetcher.run() == SHA256
    second = fetcher.world.storage.server.requests[1]
    assert second.headers["range"] == f"bytes=123457-{len(DATA) - 1}"


@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_a_server_that_never_gets_anywhere_is_given_up(fetcher: Fetcher, kind: FaultKind) -> None:
    fetcher.world.storage.fault = always(Fault(kind=kind, after=0))
    with pytest.raises(WeightsError, match="the connection broke") as raised:
        fetcher.run()
    assert raised.value.kind == "connection"
    assert fetcher.requests == 7


def test_a_server_that_gives_nothing_leaves_nothing_behind(fetcher: Fetcher) -> None:
    fetcher.world.storage.fault = always(Fault(kind="cut", after=0))
    with pytest.raises(WeightsError, match="the connection broke"):
        fetcher.run()
    assert not fetcher.part.path.exists()


def test_a_stall_is_noticed_and_continued(fetcher: Fetcher) -> None:
    fetcher.be_impatient()
    fetcher.world.storage.fault = in_turn(Fault(kind="stall", after=5000))
    assert fetcher.run() == SHA256
    # On a busy machine the answer to the second may stall as well.
    assert fetcher.requests >= 2
    assert fetcher.is_right()


def test_a_stall_that_stays_is_an_error(fetcher: Fetcher) -> None:
    fetcher.be_impatient()
    fetcher.world.storage.fault = always(Fault(kind="stall", after=0))
    with pytest.raises(WeightsError, match="the server stopped sending") as raised:
        fetcher.run(attempts=2)
    assert raised.value.kind == "stalled"


def test_a_trickle_counts_as_a_stall(fetcher: Fetcher) -> None:
    fetcher.be_impatient()
    fetcher.world.storage.fault = in_turn(Fault(kind="trickle", after=5000))
    assert fetcher.run() == SHA256
    assert fetcher.is_right()


def test_another_length_is_an_error_at_once(fetcher: Fetcher) -> None:
    fetcher.world.storage.fault = always(Fault(kind="other_length"))
    with pytest.raises(WeightsError, match=f"{len(DATA) + 1} bytes, {len(DATA)} were expected"):
        fetcher.run()
    assert not fetcher.part.path.exists()
    assert fetcher.requests == 1


def test_another_length_in_the_middle_starts_again_where_the_length_is_free(
    fetcher: Fetcher,
) -> None:
    fetcher.world.storage.fault = in_turn(
        Fault(kind="cut", after=1000), Fault(kind="other_length"), None
    )
    assert fetcher.run(size_bytes=None, sha256=None) == SHA256
    assert fetcher.is_right()


def test_another_version_in_the_middle_starts_again_where_no_digest_is_known(
    fetcher: Fetcher,
) -> None:
    fetcher.world.storage.fault = in_turn(Fault(kind="cut", after=1000), Fault(kind="other_etag"))
    assert fetcher.run(sha256=None) == SHA256
    ranges = [each.headers["range"] for each in fetcher.world.storage.server.requests]
    assert ranges[1].startswith("bytes=1000-")
    assert ranges[2].startswith("bytes=0-")


def test_another_etag_is_no_obstacle_where_the_digest_is_known(fetcher: Fetcher) -> None:
    fetcher.world.storage.fault = in_turn(Fault(kind="cut", after=1000), Fault(kind="other_etag"))
    assert fetcher.run() == SHA256
    assert fetcher.requests == 2


def test_wrong_bytes_are_never_kept(fetcher: Fetcher) -> None:
    fetcher.world.storage.fault = always(Fault(kind="other_bytes", after=400_000))
    with pytest.raises(WeightsError, match="was expected") as raised:
        fetcher.run()
    assert raised.value.kind == "hash"
    assert SHA256 in raised.value.what
    assert not fetcher.part.path.exists()
    assert not fetcher.part.journal.exists()


def test_wrong_bytes_of_an_earlier_attempt_are_fetched_again(fetcher: Fetcher) -> None:
    fetcher.part.path.write_bytes(b"X" * len(DATA))
    fetcher.part.journal.write_text(
        f'{{"format": 1, "size_bytes": {len(DATA)}, "validator": null, "ranges": [[0, 99999]]}}'
    )
    assert fetcher.run() == SHA256
    assert fetcher.is_right()


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("kind", ["whole", "chunked", "no_length"])
def test_a_server_without_ranges(fetcher: Fetcher, kind: FaultKind, connections: int) -> None:
    fetcher.world.storage.fault = always(Fault(kind=kind))
    assert fetcher.run(connections=connections) == SHA256
    assert fetcher.requests == 1
    assert fetcher.is_right()


def test_a_server_that_loses_its_ranges_on_the_way(fetcher: Fetcher) -> None:
    fetcher.world.storage.fault = in_turn(
        Fault(kind="cut", after=100_000), Fault(kind="whole"), Fault(kind="whole")
    )
    assert fetcher.run() == SHA256
    assert fetcher.is_right()


def test_a_server_that_loses_its_ranges_again_and_again(fetcher: Fetcher) -> None:
    lost = (Fault(kind="cut", after=100_000), Fault(kind="whole"))
    fetcher.world.storage.fault = in_turn(*lost * 4)
    assert fetcher.run() == SHA256
    assert fetcher.is_right()


def test_a_body_that_always_ends_early_is_said_to_break_off(fetcher: Fetcher) -> None:
    fetcher.world.storage.blobs["x.safetensors"] = Blob(data=DATA[:-7])
    fetcher.world.storage.fault = always(Fault(kind="no_length"))
    with pytest.raises(WeightsError, match=r"given up after 6 starts .*: the connection broke"):
        fetcher.run()
    assert not fetcher.part.path.exists()


def test_without_length_and_digest_a_broken_file_could_not_be_told(fetcher: Fetcher) -> None:
    fetcher.world.storage.fault = always(Fault(kind="no_length"))
    with pytest.raises(WeightsError, match="does not say how long the file is"):
        fetcher.run(sha256=None, size_bytes=None)


def test_416_says_that_the_file_is_another(fetcher: Fetcher) -> None:
    fetcher.world.storage.fault = always(Fault(kind="no_range"))
    with pytest.raises(WeightsError) as raised:
        fetcher.run()
    assert raised.value.kind == "size"


def test_a_complete_part_file_asks_for_nothing(fetcher: Fetcher) -> None:
    fetcher.part.path.write_bytes(DATA)
    fetcher.part.journal.write_text(
        f'{{"format": 1, "size_bytes": {len(DATA)}, "validator": null, "ranges": [[0, {len(DATA)}]]}}'
    )
    assert fetcher.run() == SHA256
    assert fetcher.requests == 0
    assert fetcher.is_right()


def test_a_file_that_has_become_shorter_starts_again(fetcher: Fetcher) -> None:
    long = len(DATA) + 5000
    fetcher.part.path.write_bytes(DATA + b"x" * 5000)
    fetcher.part.journal.write_text(
        f'{{"format": 1, "size_bytes": {long}, "validator": "\\"r2\\"", "ranges": [[0, {len(DATA) + 10}]]}}'
    )
    assert fetcher.run(size_bytes=None, sha256=None) == SHA256
    assert fetcher.is_right()


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("html", "page", "the server sent an HTML page in place of the file"),
        ("gzip", "http", "the server packs the file"),
        ("empty", "not_weights", "the file is empty"),
        ("shifted", "http", "a range that nobody asked for"),
    ],
)
def test_answers_that_are_not_the_file(
    fetcher: Fetcher, kind: FaultKind, error: str, text: str
) -> None:
    faults = in_turn(Fault(kind="cut", after=10), *[Fault(kind=kind)] * 8)
    fetcher.world.storage.fault = faults if kind == "shifted" else always(Fault(kind=kind))
    with pytest.raises(WeightsError, match=text) as raised:
        fetcher.run()
    assert raised.value.kind == error


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><p>Sign in", b'{"error": "no"}', b"<Error/>"])
def test_a_page_without_a_content_type_is_seen_by_its_first_bytes(
    fetcher: Fetcher, page: bytes
) -> None:
    fetcher.world.storage.blobs["x.safetensors"] = Blob(data=page + b" " * 4000)
    with pytest.raises(WeightsError, match="in place of the file"):
        fetcher.run(size_bytes=None, sha256=None)
    assert not fetcher.part.path.exists()


@pytest.mark.parametrize("status", [500, 502, 503, 408])
def test_a_server_in_trouble_is_asked_again(fetcher: Fetcher, status: int) -> None:
    fetcher.world.storage.fault = in_turn(*[Fault(kind="status", status=status)] * 3)
    assert fetcher.run() == SHA256


def test_retry_after_is_kept_to(fetcher: Fetcher) -> None:
    fault = Fault(kind="status", status=429, headers=(("Retry-After", "0"),))
    fetcher.world.storage.fault = in_turn(fault, fault)
    assert fetcher.run() == SHA256


@pytest.mark.parametrize(("status", "headers"), [(429, ()), (503, (("Retry-After", "7200"),))])
def test_who_asks_for_hours_is_not_waited_for(
    fetcher: Fetcher, status: int, headers: tuple[tuple[str, str], ...]
) -> None:
    fetcher.world.storage.fault = always(Fault(kind="status", status=status, headers=headers))
    with pytest.raises(WeightsError):
        fetcher.run()
    assert fetcher.requests == 1


def test_a_full_disk_is_an_error_that_keeps_what_came(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def write(handle: int, data: bytes, offset: int) -> int:
        if offset > 300_000:
            raise OSError(28, "No space left on device")
        return real(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", write)
    with pytest.raises(WeightsError, match="the disk is full") as raised:
        fetcher.run(connections=2)
    assert raised.value.kind == "disk"
    monkeypatch.undo()
    before = fetcher.requests
    assert fetcher.run(connections=2) == SHA256
    assert fetcher.requests - before < before + 5
    assert fetcher.is_right()


def test_room_is_taken_before_the_first_byte(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(WeightsError, match="the disk is full"):
        fetcher.run()
    assert fetcher.requests == 1
    assert not fetcher.part.path.exists()


def test_a_cancelled_download_is_taken_up_later(fetcher: Fetcher) -> None:
    class CancelledError(Exception):
        pass

    def cancel(count: int) -> None:
        if count:
            raise CancelledError

    fetcher.world.storage.fault = always(Fault(kind="stall", after=200_000))
    options = Options(
        size_bytes=len(DATA),
        sha256=SHA256,
        on_bytes=cancel,
        retry=Retry(attempts=3, backoff_s=0.001),
    )
    with pytest.raises(CancelledError):
        run_download(Remote(fetcher.client, fetcher.url), fetcher.part, options)
    fetcher.world.storage.fault = in_turn()
    download = Download(
        Remote(fetcher.client, fetcher.url),
        PartFile(fetcher.part.path),
        Options(size_bytes=len(DATA), sha256=SHA256),
    )
    assert download.run() == SHA256
    assert download.resumed_bytes > 0
    assert fetcher.is_right()


@pytest.mark.parametrize("refusal", ["quota", "busy", "reset"])
def test_a_server_that_serves_only_one_connection(fetcher: Fetcher, refusal: str) -> None:
    fault = {
        "quota": Fault(kind="status", status=429),
        "busy": Fault(kind="status", status=503),
        "reset": Fault(kind="reset"),
    }[refusal]
    storage = fetcher.world.storage
    storage.when_busy, storage.most_at_once = fault, 1
    try:
        assert fetcher.run(connections=4) == SHA256
    finally:
        storage.most_at_once = None
    assert fetcher.is_right()


def test_a_server_that_still_counts_connections_that_have_ended(fetcher: Fetcher) -> None:
    storage = fetcher.world.storage
    storage.when_busy, storage.most_at_once = Fault(kind="status", status=429), 1
    storage.counts_on = 2
    try:
        assert fetcher.run(connections=4) == SHA256
    finally:
        storage.most_at_once, storage.counts_on = None, 0
    assert fetcher.is_right()


def test_a_connection_that_is_refused_when_the_others_have_just_ended_tries_again(
    fetcher: Fetcher,
) -> None:
    def refuse_late(_request: Request, count: int) -> Fault | None:
        if count != 1:
            return None
        time.sleep(0.5)  # the other connection is through with the rest of the file by then
        return Fault(kind="status", status=429)

    fetcher.world.storage.fault = refuse_late
    assert fetcher.run(connections=2) == SHA256
    assert fetcher.is_right()


@pytest.mark.parametrize("seed", range(3))
def test_all_connections_die_on_the_way(fetcher: Fetcher, seed: int) -> None:
    most = 3 + seed
    fetcher.world.storage.fault = lambda _request, count: (
        None if count < most else Fault(kind="status", status=503)
    )
    with pytest.raises(WeightsError, match="the server is in trouble"):
        fetcher.run(connections=4)
    assert fetcher.requests < most + 4 * 8


def test_connections_that_find_the_address_expired_at_once_renew_it_once(
    fetcher: Fetcher,
) -> None:
    storage = fetcher.world.storage
    fetcher.world.civitai.add(
        CivitaiVersion(
            version_id=1,
            model_id=2,
            files=[CivitaiFile(file_id=3, name="x.safetensors", blob=Blob(data=DATA))],
        )
    )
    fetcher.url = f"{fetcher.world.civitai.server.url}/api/download/models/1?fileId=3"
    fetcher.world.civitai.redirects.clear()
    expired = threading.Event()

    def expire_once(_request: Request, count: int) -> Fault | None:
        if count == 3 and not expired.is_set():
            expired.set()
            storage.expire_all()
        return None

    storage.fault = expire_once
    assert fetcher.run(connections=8) == SHA256
    assert fetcher.world.civitai.redirect_count <= 3
