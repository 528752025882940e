"""What the warm-up's half in the container leaves in a base."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bake.image.build import warmup_inside
from bake.image.build.warmup_inside import Drawn, complete_config
from runtime.worker import Worker
from tests.samples import make_worker


def test_a_config_gets_the_settings_that_it_lacks_and_keeps_its_own(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"live_previews_enable": false, "of_an_extension": 1}')
    complete_config(config, {"live_previews_enable": True, "CLIP_stop_at_last_layers": 1})
    assert json.loads(config.read_text()) == {
        "live_previews_enable": False,
        "of_an_extension": 1,
        "CLIP_stop_at_last_layers": 1,
    }


def png(*, pixel: int = 0, text: str = "") -> str:
    out = io.BytesIO()
    info = PngInfo()
    info.add_text("parameters", text)
    Image.new("RGB", (8, 8), (pixel, 0, 0)).save(out, "PNG", pnginfo=info)
    return base64.b64encode(out.getvalue()).decode()


def drawn(image: str, tricks: list[str]) -> Drawn:
    return Drawn(tricks=tricks, image=image, info="{}", settings={}, loaded_s=1.0, drawn_s=2.0)


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, **draws: Any) -> tuple[int, list[Any]]:
    """`main` with these two drawings (`all` and `plain`), each a picture or an error."""
    made = []

    def draw(_worker: Any, _request: Any, *, boot: str, record: bool) -> Drawn:
        made.append((boot, record))
        if isinstance(draws[boot], str):
            raise warmup_inside._FailedError(draws[boot], ["last words"])
        result: Drawn = draws[boot]
        return result

    config = folder / "config.json"
    config.write_text("{}")
    worker = make_worker()
    worker = replace(worker, webui=replace(worker.webui, config_file=str(config)))
    monkeypatch.setattr(warmup_inside, "FOLDER", folder)
    monkeypatch.setattr(warmup_inside, "_draw", draw)
    monkeypatch.setattr(Worker, "load", lambda: worker)
    (folder / "request.json").write_text('{"device": "cpu", "payload": {}}')
    return warmup_inside.main(), made


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_tricks_that_draw_upstreams_picture_are_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, plain = drawn(png(text="Model hash: 1"), ["gc", "ui"]), drawn(png(), [])
    code, made = run(tmp_path, monkeypatch, all=ours, plain=plain)
    assert (code, made) == (0, [("all", True), ("plain", False)])
    assert read(tmp_path / "record/proven.json") == {"cpu": ["gc", "ui"]}
    response = read(tmp_path / "response.json")
    assert (response["tricks"], response["unproven"]) == (["gc", "ui"], "")
    assert response["image"] == ours.image


def test_another_picture_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, plain = drawn(png(pixel=1), ["gc"]), drawn(png(), [])
    assert run(tmp_path, monkeypatch, all=ours, plain=plain)[0] == 0
    assert read(tmp_path / "record/proven.json") == {"cpu": []}
    assert "another picture" in read(tmp_path / "response.json")["unproven"]


def test_where_tricks_fail_the_plain_start_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, made = run(tmp_path, monkeypatch, all="it died", plain=drawn(png(), []))
    assert (code, made) == (0, [("all", True), ("plain", True)])
    assert read(tmp_path / "record/proven.json") == {"cpu": []}
    assert read(tmp_path / "response.json")["unproven"] == "the start with them failed: it died"


def test_a_plain_start_that_fails_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, monkeypatch, all=drawn(png(), ["gc"]), plain="no model")[0] == 1
    assert read(tmp_path / "failure.json") == {"reason": "no model", "last_lines": ["last words"]}
    assert not (tmp_path / "response.json").exists()
