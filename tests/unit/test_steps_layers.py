"""Steps that put layers together: what of a harvest is an image's, where its weights and its base come from."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest

from bake.errors import SourceError
from bake.extensions.tree import Tree, TreeFile, write_archive
from bake.image.build.thin import pack_files
from bake.image.final.packages import Package
from bake.image.oci.layers import PlacedFile, TreeLayer, make_weights_layer
from bake.image.oci.model import Descriptor
from bake.image.oci.streamed import StreamedFile, StreamedLayer
from bake.lock import ExtensionPin
from bake.plan.state import BuildFolder
from bake.plan.step import Harvest, StepKind
from bake.steps import assemble, extensions, stream
from bake.steps.assemble import ASSEMBLE, pack_own_files, read_base, stored_layers
from bake.steps.extensions import EXTENSIONS, make_extensions
from bake.steps.run import Run
from bake.steps.stream import check_source, stream_weights
from runtime.worker import Extension, Weights, Worker
from tests.samples import make_worker
from tests.standins.models import SD1, SDXL, safetensors
from tests.unit.test_plan import LOCK, STREAMING, TEXT, plan_with
from tests.unit.test_steps import make_run

ENGINE: Any = None


def members(layer: TreeLayer) -> dict[str, bytes]:
    """The files in a layer."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer.blob.read_bytes()))) as tar:
        opened = {each.name: tar.extractfile(each) for each in tar if each.isreg()}
        return {name: file.read() for name, file in opened.items() if file}


# What of a harvest is an image's


@pytest.mark.parametrize(
    ("harvest", "kept"),
    [
        ("own", {"webui/config.json", "opt/bakery/harvest/hashes.json", "opt/bakery/harvest/modules.pack", "opt/bakery/harvest/proven.json"}),
        ("reused", {"opt/bakery/harvest/modules.pack", "opt/bakery/harvest/proven.json"}),
        ("none", set()),
    ],
)  # fmt: skip
def test_of_a_harvest_of_other_weights_only_what_is_of_the_base(
    tmp_path: Path, harvest: Harvest, kept: set[str]
) -> None:
    folder, worker = BuildFolder(tmp_path), make_worker()
    inside = tmp_path / "harvest/opt/bakery/harvest"
    inside.mkdir(parents=True)
    for name in ("hashes.json", "modules.pack", "proven.json"):
        (inside / name).write_text(name)
    (tmp_path / "harvest/webui").mkdir()
    (tmp_path / "harvest/webui/config.json").write_text("{}")
    layer = pack_own_files(folder, worker, harvest)
    assert layer.blob == tmp_path / "layers/image-files.tar.gz"
    found = members(layer)
    assert set(found) == {*kept, "opt/bakery/worker.json"}
    assert Worker.from_json(found["opt/bakery/worker.json"].decode()).name == worker.name
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_image_is_there_while_it_is_the_one_that_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = BuildFolder(tmp_path)
    assert not ASSEMBLE.exists(folder, ENGINE, {"digest": "sha256:1"})
    image: Any = SimpleNamespace(digest="sha256:1")
    monkeypatch.setattr(assemble, "load_saved_image", lambda _root: image)
    assert ASSEMBLE.exists(folder, ENGINE, {"digest": "sha256:1"})
    assert not ASSEMBLE.exists(folder, ENGINE, {"digest": "sha256:2"})


PINNED = f"ghcr.io/you/base@sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("image", "read"),
    [("", "engine base-id"), ("ghcr.io/you/base:1", "engine base-id"), (PINNED, f"ghcr.io {PINNED}")],
)  # fmt: skip
def test_a_base_that_is_pinned_in_a_registry_is_read_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str, read: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(assemble, "RegistryClient", nullcontext)
    monkeypatch.setattr(
        assemble, "read_from_registry", lambda client, what: asked.append(f"{client} {what}")
    )
    monkeypatch.setattr(
        assemble, "read_from_engine", lambda _engine, base, kept: asked.append(f"engine {base}")
    )
    more = f"base: {{image: '{image}'}}\n" if image else ""
    read_base(make_run(tmp_path, plan_with(), text=TEXT + more), "base-id")
    assert asked == [read]


# Where weights come from


def put(run: Run, data: bytes) -> str:
    """Into the store; returns its SHA-256."""
    sha256 = hashlib.sha256(data).hexdigest()
    path = run.context.store.path_of(sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return sha256


def weights(name: str, data: bytes) -> Weights:
    return Weights(
        role="lora", name=name, path=f"/webui/{name}", sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
    )  # fmt: skip


def run_with_store(folder: Path, *, missing: int = 0) -> Run:
    """A run without the store's say, whose lock has two files; `missing` of them are to be streamed."""
    pins = [
        dataclasses.replace(pin, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        for pin, data in zip(LOCK.pins, (FIRST, SECOND), strict=True)
    ]
    lock = dataclasses.replace(LOCK, pins=tuple(pins))
    made = make_run(folder, plan_with(lock=lock, options=STREAMING, missing=missing))
    settings = dataclasses.replace(made.context.settings, store=folder / "store")
    context = dataclasses.replace(made.context, settings=settings)
    return dataclasses.replace(made, lock=lock, context=context)


FIRST, SECOND = b"first" * 9, b"second" * 9
WORKER = make_worker(weights=(weights("a", FIRST), weights("b", SECOND)))


def test_stored_weights_are_layers_whose_digests_are_kept(tmp_path: Path) -> None:
    run = run_with_store(tmp_path)
    for data in (FIRST, SECOND):
        put(run, data)
    (layer,) = stored_layers(run.context.store, WORKER)
    assert (layer.kind, layer.comment) == ("weights", "/webui/a, /webui/b")
    assert len(list((tmp_path / "store/layers").glob("*.digest"))) == 1
    assert layer.content is not None
    assert FIRST in b"".join(layer.content.chunks())


class Registry:
    """A registry, and what is sent to it."""

    def __init__(self) -> None:
        self.blobs: set[str] = set()
        self.sent: list[str] = []
        self.proven: list[bool] = []

    def has_blob(self, repository: str, digest: str) -> bool:
        assert repository == "you/example"
        return digest in self.blobs

    def push_stream(
        self, layer: StreamedLayer, reference: str, *, console: object, client: object
    ) -> Descriptor:
        self.sent.append(reference)
        self.proven += [file.is_proven for file in layer.files]
        size_bytes = sum(map(len, layer.chunks()))
        self.blobs.add(layer.digest())
        return Descriptor(media_type=layer.media_type, digest=layer.digest(), size_bytes=size_bytes)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry()
    monkeypatch.setattr(stream, "RegistryClient", lambda _host: nullcontext(made))
    monkeypatch.setattr(stream, "push_stream", made.push_stream)

    @contextmanager
    def stream_pin(pin: Any, path: Any, *, store: Any, **_more: Any) -> Iterator[StreamedFile]:
        data = {"checkpoint": FIRST, "loras.detail": SECOND}[pin.key]
        yield StreamedFile(
            path=path,
            size_bytes=len(data),
            sha256=pin.sha256,
            open_at=lambda offset: iter([data[offset:]]),
            is_proven=store.has(pin.sha256),
        )

    monkeypatch.setattr(stream, "stream_pin", stream_pin)
    return made


def test_weights_go_to_the_registry_once(tmp_path: Path, registry: Registry) -> None:
    run = run_with_store(tmp_path, missing=1)
    put(run, FIRST)
    streamed = stream_weights(run, WORKER)
    assert streamed is not None
    (layer,) = streamed.layers
    assert registry.sent == ["ghcr.io/you/example:latest"]
    assert registry.proven == [True, False]
    assert registry.blobs == {layer.digest} == set(streamed.proven)
    assert (layer.kind, layer.comment) == ("weights", "/webui/a, /webui/b")
    assert layer.content is not None
    assert layer.content.describe() == {
        "from": "registry", "host": "ghcr.io", "repository": "you/example", "digest": layer.digest,
    }  # fmt: skip
    record = run.context.folder.record("stream")
    assert record is not None
    assert record.result == {"layers": [layer.digest]}
    again = stream_weights(run, WORKER)
    assert again is not None
    assert (again.layers, len(registry.sent)) == ([layer], 1)
    registry.blobs.clear()
    assert stream_weights(run, WORKER) is not None
    assert len(registry.sent) == 2
    put(run, SECOND)
    (stored,) = stored_layers(run.context.store, WORKER)
    assert stored.digest == layer.digest


def test_a_layer_that_the_store_has_whole_is_not_streamed(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bake.image.oci.layers.LARGE_FILE_BYTES", 1)
    run = run_with_store(tmp_path, missing=1)
    put(run, FIRST)
    streamed = stream_weights(run, WORKER)
    assert streamed is not None
    stored, sent = streamed.layers
    assert (stored.comment, sent.comment) == ("/webui/a", "/webui/b")
    assert set(streamed.proven) == {sent.digest} == registry.blobs
    file = PlacedFile(
        path=PurePosixPath("/webui/a"), source=run.context.store.path_of(run.lock.pins[0].sha256),
        size_bytes=len(FIRST), sha256=run.lock.pins[0].sha256,
    )  # fmt: skip
    assert stored == make_weights_layer([file]).as_layer()


def test_with_the_store_nothing_is_streamed(tmp_path: Path) -> None:
    assert stream_weights(run_with_store(tmp_path), WORKER) is None


def source_of(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def stream_pin(pin: Any, path: Any, **_more: Any) -> Iterator[StreamedFile]:
        yield StreamedFile(
            path=path, size_bytes=len(data), sha256=pin.sha256,
            open_at=lambda offset: iter([data[offset:]]),
        )  # fmt: skip

    monkeypatch.setattr(stream, "stream_pin", stream_pin)


def test_the_start_of_a_source_is_held_against_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_with_store(tmp_path, missing=2)
    pin = run.lock.pins[0]
    source_of(safetensors(SDXL), monkeypatch)
    facts = check_source(run.context, pin)
    assert facts is not None
    assert facts.format == "safetensors"
    source_of(safetensors(SD1), monkeypatch)
    with pytest.raises(SourceError, match=r"^checkpoint.*sd1"):
        check_source(run.context, pin)
    config = dataclasses.replace(pin, role="config")
    assert check_source(run.context, config) is None


# The layer of extensions


def test_a_layer_is_there_while_its_file_is_whole(tmp_path: Path) -> None:
    blob = tmp_path / "x.gz"
    result = {"blob": str(blob), "size_bytes": 3}
    folder, kind = BuildFolder(tmp_path), EXTENSIONS
    assert isinstance(kind, StepKind)
    assert not kind.exists(folder, ENGINE, result)
    blob.write_bytes(b"ab")
    assert not kind.exists(folder, ENGINE, result)
    blob.write_bytes(b"abc")
    assert kind.exists(folder, ENGINE, result)


def test_without_extensions_there_is_no_layer_of_them(tmp_path: Path) -> None:
    assert make_extensions(make_run(tmp_path), make_worker(), "base-id") is None


def test_extensions_are_laid_out_at_their_places_with_what_the_base_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_with_store(tmp_path)
    script = TreeFile(path="scripts/tint.py", content=b"1\n")
    archive = tmp_path / "archive.tar"
    write_archive(Tree(commit="1" * 40, files=[script]), archive)
    needed = f"kornia==0.6.7 --hash=sha256:{'a' * 64}\ntorch==2.1.2 --hash=sha256:{'b' * 64}\n"
    pin = ExtensionPin(
        name="tint", url="https://example.com/tint", commit="1" * 40, sha256=put(run, archive.read_bytes()),
        size_bytes=1, files_sha256="3" * 64, licence=None, requirements="file:tint.txt",
        requirements_sha256=put(run, needed.encode()), resolved_on="2026-01-01",
    )  # fmt: skip
    text = TEXT.replace(
        "warmup:", "extensions: [{url: 'https://example.com/tint', ref: v1}]\nwarmup:"
    )
    lock = dataclasses.replace(run.lock, extensions=(pin,))
    run = dataclasses.replace(run, lock=lock, plan=plan_with(lock=lock, text=text))
    place = "/webui/extensions/tint"
    worker = make_worker(extensions=(Extension(name="tint", path=place, commit="1" * 40),))
    installed = [
        Package(kind="pypi", name="torch", version="2.1.2"),
        Package(kind="deb", name="kornia", version="0.6.7"),
    ]
    monkeypatch.setattr(extensions, "packages_of_base", lambda *_, **__: installed)
    site = PurePosixPath("/venv/site-packages")
    monkeypatch.setattr(extensions, "site_packages_of", lambda *_, **__: site)
    seen: dict[str, str] = {}

    def build(name: str, *, contexts: Any, blob: Path, scratch: Path, **more: Any) -> TreeLayer:
        files = contexts["extension-files"]
        seen.update(
            (path.relative_to(files).as_posix(), path.read_text())
            for path in files.rglob("*")
            if path.is_file()
        )
        assert (name, more["log"]) == ("extensions", tmp_path / "logs/extensions.log")
        return pack_files(files / "tree", blob=blob, scratch=scratch)

    monkeypatch.setattr(extensions, "build_thin_layer", build)
    layer = make_extensions(run, worker, "base-id")
    assert layer is not None
    assert layer.blob == tmp_path / "layers/extensions.tar.gz"
    assert seen == {
        "tree/webui/extensions/tint/scripts/tint.py": "1\n",
        "tree/venv/site-packages/bakery-extensions.pth": "/opt/bakery/packages\n",
        "requirements.txt": f"kornia==0.6.7 --hash=sha256:{'a' * 64}\n",
    }
    record = run.context.folder.record("extensions")
    assert record is not None
    assert EXTENSIONS.exists(run.context.folder, ENGINE, record.result)
    installed[1] = Package(kind="pypi", name="kornia", version="0.6.7")
    seen.clear()
    make_extensions(run, worker, "base-id")
    assert set(seen) == {"tree/webui/extensions/tint/scripts/tint.py"}
