"""Whatever a registry answers, at whatever moment: a push succeeds, or ends with an error in words."""

from __future__ import annotations

import gzip
import json
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import get_args

import pytest
import requests

from bake.console import Console
from bake.errors import BakeError, PushError
from bake.image.final.assemble import assemble
from bake.image.oci.model import Image, sha256_digest
from bake.image.oci.reference import parse_reference
from bake.image.registry import push as pushing
from bake.image.registry.answers import Meaning, Operation, meaning_of, refusal_of
from bake.image.registry.push import PushReport, push_image
from bake.image.registry.referrers import attached
from tests.standins.registry_memory import HOST, TOKEN_HOST, MemoryRegistry, Reply
from tests.unit.test_assemble import CONFIG, THIN, WEIGHTS, make_base

OPERATIONS: tuple[Operation, ...] = get_args(Operation)
CONSOLE = Console(quiet=True)
REFERENCE = f"{HOST}/you/model:1"
STATUSES = (100, 200, 202, 204, 206, 301, 307, 400, 401, 403, 404, 405, 409, 413, 416, 418, 429, 500, 503, 507, 522)  # fmt: skip
"""tests/integration/test_registry_answers.py takes many more, and random answers."""
RANDOM_ANSWERS = 20
"""For each operation."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are counted by the tests of `Retry`."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(threading.Event, "wait", lambda event, *_: event.is_set())
    monkeypatch.setattr(pushing, "_SHOWN_WITHIN_S", 0.01)


def on_a_mounted_base(registry: MemoryRegistry) -> Image:
    """An image whose base's layers are in another repository of the registry."""
    base, client = make_base(), registry.client()
    layers = []
    for layer in base.layers:
        assert layer.content is not None
        blobs = registry.blobs.setdefault("you/base", {})
        blobs[layer.digest] = b"".join(layer.content.chunks())
        layers.append(replace(layer, content=client.blob_content("you/base", layer.digest)))
    return assemble(replace(base, layers=tuple(layers)), layers=[WEIGHTS, THIN], config=CONFIG)


def push(image: Image, registry: MemoryRegistry, **options: int) -> PushReport:
    return push_image(image, REFERENCE, console=CONSOLE, client=registry.client(**options))


def refused_piece(registry: MemoryRegistry, operation: Operation) -> bool:
    """Operations that only a fault before them leads to: a piece that breaks, a push that fails."""
    is_after = {"ask upload": "send piece", "give up upload": "close upload"}.get(operation)
    if is_after is None:
        return False
    return registry.asked[-1] == is_after and registry.asked.count(registry.asked[-1]) == 1


def answering(operation: Operation, reply: Callable[[], Reply | None]) -> MemoryRegistry:
    """A registry that answers one operation in a way of its own."""
    registry = MemoryRegistry()

    def rule(asked: Operation, _: requests.PreparedRequest) -> Reply | None:
        if asked == operation:
            # Whom the registry names as its token server first of all is believed.
            is_known = operation == "get token" or "get token" in registry.asked
            return reply() if is_known else None
        if refused_piece(registry, operation):
            return Reply(status=503 if operation == "ask upload" else 403)
        return None

    registry.rule = rule
    return registry


def outcome(registry: MemoryRegistry, operation: Operation) -> str:
    """`done`, or the error in words; the tag points at the whole image, or at nothing."""
    image = on_a_mounted_base(registry)
    began = time.monotonic()
    try:
        if operation == "get blob":
            client = registry.client()
            for layer in image.layers[:2]:
                data = b"".join(client.blob_content("you/base", layer.digest).chunks())
                if sha256_digest(data) != layer.digest:
                    return "other bytes, which their digest shows"
        else:
            push(image, registry)
        if operation == "list referrers":
            pushed = parse_reference(REFERENCE).at(image.digest)
            client = registry.client()
            client.get_manifest(pushed)  # so that it knows the token server
            list(attached(client, pushed, "application/x-test"))
        failed = ""
    except BakeError as error:
        failed = str(error)
    assert not any(each in failed for each in ("Traceback", "correct horse", "a-token")), failed
    assert time.monotonic() - began < 300
    assert not registry.leaks
    there = registry.tags.get("you/model:1")
    assert there in (None, image.manifest_json)
    if operation in ("get blob", "list referrers"):
        return failed or "done"
    if failed and operation not in ("get manifest", "put manifest"):
        assert there is None, "the tag has moved, and the push says that it failed"
    if not failed and operation != "put manifest":
        assert there == image.manifest_json
        blobs = registry.blobs["you/model"]
        assert all(layer.digest in blobs for layer in image.layers)
    return failed or "done"


def test_what_every_status_means_to_every_operation() -> None:
    known = set(get_args(Meaning))
    for operation in OPERATIONS:
        for status in range(1000):
            meaning = meaning_of(operation, status)
            assert meaning in known
            if 200 <= status < 300 and (operation, status) != ("mount", 202):
                assert meaning == "done", (operation, status)
            if 520 <= status <= 530 and operation != "give up upload":
                assert meaning == "again", (operation, status)
            if operation == "mount":
                assert meaning in ("done", "again", "otherwise")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_status_for_good_ends_in_success_or_an_error_in_words(operation: Operation) -> None:
    answer_for_good(operation, STATUSES)


def answer_for_good(operation: Operation, statuses: Iterable[int]) -> None:
    for status in statuses:
        registry = answering(operation, partial(Reply, status=status))
        said = outcome(registry, operation)
        meaning = meaning_of(operation, status)
        if operation in ("mount", "ask upload") and meaning not in ("done", "login", "again"):
            assert said == "done", (status, said)  # it goes another way
        if meaning in ("again", "refused"):
            # What was pushed and cannot be read back is pushed.
            assert said != "done" or operation in ("ask upload", "mount", "get manifest"), status


@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_status_in_passing_is_outlived_where_it_may_pass(operation: Operation) -> None:
    for status in (408, 429, 500, 502, 504, 522):
        left = [Reply(status=status), Reply(status=status, headers={"Retry-After": "1"})]
        registry = answering(operation, partial(_popped, left))
        said = outcome(registry, operation)
        assert said == "done" or operation == "give up upload", (status, said)


def _popped(left: list[Reply]) -> Reply | None:
    return left.pop() if left else None


REALMS = (
    'Bearer realm="https://evil.example/token"', 'Bearer realm="http://127.0.0.1.evil.example/"',
    f'Bearer realm="https://{TOKEN_HOST}/token",scope="x"', 'Basic realm="x"', "Bearer", "Negotiate",
    'Bearer realm="https://[::1/"', "Bearer realm=" + " " * 60_000, 'Bearer realm="\xff"', "",
)  # fmt: skip
LOCATIONS = (
    "", "/v2/you/model/blobs/uploads/x", "https://evil.example/x", "//evil.example/x", "http://[::1/",
    "\\\\evil.example/x", "javascript:1", "https://registry.example@evil.example/", "x" * 5000, "\xff\x00",
    "http://registry.example:99999999/x", "?a=b", "https://evil.example/token",
)  # fmt: skip
BODIES = (
    b"", b"{}", b"[]", b"null", b"[" * 50_000, b"<html>", b'{"errors":[{"code":"DENIED"}]}', b"\xff" * 100,
    b'{"token":"x\\ny"}', b'{"token":{}}', b'{"token":"t","expires_in":"never"}', b'{"errors":{"0":1}}',
    b'{"token":"\xc3\xa9"}', b'{"token":"t","expires_in":[]}', b'{"token":"t","expires_in":NaN}',
    b'{"errors":[{"code":"DENIED","message":"quota a-token"}]}', b'{"errors":[[]]}', b'{"errors":[{}]}',
    b'{"manifests":[]}', b'{"layers":[],"config":{}}', b"{" + b" " * (17 << 20), gzip.compress(b"x" * (20 << 20)),
)  # fmt: skip
ERRORS = (requests.ConnectionError, requests.ReadTimeout, requests.exceptions.ChunkedEncodingError)


def random_reply(noise: random.Random) -> Reply:
    status = noise.choice(
        (200, 201, 202, 204, 206, 301, 307, 400, 401, 403, 404, 413, 416, 429, 500, 503, 522)
    )
    headers = {
        "Location": noise.choice(LOCATIONS),
        "WWW-Authenticate": noise.choice(REALMS),
        "Range": noise.choice(("0-0", "0-3", "bytes=0-5", "5-1", "0-" + "9" * 5000, "x", "0-99999")),
        "Retry-After": noise.choice(("0", "1", "9" * 400, "soon", "-1", "Mon, 01 Jan 0001 00:00:00 GMT")),
        "Docker-Content-Digest": noise.choice(("sha256:" + "0" * 64, "sha512:1", "x", "")),
        "OCI-Chunk-Min-Length": noise.choice(("0", "5", "9" * 5000, "x")),
        "Content-Encoding": noise.choice(("gzip", "identity", "br")),
        "Content-Type": noise.choice(("text/html", "application/json", "\xff")),
        "Content-Length": noise.choice(("0", "5", "-1", "x")),
    }  # fmt: skip
    kept = noise.sample(sorted(headers), noise.randrange(len(headers)))
    return Reply(
        status=status if noise.random() < 0.8 else noise.randrange(100, 600),
        headers={name: headers[name] for name in kept},
        body=noise.choice(BODIES),
        error=noise.choice(ERRORS) if noise.random() < 0.05 else None,
    )


def saying(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode()


IMMUTABLE = saying("TAG_INVALID", "The image tag '1' exists in 'you' that is immutable: a-token")


@pytest.mark.parametrize(
    ("operation", "status", "body", "words", "hint"),
    [
        ("open upload", 403, saying("DENIED", "permission_denied: write_package"), "may not write this package", "packages: write"),
        ("open upload", 403, saying("DENIED", "installation not allowed to Create organization package"), "may not write this package", "Manage Actions access"),
        ("put manifest", 400, IMMUTABLE, "lets no tag be moved", "another tag"),
        ("put manifest", 412, saying("PRECONDITION", "'you/model:1' configured as immutable"), "lets no tag be moved", "another tag"),
        ("close upload", 403, saying("DENIED", "Quota exceeded when processing the request"), "the quota of the place is used up", "raised"),
        ("send piece", 403, saying("DENIED", "adding 2 GiB will exceed the configured upper limit"), "the quota of the place", "delete images"),
        ("put manifest", 400, saying("MANIFEST_BLOB_UNKNOWN", "blob unknown to registry"), "does not find there the layers", "hosted repository"),
        ("find blob", 403, b"", "refuses access (403)", "docker login"),
        ("open upload", 403, saying("DENIED", "Your authorization token has expired. Reauthenticate and try again."), "the login has expired", "12 hours"),
        ("open upload", 403, saying("DENIED", 'Permission "artifactregistry.repositories.uploadArtifacts" denied'), "may not write there", "Artifact Registry Writer"),
        ("get token", 429, saying("TOOMANYREQUESTS", "slow down"), "answers 429", "network"),
        ("open upload", 429, saying("TOOMANYREQUESTS", "You have reached your pull rate limit"), "answers 429 TOOMANYREQUESTS", "docker login"),
        ("open upload", 403, saying("DENIED", "a-token correct horse"), "refuses access (403 DENIED)", "docker login"),
        ("open upload", 403, b'{"errors": [1, {"code": 5}, null]}', "refuses access (403)", "docker login"),
    ],
)  # fmt: skip
def test_what_registries_say_of_a_refusal_is_told_in_our_words(
    operation: Operation, status: int, body: bytes, words: str, hint: str
) -> None:
    """As they were reported in public; what they write beside it is shown nowhere."""
    registry = answering(operation, partial(Reply, status=status, body=body))
    said = outcome(registry, operation)
    what, _, remedy = said.partition("→")
    assert words in what
    assert hint in remedy


def test_an_account_of_docker_hub_is_a_part_of_the_name() -> None:
    response = requests.Response()
    response.status_code, response._content = 401, b""
    refusal = refusal_of(response, "https://registry-1.docker.io/v2/x/", host="docker.io")
    assert (refusal.hint or "").endswith("docker.io/ACCOUNT/NAME")


def test_a_tag_that_may_not_be_moved_and_need_not_be() -> None:
    """Whoever pushes again, or lost the answer to the first time, is refused where tags are immutable."""
    registry = MemoryRegistry()
    image = on_a_mounted_base(registry)
    push(image, registry)
    registry.rule = lambda asked, _: (
        Reply(status=400, body=IMMUTABLE) if asked == "put manifest" else None
    )
    assert push(image, registry).digest == image.digest
    registry.tags["you/model:1"] = b"{}"
    with pytest.raises(PushError, match="lets no tag be moved"):
        push(image, registry)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_random_answers_move_no_tag_and_leak_nothing(operation: Operation) -> None:
    answer_at_random(operation, RANDOM_ANSWERS)


def answer_at_random(operation: Operation, count: int) -> None:
    noise = random.Random(f"{operation} 14")
    given = 0

    def reply() -> Reply | None:
        nonlocal given
        given += 1
        return random_reply(noise) if noise.random() < 0.9 else None

    while given < count:
        before = given
        outcome(answering(operation, reply), operation)
        assert given > before, "the operation was never asked for"


def test_a_manifest_that_is_shown_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "_SHOWN_WITHIN_S", 60)
    left: list[Reply | None] = [Reply(status=404), Reply(status=404), None]
    said = outcome(answering("get manifest", lambda: left.pop(0) if left else None), "get manifest")
    assert said == "done"
    assert not left


def test_a_look_that_stands_still_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def late() -> Reply | None:
        nonlocal now
        now += 3600
        return Reply(status=404) if now == 3600 else None

    clock = SimpleNamespace(monotonic=lambda: now, sleep=lambda _: None)
    monkeypatch.setattr(pushing, "time", clock)
    assert outcome(answering("get manifest", late), "get manifest") == "done"
    assert now == 2 * 3600


def test_the_answer_to_a_manifests_put_is_believed_and_another_digest_is_not() -> None:
    image = on_a_mounted_base(MemoryRegistry())
    told = Reply(status=201, headers={"Docker-Content-Digest": image.digest})
    assert outcome(answering("put manifest", lambda: told), "put manifest") == "done"
    other = Reply(status=201, headers={"Docker-Content-Digest": "sha256:" + "0" * 64})
    said = outcome(answering("put manifest", lambda: other), "put manifest")
    assert "the registry stored another manifest" in said
    untold = outcome(answering("put manifest", lambda: Reply(status=201)), "put manifest")
    assert "its tag does not point at it after" in untold


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206])
@pytest.mark.parametrize("operation", ["put manifest", "close upload", "find blob", "open upload"])
def test_any_2xx_is_taken_where_the_thing_was_done(operation: Operation, status: int) -> None:
    registry = MemoryRegistry()

    def rule(asked: Operation, request: requests.PreparedRequest) -> Reply | None:
        if asked != operation or request.headers.get("Authorization") != "Bearer a-token":
            return None
        done = registry._answer(asked, request)
        return replace(done, status=status) if 200 <= done.status < 300 else done

    registry.rule = rule
    image = on_a_mounted_base(registry)
    push(image, registry)
    assert registry.tags["you/model:1"] == image.manifest_json


@pytest.mark.parametrize("status", [201, 202, 204])
@pytest.mark.parametrize("said", [None, "0-0", "5-1", "0-999999", "0-" + "9" * 5000, "x"])
def test_our_own_count_holds_where_a_range_is_no_answer(status: int, said: str | None) -> None:
    registry = MemoryRegistry()

    def rule(asked: Operation, request: requests.PreparedRequest) -> Reply | None:
        if asked != "send piece" or request.headers.get("Authorization") != "Bearer a-token":
            return None
        taken = registry._answer(asked, request)
        place = {"Location": taken.headers["Location"]}
        return Reply(status=status, headers={**place, **({"Range": said} if said else {})})

    registry.rule = rule
    image = on_a_mounted_base(registry)
    push(image, registry, chunk_bytes=100)
    assert registry.tags["you/model:1"] == image.manifest_json
    assert "ask upload" not in registry.asked


def test_a_part_of_a_piece_that_was_taken_is_gone_on_from() -> None:
    registry = MemoryRegistry()

    def rule(asked: Operation, request: requests.PreparedRequest) -> Reply | None:
        is_first = asked == "send piece" and registry.asked.count(asked) == 1
        if is_first and isinstance(request.body, bytes):
            request.body = request.body[:4]
        return None

    registry.rule = rule
    push(on_a_mounted_base(registry), registry)
    assert registry.tags["you/model:1"]


@pytest.mark.parametrize("status", [202, 301, 400, 401, 403, 404, 405, 409, 501])
def test_a_refused_mount_costs_one_request(status: int) -> None:
    headers = {"WWW-Authenticate": f'Bearer realm="https://{TOKEN_HOST}/token"'}
    registry = answering("mount", partial(Reply, status=status, headers=headers))
    assert outcome(registry, "mount") == "done"
    assert registry.asked.count("mount") == 2, "one for each layer of the base"


def test_a_digest_that_is_refused_for_good_is_sent_three_times_only() -> None:
    registry = answering("close upload", partial(Reply, status=400))
    assert "the bytes are not those of" in outcome(registry, "close upload")
    assert registry.asked.count("open upload") <= 3 * 3


def test_a_token_server_does_not_change() -> None:
    evil = {"WWW-Authenticate": 'Bearer realm="https://evil.example/token"'}
    registry = answering("find blob", partial(Reply, status=401, headers=evil))
    assert "names another token server (evil.example)" in outcome(registry, "find blob")


def test_a_download_whose_storage_fails_in_passing_goes_on() -> None:
    elsewhere = Reply(status=307, headers={"Location": "https://storage.example/x?signed"})
    registry = answering("get blob", lambda: elsewhere)
    base = on_a_mounted_base(registry).layers[0]
    blob = registry.blobs["you/base"][base.digest]
    registry.storage = [Reply(status=522), Reply(status=200, body=blob)]
    content = registry.client().blob_content("you/base", base.digest)
    assert b"".join(content.chunks()) == blob
    assert registry.leaks == []


@pytest.mark.parametrize("name", ["b\xc3\xa9", "b\xe9", "b%C3%A9"])
def test_a_location_is_followed_byte_for_byte(name: str) -> None:
    """Header bytes as http.client hands them over: raw UTF-8, raw Latin-1, and what is encoded already."""
    elsewhere = Reply(status=307, headers={"Location": f"https://storage.example/{name}?a=%2F"})
    registry = answering("get blob", lambda: elsewhere)
    base = on_a_mounted_base(registry).layers[0]
    blob = registry.blobs["you/base"][base.digest]
    registry.storage = [Reply(status=200, body=blob)]
    content = registry.client().blob_content("you/base", base.digest)
    assert b"".join(content.chunks()) == blob
    expected = "b%E9" if name == "b\xe9" else "b%C3%A9"
    assert registry.elsewhere == [f"https://storage.example/{expected}?a=%2F"]
