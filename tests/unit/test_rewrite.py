"""An image under zstd has the config and the trees of the one that it was rewritten from, and raw weights."""

from __future__ import annotations

import errno
import gzip
import io
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bake.console import Console
from bake.errors import BuildError, MachineError
from bake.image import rewrite
from bake.image.engine.archive import EngineContent
from bake.image.final.assemble import ImageConfig, assemble
from bake.image.oci.model import (
    GZIP_LAYER,
    KIND,
    RAW_LAYER,
    REWRITTEN_FROM,
    ZSTD_LAYER,
    BytesContent,
    Descriptor,
    Image,
    Layer,
    blob_name,
    canonical_json,
    make_manifest,
    sha256_digest,
)
from bake.image.oci.parse import parse_image
from bake.image.oci.streams import (
    ChunkReader,
    UnsoundLayer,
    packing_of,
    unpacked,
    unzstd,
    zstd_packed,
)
from bake.image.parallel import Stopped, run_in_parallel
from bake.image.registry.packed import tag_of
from bake.image.rewrite import needs_rewriting, rewrite_layers
from bake.image.verify.image import count_base_layers, verify_image
from bake.image.verify.secrets import SecretScanner
from tests.unit.test_verify import WORKER_LAYER, make_lock, tar_of, thin, weights_layer

CONSOLE = Console(quiet=True)
TREES = [tar_of((f"lib/{n}.so", random.Random(n).randbytes(9000) * 3)) for n in range(3)]


def base_of(*layers: Layer) -> Image:
    config_json = canonical_json(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
    )
    manifest_json = make_manifest(config_json, [layer.descriptor for layer in layers])
    return Image(name="base", manifest_json=manifest_json, config_json=config_json, layers=layers)


def gzipped(tree: bytes) -> Layer:
    packed = gzip.compress(tree, mtime=0)
    return Layer(
        descriptor=Descriptor(
            media_type=GZIP_LAYER, digest=sha256_digest(packed), size_bytes=len(packed)
        ),
        diff_id=sha256_digest(tree),
        kind="base",
        content=BytesContent(data=packed),
    )


def make_image(folder: Path, base: Image | None = None) -> Image:
    labels = {"bakery.lock": make_lock().to_json()}
    return assemble(
        base or base_of(*map(gzipped, TREES)),
        layers=[weights_layer(folder), WORKER_LAYER, thin(("opt/x", b"x" * 5000))],
        config=ImageConfig(entrypoint=["/worker"], labels=labels),
    )


def nowhere(_layer: Layer) -> None:
    return None


def rewritten(image: Image, folder: Path) -> Image:
    folder.mkdir(exist_ok=True)
    return rewrite_layers(image, nowhere, folder=folder, console=CONSOLE, workers=2)


def bytes_of(layer: Layer) -> bytes:
    assert layer.content is not None
    return b"".join(layer.content.chunks())


def test_all_but_weights_are_packed_anew_and_the_config_stays(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    found = rewritten(image, tmp_path / "packed")
    assert found.config_json == image.config_json
    assert [x.descriptor.media_type for x in found.layers] == [
        *[ZSTD_LAYER] * 3, RAW_LAYER, *[ZSTD_LAYER] * 2,
    ]  # fmt: skip
    assert found.layers[3] == image.layers[3]
    for old, new in zip(image.layers, found.layers, strict=True):
        packed = bytes_of(new)
        assert (sha256_digest(packed), len(packed)) == (new.digest, new.size_bytes)
        assert sha256_digest(b"".join(unpacked([packed]))) == new.diff_id == old.diff_id
        assert (new.kind, new.comment) == (old.kind, old.comment)
    manifest = found.manifest
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    entries = zip(image.manifest["layers"], manifest["layers"], found.layers, strict=True)
    for before, after, layer in entries:
        annotations = before.get("annotations", {})
        if layer.kind != "weights":
            annotations = {**annotations, REWRITTEN_FROM: before["digest"]}
        described = replace(layer.descriptor, annotations=annotations)
        assert after == described.as_json()
    assert {k: v for k, v in manifest.items() if k != "layers"} == {
        k: v for k, v in image.manifest.items() if k != "layers"
    }


def test_the_same_image_is_rewritten_to_the_same_digest_and_read_back(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    first, second = rewritten(image, tmp_path / "1"), rewritten(image, tmp_path / "2")
    assert first.digest == second.digest != image.digest
    read = parse_image(
        first.manifest_json,
        first.config_json,
        name="x",
        content_of=lambda _: BytesContent(data=b""),
    )
    assert [layer.kind for layer in read.layers] == [*["base"] * 3, "weights", "thin", "thin"]
    assert read.manifest["layers"][3]["annotations"] == {KIND: "weights"}


def test_rewriting_it_again_changes_nothing(tmp_path: Path) -> None:
    found = rewritten(make_image(tmp_path), tmp_path / "packed")
    assert not any(map(needs_rewriting, found.layers))
    assert rewritten(found, tmp_path / "again") == found


def test_what_is_found_is_not_packed(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    known = rewritten(image, tmp_path / "known").layers[1]
    known = replace(known, descriptor=replace(known.descriptor, annotations={}))
    asked: list[str] = []

    def find(layer: Layer) -> Layer | None:
        asked.append(layer.digest)
        return known if layer.diff_id == known.diff_id else None

    folder = tmp_path / "packed"
    folder.mkdir()
    found = rewrite_layers(image, find, folder=folder, console=CONSOLE, workers=2)
    assert sorted(asked) == sorted(x.digest for x in image.layers if x.kind != "weights")
    assert found.layers[1].content is known.content
    assert len(list(folder.iterdir())) == 4
    assert found.digest == rewritten(image, tmp_path / "all").digest


def test_a_base_of_a_registry_keeps_its_raw_layers_and_one_out_of_an_engine_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classic store unpacks what it pulls; its layers come by in one stream."""
    raw = replace(
        gzipped(TREES[0]),
        descriptor=Descriptor(
            media_type=RAW_LAYER, digest=sha256_digest(TREES[0]), size_bytes=len(TREES[0])
        ),
        content=BytesContent(data=TREES[0]),
    )
    assert not needs_rewriting(raw)
    passes: list[str] = []

    def saved_blobs(
        image: str, members: set[str], **_: Any
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        passes.append(image)
        for tree in TREES[:2]:
            name = blob_name(sha256_digest(tree))
            if name in members:
                yield name, iter([tree[:1000], tree[1000:]])

    monkeypatch.setattr(rewrite, "saved_blobs", saved_blobs)
    layers = [
        replace(
            raw,
            descriptor=replace(raw.descriptor, digest=sha256_digest(tree)),
            diff_id=sha256_digest(tree),
            content=EngineContent(image="it", member=blob_name(sha256_digest(tree))),
        )
        for tree in TREES[:2]
    ]
    found = rewritten(make_image(tmp_path, base_of(*layers)), tmp_path / "packed")
    assert [x.descriptor.media_type for x in found.layers[:2]] == [ZSTD_LAYER] * 2
    assert b"".join(unpacked([bytes_of(found.layers[1])])) == TREES[1]
    assert passes == ["it"]

    gone = replace(layers[1], content=EngineContent(image="it", member="blobs/sha256/gone"))
    with pytest.raises(BuildError, match=r"^it: the engine no longer holds all of the base"):
        rewritten(make_image(tmp_path, base_of(layers[0], gone)), tmp_path / "gone")


def test_bytes_that_are_not_the_layers_are_refused(tmp_path: Path) -> None:
    good = gzipped(TREES[0])
    other = replace(good, diff_id=sha256_digest(TREES[1]))
    with pytest.raises(BuildError, match="or its tree is not that of the config"):
        rewritten(make_image(tmp_path, base_of(other)), tmp_path / "1")
    swapped = replace(good, content=gzipped(TREES[1]).content)
    with pytest.raises(BuildError, match="its bytes are not those of its digest"):
        rewritten(make_image(tmp_path, base_of(swapped)), tmp_path / "2")
    cut = replace(good, content=BytesContent(data=bytes_of(good)[:-9]))
    with pytest.raises(UnsoundLayer, match="ends in the middle"):
        rewritten(make_image(tmp_path, base_of(cut)), tmp_path / "3")
    absent = replace(good, content=None)
    with pytest.raises(BuildError, match="its bytes are not at hand, and it is nowhere under zstd"):
        rewritten(make_image(tmp_path, base_of(absent)), tmp_path / "4")


def test_a_full_disk_is_said_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    image = make_image(tmp_path)
    monkeypatch.setattr(Path, "open", lambda *_: Full())
    with pytest.raises(MachineError) as caught:
        rewrite_layers(image, nowhere, folder=tmp_path, console=CONSOLE, workers=1)
    assert str(caught.value).startswith(
        f"{tmp_path}: a layer under zstd cannot be written: No space left on device"
    )


def test_the_first_failure_ends_the_other_tasks() -> None:
    stop, began = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        assert stop.wait(120)
        raise Stopped

    def fail() -> None:
        assert began.wait(120)
        raise BuildError("no")

    with pytest.raises(BuildError, match="no"):
        run_in_parallel([wait, fail], workers=2, stop=stop)
    assert run_in_parallel([lambda: 1, lambda: 2], workers=1, stop=threading.Event()) == [1, 2]


def verify(image: Image) -> dict[str, str]:
    verdict = verify_image(image, name="x", console=CONSOLE, scanner=SecretScanner())
    return {check.name: f"{check.severity}: {check.message}" for check in verdict.checks}


def test_the_base_of_a_rewritten_image_is_known_and_its_trees_are_held_against_the_config(
    tmp_path: Path,
) -> None:
    image = make_image(tmp_path)
    found = rewritten(image, tmp_path / "packed")
    assert count_base_layers(found) == 3
    checks = verify(found)
    assert checks["digests"] == "ok: 3 layers above the base are what their digests say"
    assert checks["base"] == "ok: no token or private key in 3 layers of the base"
    assert checks["secrets"].startswith("ok")

    # The annotation is said by whoever wrote the manifest: the tree must be the config's all the same.
    strange = rewritten(make_image(tmp_path, base_of(*map(gzipped, TREES[::-1]))), tmp_path / "o")
    lies = replace(
        strange.layers[0],
        descriptor=replace(
            strange.layers[0].descriptor,
            annotations={REWRITTEN_FROM: image.layers[0].digest},
        ),
        diff_id=image.layers[0].diff_id,
    )
    entries = [lies.descriptor.as_json(), *found.manifest["layers"][1:]]
    bad = replace(
        found,
        manifest_json=canonical_json({**found.manifest, "layers": entries}),
        layers=(lies, *found.layers[1:]),
    )
    assert verify(bad)["base"].startswith(
        f"error: another tree than the config says in {lies.digest}"
    )
    verdict = verify_image(bad, name="x", console=CONSOLE, scanner=SecretScanner())
    (remedy,) = (check.remedy for check in verdict.checks if check.name == "base")
    assert tag_of(image.layers[0]) in remedy
    assert "is not what it should be: delete it" in remedy


def test_frames_of_zstd_are_read_in_any_pieces_and_what_is_damaged_is_said() -> None:
    tree = TREES[0] * 40
    packed = b"".join(zstd_packed([tree], 3))
    assert packed == b"".join(zstd_packed([tree[:7], tree[7:70_000], tree[70_000:]], 3))
    skipped = b"\x50\x2a\x4d\x18\x05\x00\x00\x00hello"  # as pzstd begins, and zstd:chunked ends
    several = skipped + packed + packed + skipped
    assert (packing_of(several[:4]), packing_of(packed[:4])) == ("zstd", "zstd")
    for size in (1, 7, 5000, len(several)):
        pieces = [several[at : at + size] for at in range(0, len(several), size)]
        assert ChunkReader(unpacked(pieces)).read() == tree + tree
    assert list(unzstd(iter([]))) == []
    for bad, reason in (
        (packed[:-1], "ends in the middle"),
        (packed[:5], "ends in the middle"),
        (skipped[:6], "ends in the middle"),
        (packed + b"more", "is damaged"),
        (packed[:4] + b"\xff" * 40, "is damaged"),
    ):
        with pytest.raises(UnsoundLayer, match=f"a layer under zstd {reason}"):
            list(unzstd(iter([bad])))


def test_a_manifest_of_no_annotations_is_an_image_whose_base_is_read_as_its_own(
    tmp_path: Path,
) -> None:
    """podman drops the annotations of layers."""
    found = rewritten(make_image(tmp_path), tmp_path / "packed")
    plain = [{k: v for k, v in e.items() if k != "annotations"} for e in found.manifest["layers"]]
    contents = {layer.digest: layer.content for layer in found.layers}
    read = parse_image(
        canonical_json({**found.manifest, "layers": plain}),
        found.config_json,
        name="x",
        content_of=lambda layer: contents[layer.digest],
    )
    assert count_base_layers(read) == 0
    assert verify(read)["digests"] == "ok: 6 layers above the base are what their digests say"
