"""The demo's webui with an extension, as the real webui v1.9.3 was seen with one: its faults among them."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from demo.webui import scripts
from tests.an_extension import FILES, make_repository


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[scripts.Runner]:
    """Of img2img, with the extension `tint` and one that cannot be loaded."""
    make_repository(
        tmp_path / "tint", {**FILES, "scripts/broken.py": "import nothing_of_that_name\n"}
    )
    for name in ("scripts_txt2img", "scripts_img2img"):
        made = scripts.Runner(is_img2img=name == "scripts_img2img")
        monkeypatch.setattr(scripts, name, made)
    kept = {name: sys.modules.get(name) for name in ("modules", "modules.scripts", "gradio")}
    scripts.load_scripts(tmp_path)
    yield scripts.scripts_img2img
    sys.modules.pop("tint_words", None)
    for name, module in kept.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def tint(runner: scripts.Runner, *arguments: Any, name: str = "TINT") -> tuple[int, ...]:
    pp = SimpleNamespace(image=Image.new("RGB", (8, 8), "white"))
    runner.run("postprocess_image", {name: {"args": list(arguments)}}, None, pp)
    pixel = pp.image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


def test_scripts_are_listed_with_their_arguments(
    runner: scripts.Runner, capfd: pytest.CaptureFixture[str]
) -> None:
    listed = {each["name"]: each for each in runner.describe()}
    assert [each["label"] for each in listed["tint"]["args"]] == ["Enable", "Colour", ""]
    assert listed["tint"]["is_img2img"]
    assert listed["tint"]["is_alwayson"]
    assert len(listed["seed"]["args"]) == 6


def test_what_cannot_be_loaded_is_only_spoken_of(
    tmp_path: Path, runner: scripts.Runner, capfd: pytest.CaptureFixture[str]
) -> None:
    del runner
    scripts.load_scripts(tmp_path)
    assert "Error loading script: broken.py" in capfd.readouterr().err


def test_arguments_are_taken_and_those_too_many_dropped(runner: scripts.Runner) -> None:
    assert tint(runner) == (255, 255, 255)
    assert tint(runner, True) == (255, 127, 127)
    assert tint(runner, True, "blue", None, "one", "too", "many") == (127, 127, 255)


def test_a_script_that_fails_is_drawn_without(
    runner: scripts.Runner, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tint(runner, True, "purple") == (255, 255, 255)
    said = capfd.readouterr().err
    assert "*** Error running postprocess_image: " in said
    assert "purple is not to be had" in said


def test_only_what_is_there_may_be_named(runner: scripts.Runner) -> None:
    assert runner.find("Tint") is not None
    assert scripts.has_script("TINT", is_img2img=True)
    assert scripts.has_script("Seed", is_img2img=False)
    assert not scripts.has_script("tnt", is_img2img=True)
    assert io
