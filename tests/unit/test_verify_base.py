"""Secrets in the layers of a base, which is not ours, but is shipped with ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bake.image.final.assemble import ImageConfig, assemble
from bake.image.kept import Kept
from bake.image.oci.model import BytesContent, Content, Image, Layer, canonical_json
from bake.image.registry.client import RegistryContent
from bake.image.verify.image import verify_image
from bake.image.verify.verdict import Check, Verdict
from tests.unit.test_assemble import make_base
from tests.unit.test_verify import (
    CONSOLE,
    HF_TOKEN,
    PRIVATE_KEY,
    SCANNER,
    WORKER_LAYER,
    make_lock,
    thin,
    weights_layer,
)

OWN = b"this-is-my-own-token"


def image_on(folder: Path, *layers: Layer) -> Image:
    made = make_base()
    config = {
        **made.config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
    }
    base = replace(made, config_json=canonical_json(config), layers=layers)
    ours = ImageConfig(entrypoint=["/worker"], labels={"bakery.lock": make_lock().to_json()})
    return assemble(base, layers=[weights_layer(folder), WORKER_LAYER], config=ours)


def with_content(layer: Layer, content: Content | None) -> Layer:
    return replace(layer, kind="base", content=content)


def verify(image: Image, *, kept: Kept | None = None, downloads_base: bool = True) -> Verdict:
    scanner = replace(SCANNER, literals=(("MY_TOKEN", OWN),))
    return verify_image(
        image,
        name="x",
        console=CONSOLE,
        scanner=scanner,
        kept=kept,
        downloads_base=downloads_base,
    )


def base_check(verdict: Verdict) -> Check:
    return next(check for check in verdict.checks if check.name == "base")


@pytest.mark.parametrize(
    ("path", "content", "severity", "message"),
    [
        ("etc/app", HF_TOKEN, "error", "a Hugging Face token in /etc/app"),
        ("root/.ssh/id_rsa", b"x", "error", "a private key in /root/.ssh/id_rsa"),
        ("app/key.pem", PRIVATE_KEY, "error", "a private key in /app/key.pem"),
        ("app/.git/HEAD", b"x", "warning", "a git repository in /app/.git/HEAD"),
        ("root/.cache/pip/a", b"x", "warning", "pip's cache in /root/.cache/pip/a"),
        # Hugging Face publishes a token of its test servers with transformers.
        ("venv/lib/python3.10/site-packages/transformers/testing_utils.py", HF_TOKEN, "ok", ""),
        ("usr/lib/libgnutls.so", PRIVATE_KEY, "ok", ""),
        ("usr/lib/python3/dist-packages/a.py", OWN, "error", "the value of MY_TOKEN in /usr/lib"),
    ],
)
def test_secrets_of_a_base(
    tmp_path: Path, path: str, content: bytes, severity: str, message: str
) -> None:
    verdict = verify(image_on(tmp_path, thin((path, content))))
    check = base_check(verdict)
    assert check.severity == severity
    assert check.message.startswith(message or "no token or private key in 1 layers of the base")
    assert verdict.is_good == (severity != "error")


def test_a_layer_of_a_base_is_read_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")
    layer = thin(("etc/app", HF_TOKEN))
    first = base_check(verify(image_on(tmp_path, layer), kept=kept))
    gone = image_on(tmp_path, with_content(layer, BytesContent(data=b"not to be read again")))
    assert base_check(verify(gone, kept=kept)) == first
    content = RegistryContent(host="127.0.0.1:1", repository="a", digest=layer.digest)
    elsewhere = image_on(tmp_path, with_content(layer, content))
    assert base_check(verify(elsewhere, kept=kept, downloads_base=False)) == first
    assert first.severity == "error"


def test_other_bytes_than_the_digest_says_are_no_base(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")
    layer = thin(("etc/app", b"fine"))
    other = image_on(tmp_path, with_content(layer, BytesContent(data=b"other")))
    for _ in range(2):
        check = base_check(verify(other, kept=kept))
        assert (check.severity, check.message) == (
            "error",
            f"other bytes than its digest says in {layer.digest}",
        )
    assert base_check(verify(image_on(tmp_path, layer), kept=kept)).severity == "ok"


@pytest.mark.parametrize("in_registry", [True, False])
def test_layers_that_are_not_at_hand_are_named(tmp_path: Path, in_registry: bool) -> None:
    layer = thin(("etc/app", HF_TOKEN))
    content = RegistryContent(host="127.0.0.1:1", repository="a", digest=layer.digest)
    image = image_on(
        tmp_path, thin(("a", b"a")), with_content(layer, content if in_registry else None)
    )
    verdict = verify(image, downloads_base=False)
    check = base_check(verdict)
    assert check.severity == "warning"
    assert check.message == "1 of 2 layers are not at hand, and were not looked through"
    assert "--registry" in check.remedy
    assert verdict.is_good
