"""Images out of documents that others wrote: indexes, platforms, and what each layer is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bake.errors import BuildError
from bake.image.final.assemble import assemble
from bake.image.oci.model import Descriptor, Image, canonical_json, make_manifest, sha256_digest
from bake.image.oci.parse import find_manifest, parse_image, pick_platform
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


PLATFORM = {"os": "linux", "architecture": "amd64"}
FIRST, SECOND = ("sha256:" + digit * 64 for digit in "12")


def broken(manifest: Any = None, **config: Any) -> str:
    """What is said of an image with such a manifest, or such entries of its config."""
    image = make_image()
    manifest_json = image.manifest_json if manifest is None else canonical_json(manifest)
    config_json = canonical_json({**image.config, **config})
    with pytest.raises(BuildError) as caught:
        parse_image(manifest_json, config_json, name="you/x", content_of=lambda _: None)
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"config": []}, ""),
        ({"config": "x"}, "is no image: its manifest or config is not of their form (AttributeError)"),
        ({"config": {"Env": "A=b"}}, "its config is not that of an image"),
        ({"config": {"Env": ["A=b", 5]}}, "its config is not that of an image"),
        ({"config": {"Labels": ["a"]}}, "is no image: its manifest or config is not of their form (AttributeError)"),
        ({"history": {"a": 1}}, "is no image: its manifest or config is not of their form (AttributeError)"),
        ({"rootfs": None}, "the config and the manifest name different layers"),
        ({"rootfs": {"diff_ids": [FIRST]}}, "the config and the manifest name different layers"),
        ({"rootfs": {"diff_ids": ["x"] * 4}}, "'x' is not a sha256 digest"),
        ({"architecture": "arm64"}, "the image is for linux/arm64, workers run on linux/amd64\n  → build or pull it with --platform linux/amd64"),
        ({"os": "windows"}, "the image is for windows/amd64, workers run on linux/amd64\n  → build or pull it with --platform linux/amd64"),
        ({"os": None, "architecture": None}, "the image is for None/None, workers run on linux/amd64\n  → build or pull it with --platform linux/amd64"),
    ],
)  # fmt: skip
def test_a_config_of_no_form_is_said_with_the_image(config: dict[str, Any], message: str) -> None:
    if not message:
        assert reread(make_image(), **config).labels == {}
        return
    assert broken(**config).removeprefix("you/x: ") == message


def test_documents_of_no_form_are_said_with_the_image() -> None:
    why = "you/x: is no image: its manifest or config is not of their form"
    assert broken([]) == f"{why} (AttributeError)"
    assert broken({"layers": [5]}) == f"{why} (TypeError)"
    assert broken({"layers": [{"digest": FIRST}]}) == f"{why} (KeyError)"
    assert broken({}) == "you/x: the config and the manifest name different layers"


def test_an_image_knows_what_it_was_asked_for_by_and_where_its_layers_are() -> None:
    image = make_image()
    contents = {layer.digest: layer.content for layer in image.layers}
    found = parse_image(
        image.manifest_json,
        image.config_json,
        name="you/x",
        known_as=FIRST,
        content_of=lambda layer: contents[layer.digest],
    )
    assert (found.name, found.known_as, found.identity) == ("you/x", FIRST, FIRST)
    assert (found.manifest_json, found.config_json) == (image.manifest_json, image.config_json)
    assert [(each.digest, each.content) for each in found.layers] == list(contents.items())


@pytest.mark.parametrize(
    ("step", "comment"),
    [({"created_by": "RUN x", "comment": "buildkit"}, "RUN x"), ({"comment": "buildkit"}, "buildkit"),
     ({"created_by": "bake: the runtime"}, "the runtime"), ({"created_by": None}, ""), ({}, "")],
)  # fmt: skip
def test_a_layers_comment_is_what_made_it(step: dict[str, Any], comment: str) -> None:
    empty = {"created_by": "ENV a=b", "empty_layer": True}
    found = reread(make_image(), history=[empty, step, {"created_by": "2"}, empty])
    assert [layer.comment for layer in found.layers] == [comment, "2", "", ""]


def test_an_annotation_says_what_a_layer_is_before_the_history_does() -> None:
    image = make_image()
    noted = [
        Descriptor(
            media_type=each.descriptor.media_type, digest=each.digest, size_bytes=each.size_bytes,
            annotations={"bakery.layer": said},
        )
        for each, said in zip(image.layers, ("thin", "weights", "documents", "nonsense"), strict=True)
    ]  # fmt: skip
    found = parse_image(
        make_manifest(image.config_json, noted), image.config_json, name="x",
        content_of=lambda _: None,
    )  # fmt: skip
    assert kinds(found) == ["base", "base", "documents", "thin"]


def test_as_many_layers_as_the_labels_name_are_no_squashed_image() -> None:
    image = make_image()
    labels = dict(image.labels)
    more = {**labels, "bakery.layers": labels["bakery.layers"] + f" {FIRST}"}
    fewer = {**labels, "bakery.layers": labels["bakery.layers"].split()[0]}
    assert kinds(reread(image, config={"Labels": labels})) == ["base", "base", "weights", "thin"]
    assert kinds(reread(image, config={"Labels": more})) == ["base"] * 4
    assert kinds(reread(image, config={"Labels": fewer})) == ["base", "base", "weights", "added"]


def test_a_manifest_is_itself_and_three_indexes_are_too_many() -> None:
    asked: list[str] = []

    def fetch(digest: str) -> bytes:
        asked.append(digest)
        left = int(digest[-1]) - 1
        return json.dumps({"manifests": [{"digest": FIRST[:-1] + str(left)}]} if left else {"layers": []}).encode()  # fmt: skip

    text = b'{"layers":[]}'
    assert find_manifest(text, fetch, where="x") == text
    assert asked == []
    two = json.dumps({"manifests": [{"digest": FIRST[:-1] + "2"}]}).encode()
    assert find_manifest(two, fetch, where="x") == b'{"layers": []}'
    assert [digest[-1] for digest in asked] == ["2", "1"]
    with pytest.raises(BuildError, match=r"^x: there is no image for linux/amd64$"):
        find_manifest(b'{"manifests": []}', fetch, where="x")
    three = json.dumps({"manifests": [{"digest": FIRST[:-1] + "3"}]}).encode()
    with pytest.raises(BuildError, match=r"^x: its indexes name each other$"):
        find_manifest(three, fetch, where="x")


@pytest.mark.parametrize(
    ("entries", "picked"),
    [
        ([{"digest": FIRST, "platform": PLATFORM}, {"digest": SECOND, "platform": PLATFORM}], FIRST),
        ([{"digest": FIRST}, {"digest": SECOND, "platform": {**PLATFORM, "variant": "v2"}}], SECOND),
        ([{"digest": FIRST}], FIRST),
        ([{"digest": FIRST, "platform": None, "annotations": None}], FIRST),
        ([{"digest": FIRST}, {"digest": SECOND}], ""),
        ([{"digest": FIRST, "platform": {"os": "linux", "architecture": "arm64"}}], ""),
        ([{"digest": FIRST, "platform": {"os": "windows", "architecture": "amd64"}}], ""),
        ([], ""),
        (None, ""),
    ],
)  # fmt: skip
def test_the_platform_of_workers_is_picked(entries: Any, picked: str) -> None:
    if picked:
        assert pick_platform({"manifests": entries}, where="x") == picked
        return
    with pytest.raises(BuildError, match=r"^x: there is no image for linux/amd64$"):
        pick_platform({"manifests": entries}, where="x")


@pytest.mark.parametrize("platform", [{}, PLATFORM])
def test_what_an_index_names_is_a_digest(platform: dict[str, str]) -> None:
    with pytest.raises(BuildError, match=r"^'\.\./x' is not a sha256 digest$"):
        pick_platform({"manifests": [{"digest": "../x", "platform": platform}]}, where="x")
