"""An image with an extension of the webui, from a git repository to a picture: on the real engine, with the demo."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.an_extension import FILES, make_repository
from tests.integration.bakery_case import (
    Bakery,
    Events,
    began,
    digest_of,
    make_bakery,
    making_bakery,
)
from tests.integration.conftest import RUN, run
from tests.standins.models import safetensors

NAME = f"bakery-extension-{RUN}"
LOCK = """mdurl==0.1.2 \\
    --hash=sha256:84008a41e51615a49fc9966191ff91509e3c40b939176e643fd50a5c2196b8f8
"""
"""Of a small package that the demo's base has not got."""
WORDS = """from mdurl import encode

REFUSED = encode("purple") + " is not to be had"
"""
OPTIONS = "scripts: [Tint], requirements: file:tint.txt}"


def with_extension(bakery: Bakery) -> Bakery:
    """The demo with the extension `tint` and a model of its own, which lie beside the manifest."""
    folder = bakery.manifest.parent
    commit = make_repository(folder / "tint", {**FILES, "tint_words.py": WORDS})
    (folder / "tint.txt").write_text(LOCK)
    (folder / "x.safetensors").write_bytes(safetensors({"a.weight": (2, 2)}))
    added = f"""extensions:
  - {{url: 'file:tint', commit: '{commit}', {OPTIONS}
extension_models:
  extensions/tint/models/x.safetensors: file:x.safetensors
"""
    bakery.manifest.write_text(bakery.manifest.read_text() + added)
    return bakery


@pytest.fixture(scope="module")
def bakery(
    engine: dict[str, str], slim_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bakery]:
    folder = tmp_path_factory.mktemp("extension")
    with making_bakery(folder, engine, slim_image, name=NAME) as made:
        yield with_extension(made)


@pytest.fixture(scope="module")
def baked(bakery: Bakery) -> Events:
    return bakery.bake()


def serve(bakery: Bakery, baked: Events, folder: Path, **fields: Any) -> dict[str, Any]:
    """What a container with no network makes of a job."""
    folder.mkdir()
    reference = next(event["reference"] for event in baked if event["event"] == "image")
    job = {"prompt": "a red circle on a white background", "seed": 1, **fields}
    ended = run(
        "docker", "run", "--rm", "--network", "none", "--volume", f"{folder}:/out",
        "--env", "BAKERY_TEST_OUTPUT=/out/output.json", reference,
        "--test_input", json.dumps({"input": job}),
        env=bakery.environment,
    )  # fmt: skip
    written = folder / "output.json"
    assert written.exists(), ended.stdout + ended.stderr
    output: dict[str, Any] = json.loads(written.read_text())
    return output


def picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


def test_it_is_a_layer_with_valid_bytecode(bakery: Bakery, baked: Events) -> None:
    assert "extensions" in began(baked)
    with tarfile.open(bakery.build / "demo" / "layers" / "extensions.tar.gz") as tar:
        names = [each.name for each in tar if each.isreg()]
        code = next(name for name in names if "scripts/__pycache__/tint.cpython-" in name)
        opened = tar.extractfile(code)
        assert opened is not None
        # PEP 552: an unchecked hash stays valid whatever happens to times.
        assert opened.read(8)[4:] == b"\x01\x00\x00\x00"
    assert not [name for name in names if "/.git/" in name]
    installed = {name for name in names if name.startswith("opt/bakery/packages/")}
    assert "opt/bakery/packages/mdurl/__init__.py" in installed
    assert [name for name in names if name.endswith("site-packages/bakery-extensions.pth")]
    report = json.loads((bakery.build / "demo" / "report.json").read_text())
    assert not {"ui", "lazy"} & set(report["warmup"]["tricks"])


def test_the_same_commit_gives_the_same_image(
    bakery: Bakery, baked: Events, engine: dict[str, str], slim_image: str, tmp_path: Path
) -> None:
    other = with_extension(make_bakery(tmp_path, engine, slim_image, name=NAME))
    lock = bakery.manifest.with_suffix(".lock.json")
    other.manifest.with_suffix(".lock.json").write_bytes(lock.read_bytes())
    assert digest_of(other.bake("--locked")) == digest_of(baked)
    assert began(bakery.bake()) == []


def test_a_request_gives_the_script_its_arguments(
    bakery: Bakery, baked: Events, tmp_path: Path
) -> None:
    plain = serve(bakery, baked, tmp_path / "plain")
    out = io.BytesIO()
    Image.new("RGB", (16, 8), "green").save(out, "PNG")
    unit = {"image": "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()}
    tinted = serve(
        bakery,
        baked,
        tmp_path / "tinted",
        alwayson_scripts={"tint": {"args": [True, "blue", unit]}},
    )
    expected = picture(plain["images"][0])
    expected = Image.blend(expected, Image.new("RGB", expected.size, "blue"), 0.5)
    assert picture(tinted["images"][0]).tobytes() == expected.tobytes()
    assert (len(tinted["images"]), tinted["bakery"]["extra_images"]) == (2, 1)
    assert picture(tinted["images"][1]).size == (16, 8)
    echoed = tinted["parameters"]["alwayson_scripts"]
    assert echoed == {"tint": {"args": [True, "blue", {"image": None}]}}


def test_a_script_that_fails_fails_the_job(bakery: Bakery, baked: Events, tmp_path: Path) -> None:
    scripts = {"Tint": {"args": [True, "purple"]}}
    output = serve(bakery, baked, tmp_path / "purple", alwayson_scripts=scripts)
    error = json.loads(output["error"])
    words = "the script tint failed in postprocess_image: ValueError: purple is not to be had"
    assert (error["code"], error["message"]) == ("not_honoured", words)


def test_the_warm_up_finds_what_does_not_work(
    engine: dict[str, str], slim_image: str, tmp_path: Path
) -> None:
    broken = with_extension(make_bakery(tmp_path, engine, slim_image, name=NAME))
    commit = make_repository(
        tmp_path / "tint", {"scripts/tint.py": "import nothing_of_that_name\n"}
    )
    text = broken.manifest.read_text()
    before = text[text.index("commit:") : text.index(OPTIONS)]
    broken.manifest.write_text(text.replace(before, f"commit: '{commit}', "))
    status, said = broken.fails()
    assert status == 5
    assert "no extension has the script Tint, or it cannot be loaded" in said
    assert "No module named 'nothing_of_that_name'" in said
