"""What engines write and answer: archives of every kind are read, and every answer of a load is understood."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from docker.errors import ImageNotFound

from bake.errors import BakeError, BuildError, MachineError
from bake.image.engine.archive import Archive, EngineContent, list_present
from bake.image.engine.load import load_image
from bake.image.engine.probe import probe_engine
from bake.image.final.assemble import ImageConfig, assemble
from bake.image.kept import Kept
from bake.image.oci.model import RAW_LAYER, blob_name, sha256_digest
from bake.image.source import read_from_engine
from tests.unit.test_assemble import make_layer

FIRST, SECOND = b"first layer " * 50, b"second layer " * 50
CONFIG = {
    "os": "linux",
    "architecture": "amd64",
    "config": {"Env": ["A=b"]},
    "rootfs": {"diff_ids": [sha256_digest(FIRST), sha256_digest(SECOND)]},
}
CONFIG_JSON = json.dumps(CONFIG).encode()


class FakeApi:
    """The parts of the SDK's low-level client that are used."""

    def __init__(self, archive: bytes = b"", answer: list[dict[str, Any]] | None = None) -> None:
        self.archive = archive
        self.answer = answer or []
        self.sent = b""
        self.saves = 0
        self.timeout = 120
        self.read_bytes = 0

    def images(self, **_options: Any) -> list[dict[str, Any]]:
        return []

    def get_image(self, image: str, chunk_size: int) -> Iterator[bytes]:
        self.saves += 1
        for at in range(0, len(self.archive), 700):
            self.read_bytes += 700
            yield self.archive[at : at + 700]

    def load_image(self, data: Iterator[bytes]) -> Iterator[dict[str, Any]]:
        self.sent = b"".join(data)
        yield from self.answer


class FakeEngine:
    """An engine with one image, of which an archive is given."""

    def __init__(self, image_id: str, api: FakeApi, *, loaded: str = "") -> None:
        self._loaded = loaded
        self._id = image_id
        self._api = api
        self._gets = 0

    @property
    def client(self) -> Any:
        return SimpleNamespace(
            api=self._api,
            images=SimpleNamespace(get=self._get),
            info=dict,  # the classic store: it is not asked for its blobs by a push
        )

    def _get(self, name: str) -> Any:
        if name in ("base", self._id):
            return SimpleNamespace(id=self._id)
        if self._loaded and self._api.sent:
            return SimpleNamespace(id=self._loaded)
        answer = requests.Response()
        answer.status_code = 404
        raise ImageNotFound("none", response=answer)


def tar_of(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return packed.getvalue()


def layout(*, in_index: bool) -> tuple[bytes, str]:
    """As Engine 25 and later write it; `in_index`: with an attestation beside the image."""
    manifest = {
        "config": {"digest": sha256_digest(CONFIG_JSON)},
        "layers": [
            {"mediaType": RAW_LAYER, "digest": sha256_digest(each), "size": len(each)}
            for each in (FIRST, SECOND)
        ],
    }
    text = json.dumps(manifest).encode()
    digest = sha256_digest(text)
    files = {blob_name(sha256_digest(each)): each for each in (FIRST, CONFIG_JSON, text, SECOND)}
    entry: dict[str, Any] = {"digest": digest}
    if in_index:
        inner = {
            "manifests": [
                {"digest": digest, "platform": {"os": "linux", "architecture": "amd64"}},
                {"digest": sha256_digest(b"a"),
                 "annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
            ]
        }  # fmt: skip
        inner_text = json.dumps(inner).encode()
        files[blob_name(sha256_digest(inner_text))] = inner_text
        entry = {"digest": sha256_digest(inner_text)}
    files["index.json"] = json.dumps({"manifests": [entry]}).encode()
    return tar_of(files), digest


def legacy() -> bytes:
    """As Engine 23 and 24 write it; a layer that an image has twice is a link."""
    manifest = [{"Config": "c.json", "Layers": ["1/layer.tar", "2/layer.tar"]}]
    return tar_of(
        {
            "1/layer.tar": FIRST,
            "0/layer.tar": SECOND,
            "c.json": CONFIG_JSON,
            "manifest.json": json.dumps(manifest).encode(),
        },
        links={"2/layer.tar": "../0/layer.tar"},
    )


@pytest.mark.parametrize("kind", ["layout", "index", "legacy"])
def test_every_archive_gives_the_same_layers(kind: str, tmp_path: Path) -> None:
    archive, digest = (legacy(), "") if kind == "legacy" else layout(in_index=kind == "index")
    image_id = sha256_digest(CONFIG_JSON) if kind == "legacy" else sha256_digest(b"other")
    api = FakeApi(archive)
    engine = FakeEngine(image_id, api)
    base = read_from_engine(engine, "base", kept=Kept(tmp_path))
    assert base.identity == (digest or image_id)
    assert [(x.digest, x.size_bytes, x.kind) for x in base.layers] == [
        (sha256_digest(FIRST), len(FIRST), "base"),
        (sha256_digest(SECOND), len(SECOND), "base"),
    ]
    assert api.saves == 1
    assert read_from_engine(engine, "base", kept=Kept(tmp_path)) == base
    assert api.saves == 1, "what is known was read again"
    for layer, content in zip(base.layers, (FIRST, SECOND), strict=True):
        assert layer.content is not None
        assert b"".join(layer.content.chunks(5)) == content[5:]


def test_the_classic_store_has_no_manifest_of_its_own() -> None:
    archive, _ = layout(in_index=False)
    engine = FakeEngine(sha256_digest(CONFIG_JSON), FakeApi(archive))
    assert read_from_engine(engine, "base").identity == sha256_digest(CONFIG_JSON)


def test_an_archive_is_read_no_further_than_to_its_documents() -> None:
    manifest, digest = layout(in_index=False)
    rest = tar_of({blob_name(sha256_digest(b"x")): b"x" * (5 << 20)})
    api = FakeApi(manifest.rstrip(b"\0") + b"\0" * (-len(manifest.rstrip(b"\0")) % 512) + rest)
    assert read_from_engine(FakeEngine(digest, api), "base").identity == digest
    assert api.read_bytes < 3 << 20


def test_an_image_that_is_not_there_is_named() -> None:
    with pytest.raises(BuildError, match="other: the engine has no such image") as caught:
        read_from_engine(FakeEngine("sha256:" + "0" * 64, FakeApi()), "other")
    assert "docker pull other" in str(caught.value)


def test_a_blob_that_is_gone_is_named() -> None:
    archive, _ = layout(in_index=False)
    content = EngineContent(
        image="base", member="blobs/sha256/none", engine=FakeEngine("x", FakeApi(archive))
    )
    with pytest.raises(BuildError, match="the engine no longer holds blobs/sha256/none"):
        list(content.chunks())


def load_with(answer: list[dict[str, Any]], *, loaded: str = "") -> tuple[FakeApi, str]:
    archive, _ = layout(in_index=False)
    api = FakeApi(archive, answer)
    engine = FakeEngine(sha256_digest(b"other"), api, loaded=loaded)
    base = read_from_engine(engine, "base")
    image = assemble(base, layers=[make_layer(b"new")], config=ImageConfig(entrypoint=["/x"]))
    if loaded == "ours":
        engine._loaded = image.digest
    return api, load_image(image, engine, "name:1")


def test_only_the_new_layer_is_sent() -> None:
    api, identity = load_with([{"stream": "Loaded image: name:1"}], loaded="ours")
    with tarfile.open(fileobj=io.BytesIO(api.sent)) as tar:
        names = tar.getnames()
        index = json.load(tar.extractfile("index.json") or io.BytesIO())
        legacy_manifest = json.load(tar.extractfile("manifest.json") or io.BytesIO())
    assert identity == index["manifests"][0]["digest"]
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "docker.io/library/name:1"  # fmt: skip
    assert legacy_manifest[0]["RepoTags"] == ["name:1"]
    assert len(legacy_manifest[0]["Layers"]) == 3
    assert blob_name(sha256_digest(b"new")) in names
    assert blob_name(sha256_digest(FIRST)) not in names


@pytest.mark.parametrize(
    ("answer", "loaded", "kind", "message"),
    [
        ([{"error": "write /x: no space left on device"}], "", MachineError, "disk is full"),
        ([{"errorDetail": {"message": "write /x: no space left on device"}}], "", MachineError, "disk is full"),
        ([{"stream": "…"}, {"error": "bad tar"}], "", BuildError, "did not take the image: bad tar"),
        ([], "sha256:another", BuildError, "made another image of it"),
    ],
)  # fmt: skip
def test_a_load_that_fails_says_why(
    answer: list[dict[str, Any]], loaded: str, kind: type[BakeError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        load_with(answer, loaded=loaded)


@pytest.mark.parametrize(("driver", "tags"), [("io.containerd.snapshotter.v1", []), ("", ["a:1"])])
def test_only_a_named_image_of_the_containerd_store_is_probed(driver: str, tags: list[str]) -> None:
    """With the probe's name, as its last one, the image itself would go."""
    image = SimpleNamespace(tags=tags)  # that it is given no name: it cannot be
    client = SimpleNamespace(
        info=lambda: {"DriverStatus": [["driver-type", driver]]},
        images=SimpleNamespace(get=lambda _: image),
    )
    engine: Any = SimpleNamespace(client=client)
    assert not probe_engine(engine, Archive(image_id=sha256_digest(b"x")))


def test_an_image_that_another_process_removes_meanwhile_is_not_listed() -> None:
    """`images.list` of the SDK fails there."""
    asked: list[dict[str, Any]] = []

    def images(**options: Any) -> list[dict[str, str]]:
        asked.append(options)
        return [{"Id": "gone"}, {"Id": "there"}]

    def get(name: str) -> Any:
        if name == "gone":
            raise ImageNotFound("No such image: gone")
        return SimpleNamespace(id=name)

    client = SimpleNamespace(api=SimpleNamespace(images=images), images=SimpleNamespace(get=get))
    engine: Any = SimpleNamespace(client=client)
    assert [each.id for each in list_present(engine, filters={"label": "x"})] == ["there"]
    assert asked == [{"filters": {"label": "x"}}]
