"""What `benchmarks.pull` makes of its seconds and bytes, and the images that it pulls."""

from pathlib import Path

import pytest

from bake.image.oci.model import GZIP_LAYER, RAW_LAYER, sha256_digest
from benchmarks import whole
from benchmarks.images import MODEL
from benchmarks.pull import usual_figures, whole_figures
from tests.unit.test_rewrite import TREES, base_of, gzipped


def test_figures_are_medians_of_ours_over_the_others() -> None:
    seconds = {
        "raw": [2.0, 1.0, 9.0],
        "zstd": [1.0],
        "before": [4.0],
        "official": [8.0],
        "gzip": [4.0],
    }
    wire = {
        "raw": {"a": 60, "b": 20, "model": 500, "code": 1},
        "zstd": {"a": 40, "b": 10, "model": 500, "code": 1},
        "before": {"c": 100, "model": 500, "code": 1},
    }
    assert whole_figures({"classic": seconds, "containerd": seconds}, wire) == {
        "whole_before": 0.5, "whole_official": 0.25,
        "whole_zstd_before": 0.25, "whole_zstd_official": 0.125,
        "whole_before_containerd": 0.5, "whole_official_containerd": 0.25,
        "whole_zstd_before_containerd": 0.25, "whole_zstd_official_containerd": 0.125,
        "wire_base": 0.8, "wire_base_zstd": 0.5,
    }  # fmt: skip
    assert usual_figures({"classic": seconds, "containerd": seconds}) == {
        "pull_ratio": 0.5, "pull_ratio_containerd": 0.5,
    }  # fmt: skip


def test_the_images_differ_in_the_base_and_in_how_the_model_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = {}
    for name in ("push_image", "push_rewritten"):
        monkeypatch.setattr(
            whole,
            name,
            lambda image, reference, name=name, **_: pushed.update({reference: (name, image)}),
        )
    bases = {"new": base_of(*map(gzipped, TREES[:2])), "old": base_of(gzipped(TREES[2]))}

    class Base:
        def __init__(self, reference: str) -> None:
            self.image = bases[reference]

        def __enter__(self) -> object:
            return self.image

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(whole, "_base", Base)
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"weights" * 1000)
    references = whole.push_whole_images(
        "r/x", base="new", old_base="old", model=model,
        sha256=sha256_digest(model.read_bytes())[7:], folder=tmp_path,
    )  # fmt: skip
    assert references == {kind: f"r/x-{kind}:1" for kind in ("raw", "zstd", "before", "official")}
    assert [name for name, _ in pushed.values()] == [
        "push_image", "push_rewritten", "push_image", "push_image",
    ]  # fmt: skip
    layers = {kind: pushed[references[kind]][1].layers for kind in references}
    assert layers["raw"] == layers["zstd"]
    assert [len(layers[kind]) for kind in references] == [4, 4, 3, 3]
    assert [layers[kind][-2].descriptor.media_type for kind in references] == [
        *[RAW_LAYER] * 3, GZIP_LAYER,
    ]  # fmt: skip
    trees = [b"".join(layers[kind][-2].content.chunks()) for kind in ("raw", "before")]
    assert trees[0] == trees[1]
    assert str(MODEL).lstrip("/").encode() in trees[0]
