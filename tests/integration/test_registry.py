"""A registry that fails in the middle ends in a correct image, or a clear error and an unmoved tag."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bake.errors import BakeError, BuildError, PushError
from bake.image.final.assemble import ImageConfig, assemble
from bake.image.oci.model import sha256_digest
from bake.image.oci.reference import parse_reference
from bake.image.registry.client import RegistryClient
from bake.image.registry.credentials import Credentials
from bake.image.registry.transport import RegistryOptions
from bake.image.source import read_from_registry
from runtime.retry import Retry
from tests.integration.registry_case import (
    QUICK,
    fetch_and_compare,
    make_image,
    push,
    tag_digest,
)
from tests.standins.registry import (
    Action,
    Answer,
    Change,
    Cut,
    Seen,
    Slow,
    faulty_registry,
)


def test_a_push_uploads_mounts_and_finds_what_is_there(
    registry: str, repository: str, tmp_path: Path
) -> None:
    first = make_image(tmp_path)
    report = push(first, f"{registry}/{repository}:1")
    assert [layer.how for layer in report.layers] == ["uploaded", "uploaded"]
    assert report.sent_bytes == sum(x.size_bytes for x in first.layers) + len(first.config_json)
    fetch_and_compare(first, f"{registry}/{repository}:1")

    again = push(first, f"{registry}/{repository}:2")
    assert ([layer.how for layer in again.layers], again.sent_bytes) == (["present"] * 2, 0)

    with RegistryClient(registry, options=QUICK, credentials=Credentials()) as client:
        base = read_from_registry(client, parse_reference(f"{registry}/{repository}:1"))
    derived = assemble(base, layers=[], config=ImageConfig(entrypoint=["/other"]))
    mounted = push(derived, f"{registry}/{repository}-other:1")
    assert [layer.how for layer in mounted.layers] == ["mounted", "mounted"]
    assert mounted.sent_bytes == len(derived.config_json)
    fetch_and_compare(derived, f"{registry}/{repository}-other:1")


def test_a_connection_that_breaks_at_any_byte_ends_in_a_correct_image(
    registry: str, repository: str, tmp_path: Path
) -> None:
    """A hundred pushes; in each, one upload breaks at a random byte, or an answer is lost."""
    image = make_image(tmp_path)
    size = image.layers[-1].size_bytes
    noise = random.Random(7)
    for number in range(100):
        cut = Cut(after_bytes=noise.randrange(1, size), loses_answer=noise.random() < 0.15)
        broken = noise.choice(("PATCH", "PATCH", "PATCH", "PUT", "POST"))
        at = noise.randrange(1, 4)

        def rule(seen: Seen, cut: Cut = cut, broken: str = broken, at: int = at) -> Action:
            return cut if seen.method == broken and seen.number == at else None

        target = f"{repository}-{number}"
        with faulty_registry(registry, rule) as proxy:
            report = push(image, f"{proxy.host}/{target}:1")
        assert report.digest == image.digest
        if number % 10 == 0:
            fetch_and_compare(image, f"{registry}/{target}:1")
        else:
            assert tag_digest(f"{registry}/{target}:1") == image.digest


def test_a_cut_upload_goes_on_where_it_broke(
    registry: str, repository: str, tmp_path: Path
) -> None:
    image = make_image(tmp_path, size_bytes=8 << 20)
    size = image.layers[-1].size_bytes

    def rule(seen: Seen) -> Action:
        if seen.method == "PATCH" and seen.headers.get("Content-Length") == str(size):
            return Cut(after_bytes=6 << 20, keeps_bytes=True)
        return None

    with faulty_registry(registry, rule) as proxy:
        push(image, f"{proxy.host}/{repository}:1")
        resumed = [seen for seen in proxy.methods("PATCH") if "Content-Range" in seen.headers]
    assert len(resumed) == 1
    start = int(resumed[0].headers["Content-Range"].split("-")[0])
    assert start == 6 << 20
    fetch_and_compare(image, f"{registry}/{repository}:1")


def _nth(method: str, number: int, action: Action) -> Callable[[Seen], Action]:
    return lambda seen: action if (seen.method, seen.number) == (method, number) else None


@pytest.mark.parametrize(
    "rule",
    [
        _nth("PATCH", 1, Answer(status=500)),
        _nth("PATCH", 2, Answer(status=503, reads_body=False)),
        _nth("PUT", 1, Answer(status=500)),
        _nth("PUT", 3, Answer(status=502)),
        _nth("HEAD", 1, Answer(status=429, headers={"Retry-After": "0"})),
        _nth("PATCH", 1, Answer(status=429, headers={"Retry-After": "0"})),
        _nth("POST", 1, Answer(status=429)),
        _nth("PATCH", 1, Answer(status=404)),
        _nth("PATCH", 1, Slow(bytes_per_s=600_000)),
    ],
    ids=["patch-500", "patch-503-unread", "put-500", "manifest-502", "head-429", "patch-429",
         "post-429", "upload-lost", "slow"],
)  # fmt: skip
def test_a_passing_fault_is_outlived(
    registry: str, repository: str, tmp_path: Path, rule: Callable[[Seen], Action]
) -> None:
    image = make_image(tmp_path)
    with faulty_registry(registry, rule) as proxy:
        push(image, f"{proxy.host}/{repository}:1")
    fetch_and_compare(image, f"{registry}/{repository}:1")


def test_a_registry_that_takes_small_bodies_only_gets_small_pieces(
    registry: str, repository: str, tmp_path: Path
) -> None:
    image = make_image(tmp_path, size_bytes=3 << 20)

    def rule(seen: Seen) -> Action:
        length = int(seen.headers.get("Content-Length") or 0)
        return Answer(status=413, reads_body=False) if length > 2 << 20 else None

    with faulty_registry(registry, rule) as proxy:
        push(image, f"{proxy.host}/{repository}:1")
        sizes = [int(seen.headers["Content-Length"]) for seen in proxy.methods("PATCH")]
    assert sorted(sizes)[-1] > 3 << 20
    assert sizes.count(1 << 20) >= 3
    fetch_and_compare(image, f"{registry}/{repository}:1")


def test_pieces_of_a_chosen_size(registry: str, repository: str, tmp_path: Path) -> None:
    image = make_image(tmp_path)
    options = RegistryOptions(retry=Retry(attempts=2, backoff_s=0.01), chunk_bytes=100_000)
    with faulty_registry(registry) as proxy:
        push(image, f"{proxy.host}/{repository}:1", options=options)
        sizes = {int(seen.headers["Content-Length"]) for seen in proxy.methods("PATCH")}
    assert max(sizes) == 100_000
    fetch_and_compare(image, f"{registry}/{repository}:1")


def test_a_registry_whose_range_does_not_advance_is_not_believed(
    registry: str, repository: str, tmp_path: Path
) -> None:
    image = make_image(tmp_path)

    def rule(seen: Seen) -> Action:
        return Change(headers={"Range": "0-0"}) if seen.method == "PATCH" else None

    options = RegistryOptions(retry=Retry(attempts=4, backoff_s=0.005), chunk_bytes=100_000)
    with faulty_registry(registry, rule) as proxy:
        push(image, f"{proxy.host}/{repository}:1", options=options)
        asked = [seen for seen in proxy.methods("GET") if "/uploads/" in seen.path]
        sent = sum(int(seen.headers["Content-Length"]) for seen in proxy.methods("PATCH"))
    assert not asked
    assert sent == sum(x.size_bytes for x in image.layers) + len(image.config_json)
    fetch_and_compare(image, f"{registry}/{repository}:1")


def _is_patch(seen: Seen) -> bool:
    return seen.method == "PATCH"


def _is_manifest(seen: Seen) -> bool:
    return seen.method == "PUT" and "/manifests/" in seen.path


@pytest.mark.parametrize(
    ("where", "action", "message"),
    [
        (_is_patch, Answer(status=500), "the registry answers 500, 4 times in a row"),
        (_is_patch, Answer(status=507), r"the registry's disk is full \(507\)"),
        (_is_patch, Answer(status=413), r"refuses even \d+ bytes at once \(413\)"),
        (_is_patch, Cut(after_bytes=0), "4 times in a row"),
        (_is_patch, Answer(status=403, body=b'{"errors":[{"code":"DENIED","message":"x"}]}'),
         r"refuses access \(403 DENIED\)"),
        (lambda seen: seen.method == "POST", Change(headers={"Location": "http://192.0.2.1/v2/x"}),
         r"sent an upload to another host \(192.0.2.1\)"),
        (lambda seen: seen.method == "POST", Change(headers={"Location": None}), "no Location"),
        (lambda seen: seen.method == "POST", Change(headers={"Location": "http://[::1/v2/x"}),
         "Location is no address"),
        (_is_manifest, Answer(status=500), "the registry answers 500, 4 times in a row"),
        (_is_manifest, Answer(status=400, body=b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}'),
         "refuses a request .400 MANIFEST_BLOB_UNKNOWN"),
    ],
    ids=["500", "disk-full", "413", "always-cut", "denied", "wrong-location", "no-location",
         "no-address",
         "manifest-500", "manifest-400"],
)  # fmt: skip
def test_a_lasting_fault_is_a_clear_error_and_the_tag_stays(
    registry: str,
    repository: str,
    tmp_path: Path,
    where: Callable[[Seen], bool],
    action: Action,
    message: str,
) -> None:
    before = make_image(tmp_path, seed=1)
    push(before, f"{registry}/{repository}:latest")
    after = make_image(tmp_path, seed=2)
    with (
        faulty_registry(registry, lambda seen: action if where(seen) else None) as proxy,
        pytest.raises(PushError, match=message) as caught,
    ):
        push(after, f"{proxy.host}/{repository}:latest")
    assert proxy.host in str(caught.value)
    assert tag_digest(f"{registry}/{repository}:latest") == before.digest
    fetch_and_compare(before, f"{registry}/{repository}:latest")


def test_a_location_that_names_http_or_is_relative_is_followed_on_our_own_address(
    registry: str, repository: str, tmp_path: Path
) -> None:
    image = make_image(tmp_path)
    locations: list[str] = []

    def rule(seen: Seen) -> Action:
        locations.append(seen.path)
        return None

    with faulty_registry(registry, rule) as proxy:
        push(image, f"{proxy.host}/{repository}:1")
    assert any("_state=" in path and "digest=sha256%3A" in path for path in locations)


@pytest.mark.parametrize("status", [202, 403, 405])
def test_a_registry_that_does_not_mount_gets_an_ordinary_upload(
    registry: str, repository: str, tmp_path: Path, status: int
) -> None:
    """202, as for any POST, is what registries say that cannot or may not mount."""
    image = make_image(tmp_path)
    push(image, f"{registry}/{repository}:1")

    def rule(seen: Seen) -> Action:
        if seen.method == "POST" and "mount=" in seen.path:
            location = {"Location": f"/v2/{repository}-b/blobs/uploads/none"}
            return Answer(status=status, headers=location if status == 202 else {})
        return None

    with faulty_registry(registry, rule) as proxy:
        with RegistryClient(proxy.host, options=QUICK, credentials=Credentials()) as client:
            base = read_from_registry(client, parse_reference(f"{proxy.host}/{repository}:1"))
        derived = assemble(base, layers=[], config=ImageConfig(entrypoint=["/other"]))
        report = push(derived, f"{proxy.host}/{repository}-b:1")
    assert [layer.how for layer in report.layers] == ["uploaded", "uploaded"]
    fetch_and_compare(derived, f"{registry}/{repository}-b:1")


def test_a_download_that_breaks_goes_on_where_it_broke(
    registry: str, repository: str, tmp_path: Path
) -> None:
    image = make_image(tmp_path)
    push(image, f"{registry}/{repository}:1")
    layer = image.layers[-1]

    def rule(seen: Seen) -> Action:
        if seen.method == "GET" and "/blobs/" in seen.path and "Range" not in seen.headers:
            return Cut(after_bytes=0, loses_answer=False, after_answer_bytes=100_000)
        return None

    with (
        faulty_registry(registry, rule) as proxy,
        RegistryClient(proxy.host, options=QUICK, credentials=Credentials()) as client,
    ):
        content = b"".join(client.blob_content(repository, layer.digest).chunks())
        ranges = [seen.headers.get("Range") for seen in proxy.methods("GET")]
    assert sha256_digest(content) == layer.digest
    assert any(each and each != "bytes=0-" for each in ranges)


def test_a_registry_that_refuses_ranges_is_asked_for_the_whole(
    registry: str, repository: str, tmp_path: Path
) -> None:
    """go-containerregistry's, of a range without an end."""
    image = make_image(tmp_path)
    push(image, f"{registry}/{repository}:1")
    layer = image.layers[-1]

    def rule(seen: Seen) -> Action:
        if seen.method != "GET" or "/blobs/" not in seen.path:
            return None
        if "Range" in seen.headers:
            return Answer(status=416, body=b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
        return Cut(after_bytes=0, after_answer_bytes=100_000) if seen.number == 1 else None

    with (
        faulty_registry(registry, rule) as proxy,
        RegistryClient(proxy.host, options=QUICK, credentials=Credentials()) as client,
    ):
        content = b"".join(client.blob_content(repository, layer.digest).chunks())
        middle = b"".join(client.blob_content(repository, layer.digest).chunks(1000))
    assert sha256_digest(content) == layer.digest
    assert middle == content[1000:]


def test_a_file_of_the_store_that_changed_abandons_the_push(
    registry: str, repository: str, tmp_path: Path
) -> None:
    image = make_image(tmp_path)
    (tmp_path / "weights-1").write_bytes(random.Random(3).randbytes(300_000))
    with pytest.raises(BakeError, match="bytes are not those of"):
        push(image, f"{registry}/{repository}:1")
    assert tag_digest(f"{registry}/{repository}:1") is None


@pytest.mark.parametrize(
    ("change", "reason"), [(None, "No such file or directory"), (b"short", "has 5 bytes in the store")]
)  # fmt: skip
def test_a_file_of_the_store_that_is_gone_or_cut_is_named(
    registry: str, repository: str, tmp_path: Path, change: bytes | None, reason: str
) -> None:
    image = make_image(tmp_path)
    if change is None:
        (tmp_path / "weights-1").unlink()
    else:
        (tmp_path / "weights-1").write_bytes(change)
    with pytest.raises(BuildError, match=reason) as caught:
        push(image, f"{registry}/{repository}:1")
    assert str(caught.value).startswith("/models/weights.safetensors: its bytes cannot be read")
    assert tag_digest(f"{registry}/{repository}:1") is None


def test_the_report_is_json(registry: str, repository: str, tmp_path: Path) -> None:
    image = make_image(tmp_path)
    report = push(image, f"{registry}/{repository}:1").as_json()
    assert json.loads(json.dumps(report))["layers"][1]["kind"] == "weights"
