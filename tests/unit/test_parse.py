"""Images out of documents that others wrote: indexes, platforms, and what each layer is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bake.errors import BuildError
from bake.image.final.assemble import assemble
from bake.image.oci.model import Descriptor, Image, canonical_json, make_manifest, sha256_digest
from bake.image.oci.parse import find_manifest, parse_image
from tests.unit.test_assemble import CONFIG, make_image, make_layer


def reread(image: Image, *, layers: int | None = None, **config: Any) -> Image:
    """As it is after a push of podman's: without annotations. `layers`: only the first ones are left."""
    changed = {**image.config, **config}
    if layers is not None:
        diff_ids = changed["rootfs"]["diff_ids"][:layers]
        changed = {**changed, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config_json = canonical_json(changed)
    plain = [
        Descriptor(
            media_type=each.descriptor.media_type, digest=each.digest, size_bytes=each.size_bytes
        )
        for each in image.layers[:layers]
    ]
    return parse_image(
        make_manifest(config_json, plain), config_json, name="x", content_of=lambda _: None
    )


def kinds(image: Image) -> list[str]:
    return [layer.kind for layer in image.layers]


def on_top(image: Image) -> dict[str, Any]:
    """The config of an image that somebody builds on top of ours."""
    top = make_layer(b"on top")
    rootfs = {"type": "layers", "diff_ids": [*image.config["rootfs"]["diff_ids"], top.diff_id]}
    history = [*image.config["history"], {"created_by": "COPY x /"}, {"empty_layer": True}]
    return {"rootfs": rootfs, "history": history}


def test_what_a_layer_is_stays_known_without_the_annotations() -> None:
    found = reread(make_image())
    assert kinds(found) == ["base", "base", "weights", "thin"]
    assert [layer.comment for layer in found.layers] == ["a", "base", "/models/a", "the runtime"]


def test_what_is_built_on_top_of_ours_is_not_taken_for_ours() -> None:
    image = make_image()
    config_json = canonical_json({**image.config, **on_top(image)})
    layers = [*(each.descriptor for each in image.layers), make_layer(b"on top").descriptor]
    found = parse_image(
        make_manifest(config_json, layers), config_json, name="x", content_of=lambda _: None
    )
    assert kinds(found) == ["base", "base", "weights", "thin", "added"]
    assert found.layers[-1].comment == "COPY x /"


def test_an_image_of_ours_as_a_base_is_a_base() -> None:
    image = make_image()
    upper = assemble(image, layers=[make_layer(b"new", comment="new")], config=CONFIG)
    assert kinds(upper) == [*["base"] * 4, "thin"]
    assert kinds(reread(upper)) == [*["base"] * 4, "thin"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"history": []}, ["base", "base", "thin", "thin"]),
        ({"config": {}}, ["base"] * 4),
        ({"config": {"Labels": {"bakery.layers": " ".join("abcdef")}}}, ["base"] * 4),
        ({"history": [{"created_by": "bake: x", "comment": "what"}] * 4},
         ["base", "base", "thin", "thin"]),
    ],
)  # fmt: skip
def test_labels_and_history_that_do_not_fit_are_no_error(
    change: dict[str, Any], expected: list[str]
) -> None:
    assert kinds(reread(make_image(), **change)) == expected


def test_a_squashed_image_has_no_layers_of_ours() -> None:
    assert kinds(reread(make_image(), layers=1)) == ["base"]


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"null", b'"x"', b"{}", b'{"layers":[5]}', b'{"layers":{}}', b"\xff\xfe{\0}\0",
     b'{"layers":[{"digest":"sha256:1"}]}', b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_image_is_an_error_in_words(text: bytes) -> None:
    config = make_image().config_json
    for documents in ((text, config), (make_image().manifest_json, text)):
        with pytest.raises(BuildError, match=r"^x: ") as caught:
            parse_image(*documents, name="x", content_of=lambda _: None)
        assert "Traceback" not in str(caught.value)


def test_an_index_leads_to_its_image_and_not_in_circles() -> None:
    platform = {"os": "linux", "architecture": "amd64"}
    texts: dict[str, bytes] = {}

    def put(data: Any) -> str:
        text = json.dumps(data).encode()
        texts[sha256_digest(text)] = text
        return sha256_digest(text)

    inner = put({"layers": []})
    middle = put({"manifests": [{"digest": inner, "platform": platform}]})
    outer = put({"manifests": [{"digest": middle}]})
    assert find_manifest(texts[outer], texts.__getitem__, where="x") == texts[inner]
    circle = json.dumps({"manifests": [{"digest": inner}]}).encode()
    with pytest.raises(BuildError, match="x: its indexes name each other"):
        find_manifest(circle, lambda _: circle, where="x")
