"""What was asked is what is drawn: whatever came before, and only with LoRAs that were applied."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.webui.network import load_network
from tests.integration.worker import SMALL, WEIGHTS, LocalApi, running
from tests.ports import free_port

LONG = (
    "a large red circle, " * 5 + "on a dark blue background, top left, " + "small green square " * 4
)
PLAIN = {**SMALL, "prompt": LONG, "negative_prompt": "green", "steps": 3}


def write(path: Path, tensors: Mapping[str, Any]) -> None:
    header: dict[str, Any] = {}
    data = b""
    for name, value in tensors.items():
        piece = np.asarray(value, np.float32).tobytes()
        offsets = [len(data), len(data) + len(piece)]
        shape = list(np.asarray(value).shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        data += piece
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_loras(folder: Path) -> None:
    """One that is right, one for the text alone, and those that a webui loads and draws without."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    tensors = load_network(WEIGHTS / "shapes.safetensors").tensors

    def lora(name: str, *, scale: float = 0.3, more_rows: int = 0) -> dict[str, Any]:
        rows, columns = tensors[f"{name}.weight"].shape
        layer = f"lora_demo_{name.replace('.', '_')}"
        up = rng.standard_normal((rows + more_rows, 2)) * scale
        down = rng.standard_normal((2, columns)) / columns**0.5
        return {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}

    nowhere = {
        f"lora_demo_no_{n}.lora_{side}.weight": np.ones((2, 2))
        for n in range(3)
        for side in ("up", "down")
    }
    write(folder / "right.safetensors", lora("mix"))
    write(folder / "text.safetensors", lora("text.layers.0"))
    write(folder / "part.safetensors", {**lora("mix"), **nowhere})
    write(folder / "nowhere.safetensors", nowhere)
    write(folder / "zero.safetensors", lora("mix", scale=0))
    write(folder / "shapes.safetensors", lora("mix", more_rows=1))
    write(
        folder / "half.safetensors",
        {key: value for key, value in lora("mix").items() if "down" in key},
    )


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    """With no trick of boot's, which keeps jobs apart all the same."""
    port, folder = free_port(), tmp_path_factory.mktemp("state")
    write_loras(folder / "models" / "Lora")
    arguments = ("--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port))
    with running("runtime", folder, *arguments, BAKERY_BOOT="plain") as worker:
        local = LocalApi(port)
        local.wait_until_up(worker)
        yield local


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere", "none of its names is that of a layer of this model"),
        ("zero", "all its changes are zero"),
        ("shapes", "1 of 1 layers failed: its shapes are not those of this model's layers"),
        ("half", "a layer's parts are of no kind that the webui knows"),
        ("ghost", "the webui did not find it"),
    ],
)
def test_a_lora_that_the_webui_loads_and_draws_without(api: LocalApi, name: str, why: str) -> None:
    error = api.fail({**PLAIN, "prompt": f"{LONG}<lora:{name}:1>"})
    assert error["code"] == "lora_not_applied"
    assert error["message"] == f"the webui drew without {name} ({why})"


def test_a_lora_that_fits_in_part_is_noted(api: LocalApi) -> None:
    output = api.run({**PLAIN, "loras": [{"name": "part"}]})["bakery"]
    assert (output["loras"][0]["layers"], output["loras"][0]["applied"]) == (4, 1)
    assert "1 of its 4 layers were applied" in output["notes"][0]
    whole = api.run({**PLAIN, "loras": [{"name": "right"}]})["bakery"]
    assert (whole["loras"][0]["layers"], whole["loras"][0]["applied"], whole["notes"]) == (1, 1, [])


def test_each_pass_of_hires_fix_has_its_own(api: LocalApi) -> None:
    hires = {"enable_hr": True, "denoising_strength": 0.5, "hr_scale": 2, "n_iter": 2}
    value = {
        **PLAIN,
        **hires,
        "prompt": f"{LONG}<lora:right:1>",
        "hr_prompt": f"{LONG}<lora:text:1>",
    }
    assert len(api.run(value)["images"]) == 2
    error = api.fail({**value, "prompt": f"{LONG}<lora:nowhere:1>"})
    assert error["message"].startswith("the webui drew without nowhere (")


OTHERS: list[dict[str, Any]] = [
    {"prompt": f"{LONG}<lora:right:1>"},
    {"prompt": f"{LONG}<lora:right:0.5>"},
    {"prompt": f"{LONG}<lora:text:1>"},
    {"prompt": f"{LONG}<lora:text:1><lora:right:0.2>"},
    {"loras": [{"name": "text", "scale": 2}]},
    {"prompt": f"{LONG}<lora:nowhere:1>"},
    {"disable_extra_networks": True},
    {"override_settings": {"comma_padding_backtrack": 0}},
    {"override_settings": {"comma_padding_backtrack": 3}},
    {"clip_skip": 2},
    {"override_settings": {"CLIP_stop_at_last_layers": 2}},
    {"checkpoint": "second"},
    {"negative_prompt": "red"},
    {"enable_hr": True, "denoising_strength": 0.5, "hr_prompt": f"{LONG}<lora:right:1>"},
    {"seed": 9},
    {"batch_size": 2},
]


def pictures(api: LocalApi, changes: Mapping[str, Any]) -> str:
    """What came: the pictures with all that is written in them, or the error."""
    status, answer = api.post(json.dumps({"input": {**PLAIN, **changes}}).encode())
    assert status == 200, answer
    return json.dumps(answer["output"]["images"]) if "output" in answer else answer["error"]


def test_the_same_job_among_others_gives_one_picture(api: LocalApi) -> None:
    """50 times among 500 others, and each of those always the same too."""
    chance = random.Random(1)
    jobs = [PLAIN] * 50 + [chance.choice(OTHERS) for _ in range(500)]
    chance.shuffle(jobs)
    seen: dict[str, str] = {}
    for job in jobs:
        changes = {} if job is PLAIN else job
        made = pictures(api, changes)
        assert seen.setdefault(json.dumps(changes), made) == made, changes
    # And they are different jobs: each asks for something that can be seen.
    assert len(set(seen.values())) > len(OTHERS) / 2
