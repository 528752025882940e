"""Images as values: what stands in the documents, how bytes are named, and how they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bake.errors import BuildError
from bake.image.oci.model import (
    BytesContent,
    Descriptor,
    FileContent,
    Image,
    Layer,
    blob_name,
    canonical_json,
    check_digest,
    digest_of,
    index_of,
    make_manifest,
    read_content,
    sha256_digest,
    skip_bytes,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4
OTHER = "sha256:" + "f" * 64
TAR = "application/vnd.oci.image.layer.v1.tar"


def described(digest: str = DIGEST, size_bytes: int = 7) -> Descriptor:
    return Descriptor(media_type=TAR, digest=digest, size_bytes=size_bytes)


def image_of(*layers: Layer, config: bytes = b"{}", manifest: bytes = b"{}", **more: str) -> Image:
    return Image(manifest_json=manifest, config_json=config, layers=layers, **more)


def test_a_descriptor_in_json() -> None:
    plain = {"mediaType": TAR, "digest": DIGEST, "size": 7}
    assert described().as_json() == plain
    noted = replace(described(), annotations={"a": "b"})
    assert noted.as_json() == {**plain, "annotations": {"a": "b"}}
    assert Descriptor.from_json(plain) == described()
    assert Descriptor.from_json({**plain, "annotations": None}) == described()
    assert Descriptor.from_json(noted.as_json()) == noted


@pytest.mark.parametrize(
    ("docker", "oci"),
    [
        ("application/vnd.docker.image.rootfs.diff.tar", TAR),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", f"{TAR}+gzip"),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", f"{TAR}+zstd"),
        ("application/vnd.example", "application/vnd.example"),
    ],
)
def test_dockers_names_of_layers_become_ocis(docker: str, oci: str) -> None:
    read = Descriptor.from_json({"mediaType": docker, "digest": DIGEST, "size": 7})
    assert read.media_type == oci


def test_a_manifest_is_the_specifications() -> None:
    config = b'{"os":"linux"}'
    expected: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": f"sha256:{hashlib.sha256(config).hexdigest()}",
            "size": 14,
        },
        "layers": [{"mediaType": TAR, "digest": DIGEST, "size": 7}],
    }
    assert json.loads(make_manifest(config, [described()])) == expected
    noted = make_manifest(config, [described()], annotations={"a": "b"})
    assert json.loads(noted) == {**expected, "annotations": {"a": "b"}}


def test_an_index_names_its_image_for_skopeo_and_for_containerd() -> None:
    image = image_of(manifest=b'{"a":1}')
    entry: dict[str, Any] = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": image.digest,
        "size": 7,
        "platform": {"os": "linux", "architecture": "amd64"},
        "annotations": {"org.opencontainers.image.ref.name": "1.0"},
    }
    head = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
    assert index_of(image, tag="1.0") == {**head, "manifests": [entry]}
    entry["annotations"]["io.containerd.image.name"] = "ghcr.io/you/x:1.0"
    named = index_of(image, tag="1.0", name="ghcr.io/you/x:1.0")
    assert named == {**head, "manifests": [entry]}


def test_an_image_is_known_by_its_manifest_unless_it_has_none() -> None:
    image = image_of(config=b"[1]", manifest=b"[2]")
    assert image.digest == image.identity == f"sha256:{hashlib.sha256(b'[2]').hexdigest()}"
    assert image.config_digest == f"sha256:{hashlib.sha256(b'[1]').hexdigest()}"
    assert replace(image, known_as=OTHER).identity == OTHER


def test_what_an_image_takes_counts_each_blob_once() -> None:
    layer, more = (
        Layer(descriptor=each, diff_id=each.digest) for each in (described(), described(OTHER, 20))
    )
    assert (layer.digest, layer.size_bytes, layer.kind, layer.comment) == (DIGEST, 7, "thin", "")
    assert image_of(layer, more, layer, config=b"abc", manifest=b"defgh").size_bytes == 35


@pytest.mark.parametrize(
    ("config", "labels"),
    [({}, {}), ({"config": None}, {}), ({"config": {"Labels": None}}, {}),
     ({"config": {"Labels": {"a": "b"}}}, {"a": "b"})],
)  # fmt: skip
def test_an_image_without_labels_has_none(config: dict[str, Any], labels: dict[str, str]) -> None:
    assert image_of(config=json.dumps(config).encode()).labels == labels


def test_json_is_written_one_way() -> None:
    assert canonical_json({"b": [1, {"d": None, "c": "é"}], "a": 2}) == (
        '{"a":2,"b":[1,{"c":"é","d":null}]}'.encode()
    )


@pytest.mark.parametrize(
    "wrong",
    ["", "sha256", "sha256:", DIGEST[7:], DIGEST[:-1], DIGEST + "0", DIGEST.upper(), DIGEST[:-1] + "g",
     DIGEST[:-1] + "F", "sha512:" + DIGEST[7:], DIGEST + "\n", DIGEST[:-2] + "/."],
)  # fmt: skip
def test_a_digest_is_64_digits_of_sha256(wrong: str) -> None:
    assert check_digest(DIGEST) == DIGEST
    assert blob_name(DIGEST) == "blobs/sha256/" + "0123456789abcdef" * 4
    for read in (check_digest, blob_name):
        with pytest.raises(BuildError) as caught:
            read(wrong)
        assert str(caught.value) == f"{wrong!r} is not a sha256 digest"


def test_a_digest_in_a_message_is_cut() -> None:
    with pytest.raises(BuildError) as caught:
        check_digest("x" * 81)
    assert str(caught.value) == f"'{'x' * 80}' is not a sha256 digest"


def test_a_stream_is_named_and_counted() -> None:
    assert digest_of(iter([b"ab", b"", b"cde"])) == (sha256_digest(b"abcde"), 5)
    assert digest_of(iter([])) == (sha256_digest(b""), 0)


@pytest.mark.parametrize(
    ("offset", "left"),
    [(0, [b"ab", b"cde"]), (1, [b"b", b"cde"]), (2, [b"cde"]), (3, [b"de"]), (5, []), (9, [])],
)
def test_what_lies_before_an_offset_is_passed_over(offset: int, left: list[bytes]) -> None:
    assert list(skip_bytes(iter([b"ab", b"cde"]), offset)) == left


def test_contents_are_read_in_chunks_from_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"abcdefg")
    content = FileContent(path=path, chunk_bytes=3)
    assert list(content.chunks()) == [b"abc", b"def", b"g"]
    assert list(content.chunks(5)) == [b"fg"]
    assert content.describe() == {"from": "file", "path": str(path)}
    path.write_bytes(b"x" * ((1 << 20) + 1))
    assert [len(each) for each in FileContent(path=path).chunks()] == [1 << 20, 1]
    held = BytesContent(data=b"abcdefg")
    assert (list(held.chunks()), list(held.chunks(5))) == ([b"abcdefg"], [b"fg"])
    with pytest.raises(TypeError) as caught:
        held.describe()
    assert str(caught.value) == "bytes in memory are written to a file before an image is saved"


class Broken:
    """A content that fails after its first chunk."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def chunks(self, offset_bytes: int = 0) -> Iterator[bytes]:
        yield b"from %d" % offset_bytes
        raise self._error

    def describe(self) -> dict[str, Any]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(2, "No such file or directory", "/secret/place"), "No such file or directory"),
        (ValueError("a has 3 bytes in the store, 5 were expected"), "a has 3 bytes in the store, 5 were expected"),
        (OSError("of no number"), "OSError"),
        (ValueError(), "ValueError"),
    ],
)  # fmt: skip
def test_bytes_that_cannot_be_read_are_an_error_with_a_next_step(
    error: Exception, reason: str
) -> None:
    read: list[bytes] = []
    with pytest.raises(BuildError) as caught:
        read.extend(read_content(Broken(error), 4, where="/models/a"))
    assert str(caught.value) == (
        f"/models/a: its bytes cannot be read: {reason}\n"
        "  → bake the image again: what it was assembled from is gone or has changed"
    )
    assert list(read_content(BytesContent(data=b"abc"), where="x")) == [b"abc"]
    assert list(read_content(BytesContent(data=b"abc"), 2, where="x")) == [b"c"]
