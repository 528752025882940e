"""What one run of the webui offers, and which of its settings a request may override."""

from __future__ import annotations

import dataclasses
import http.client
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import SettingsError
from runtime.job.names import check_allowed, pin_settings, read_names
from runtime.webui.client import WebuiAnswerError
from tests.samples import NAMES

OFFERED: dict[str, list[dict[str, Any]]] = {
    "samplers": [{"name": "Euler"}, {"name": "DPM++ 2M"}],
    "schedulers": [{"name": "karras", "label": "Karras"}, {"name": "sgm", "label": "SGM Uniform"}],
    "latent-upscale-modes": [{"name": "Latent"}],
    "upscalers": [{"name": "None", "model_path": None}, {"name": "Lanczos", "model_path": None}],
    "prompt-styles": [
        {"name": "ink", "prompt": "{prompt}, ink", "negative_prompt": "photo"},
        {"name": "empty", "prompt": None, "negative_prompt": None},
        {"name": "bare"},
    ],
    "script-info": [
        {"name": "Tint", "is_alwayson": True, "is_img2img": False, "args": [{}, {}, {}]},
        {"name": "tint", "is_alwayson": True, "is_img2img": False, "args": [{}]},
        {"name": "Tint", "is_alwayson": True, "is_img2img": True, "args": None},
        {"name": "X/Y/Z plot", "is_alwayson": False, "is_img2img": False, "args": [{}]},
    ],
}


class Client:
    """The webui's client, over lists and settings of the test's."""

    def __init__(self, *missing: str, status: int = http.client.NOT_FOUND, **settings: Any) -> None:
        self.missing, self.status, self.settings = missing, status, settings
        self.asked: list[str] = []
        self.set: list[tuple[str, str, Any]] = []

    def get(self, name: str) -> list[dict[str, Any]]:
        self.asked.append(name)
        if name in self.missing:
            raise WebuiAnswerError(status=self.status, kind="HTTPException", detail="no")
        return OFFERED[name]

    def options(self) -> dict[str, Any]:
        return self.settings

    def call(self, method: str, path: str, payload: Any) -> None:
        self.set.append((method, path, payload))


def test_everything_that_it_offers() -> None:
    client: Any = Client()
    names = read_names(client, with_scripts=True)
    assert names.samplers == ("Euler", "DPM++ 2M")
    assert names.schedulers == {
        "karras": "Karras", "Karras": "Karras", "sgm": "SGM Uniform", "SGM Uniform": "SGM Uniform",
    }  # fmt: skip
    assert (names.upscalers, names.latent_modes) == (("Latent", "None", "Lanczos"), ("Latent",))
    assert names.styles == {"ink": ("{prompt}, ink", "photo"), "empty": ("", ""), "bare": ("", "")}
    # Of two scripts with one title the webui takes the first.
    assert names.scripts == {"txt2img": {"tint": 3}, "img2img": {"tint": 0}}
    assert not names.has_comments
    commenting: Any = Client(enable_prompt_comments=False)
    assert read_names(commenting).has_comments
    assert "script-info" not in commenting.asked


def test_a_list_that_this_webui_does_not_have_offers_nothing() -> None:
    client: Any = Client(*OFFERED)
    names = read_names(client, with_scripts=True)
    assert (names.samplers, names.schedulers, names.upscalers, names.styles) == ((), {}, (), {})
    assert names.scripts == {"txt2img": {}, "img2img": {}}
    failing: Any = Client("upscalers", status=http.client.INTERNAL_SERVER_ERROR)
    with pytest.raises(WebuiAnswerError):
        read_names(failing)


def test_samplers_of_old_are_every_sampler_with_every_scheduler_once() -> None:
    names = dataclasses.replace(
        NAMES, samplers=("Euler", "LMS"), schedulers={"k": "Karras", "Karras": "Karras", "s": "S"}
    )
    assert names.old_samplers == (
        "Euler", "LMS", "Euler Karras", "Euler S", "LMS Karras", "LMS S",
    )  # fmt: skip


def test_a_sampler_is_split_where_it_is_none_by_itself() -> None:
    names = dataclasses.replace(
        NAMES,
        samplers=("DPM2", "DPM2 SGM", "Euler", "Euler Uniform"),
        schedulers={"u": "Uniform", "s": "SGM Uniform"},
    )
    assert names.split_sampler("DPM2 SGM Uniform") == ("DPM2", "SGM Uniform")
    assert names.split_sampler("DPM2 Uniform") == ("DPM2", "Uniform")
    assert names.split_sampler("Euler Uniform") == ("Euler Uniform", None)
    assert names.split_sampler("Heun Uniform") == ("Heun Uniform", None)


@pytest.mark.parametrize(
    "name",
    ["api_enable_requests", "api_forbid_local_requests", "api_useragent", "cross_attention_optimization",
     "fp8_storage", "cache_fp16_weight", "temp_dir", "gradio_theme", "samples_save", "grid_save",
     "return_grid", "save_to_dirs", "outdir_samples"],
)  # fmt: skip
def test_a_setting_that_does_nothing_in_a_job_is_not_allowed(name: str) -> None:
    client: Any = Client(**{name: 1, "eta_ddim": 0, "samples_save_more": 1})
    check_allowed(client, ["eta_ddim", "samples_save_more"])
    with pytest.raises(SettingsError) as caught:
        check_allowed(client, ["eta_ddim", name, "eta_dim"])
    assert str(caught.value) == (
        f"BAKERY_OVERRIDE_SETTINGS: {name!r} does nothing in a single job;"
        " this webui has no setting 'eta_dim' (did you mean 'eta_ddim'?)"
    )


def test_without_names_nothing_is_asked_of_the_webui() -> None:
    client: Any = None
    check_allowed(client, [])


@pytest.mark.parametrize("content", [None, "", "{", "\xff"])
def test_a_settings_file_that_cannot_be_read_holds_nothing(
    tmp_path: Path, content: str | None
) -> None:
    config = tmp_path / "config.json"
    if content is not None:
        config.write_bytes(content.encode("latin-1"))
    client: Any = Client(a=1, b=2, c=3)
    assert pin_settings(client, config, ["a", "b", "z"]) == {"a": 1, "b": 2}
    assert client.set == [("POST", "/sdapi/v1/options", {"a": 1, "b": 2})]


def test_only_settings_that_the_file_lacks_are_written(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"a": 5, "ü": 1}, ensure_ascii=False), encoding="utf-8")
    client: Any = Client(a=1, b=2)
    assert pin_settings(client, config, ["a", "b"]) == {"a": 1, "b": 2}
    assert client.set == [("POST", "/sdapi/v1/options", {"b": 2})]
    full: Any = Client(a=1)
    assert pin_settings(full, config, ["a"]) == {"a": 1}
    assert full.set == []
