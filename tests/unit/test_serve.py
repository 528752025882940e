"""What `bake try` sends and reads, and what the page of `bake serve` is served with."""

import base64
import dataclasses
import hashlib
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bake.cli.serving import make_environment
from bake.console import Console
from bake.errors import BakeError, ManifestError, VerifyError
from bake.serve.job import events, make_input, read_output, read_problem
from bake.serve.page import content_policy, make_about, make_unused, read_page
from bake.serve.schema import make_schema
from bake.serve.worker import LocalWorker
from bake.settings import Settings
from runtime.job.fields import FIELDS
from runtime.worker import Weights
from tests.samples import make_worker


def test_the_input_of_a_command_line() -> None:
    fields = (
        "steps=20",
        "cfg_scale=6.5",
        "enable_hr=true",
        "seed=7",
        "negative_prompt=5",
        "styles=[]",
    )
    assert make_input("a cat", fields=fields) == {
        "prompt": "a cat",
        "steps": 20,
        "cfg_scale": 6.5,
        "enable_hr": True,
        "seed": 7,
        "negative_prompt": "5",
        "styles": [],
    }
    assert make_input("", fields=("num_inference_steps=3", "prompt=a=b", "width=wide")) == {
        "prompt": "a=b",
        "num_inference_steps": 3,
        "width": "wide",
    }


def test_the_loras_of_a_command_line() -> None:
    loras = (
        "outline",
        "detail 0.8",
        "https://example.com/a/My%20File.safetensors?download=1 -1",
        "135867",
        "urn:air:sdxl:lora:civitai:122359@135867",
    )
    made = make_input("", fields=('loras=[{"name": "first"}]',), loras=loras)["loras"]
    assert made == [
        {"name": "first"},
        {"name": "outline"},
        {"name": "detail", "scale": 0.8},
        {
            "name": "My-File",
            "url": "https://example.com/a/My%20File.safetensors?download=1",
            "scale": -1.0,
        },
        {"name": "civitai-135867", "civitai": "135867"},
        {
            "name": "civitai-urn-air-sdxl-lora-civitai-122359-135867",
            "civitai": "urn:air:sdxl:lora:civitai:122359@135867",
        },
    ]


def test_pictures_of_a_command_line(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    one, other = (base64.b64encode(name).decode() for name in (b"a.png", b"b.png"))
    files = [f"@{tmp_path}/{name}" for name in ("a.png", "b.png")]
    over = (f"init_images={files[0]}", f"init_images={files[1]}", f"mask={files[0]}")
    assert make_input("a cat", fields=over) == {
        "prompt": "a cat",
        "init_images": [one, other],
        "mask": one,
    }
    # What is made larger has no prompt.
    larger = make_input("", fields=(f"image={files[0]}", "upscaler_1=Lanczos"))
    assert larger == {"image": one, "upscaler_1": "Lanczos"}
    by_address = make_input("", fields=("mask=https://x.example/a.png", 'init_images=["1234"]'))
    assert (by_address["mask"], by_address["init_images"]) == (
        "https://x.example/a.png",
        ["1234"],
    )
    with pytest.raises(ManifestError) as caught:
        make_input("", fields=("mask=@nowhere.png",))
    assert (
        str(caught.value) == "--field mask: 'nowhere.png' cannot be read: No such file or directory"
    )


@pytest.mark.parametrize(
    ("fields", "loras", "says"),
    [
        (("steps",), (), "--field: 'steps' is not NAME=VALUE"),
        (("stepz=4",), (), "--field: 'stepz' is no field of a request; did you mean steps?"),
        ((), ("  ",), "--lora: a LoRA has a name, an https address or a CivitAI version"),
        ((), ("detail strong",), "--lora: 'strong' is no strength: 'NAME 0.8'"),
    ],
)
def test_a_command_line_that_is_wrong(
    fields: tuple[str, ...], loras: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        make_input("a cat", fields=fields, loras=loras)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("code", "kind"),
    [("invalid_request", ManifestError), ("lora_refused", ManifestError), ("timeout", VerifyError)],
)
def test_a_problem_of_the_worker(code: str, kind: type[BakeError]) -> None:
    wrong = [{"field": "width", "message": "must be at least 8"}]
    error = read_problem({"code": code, "detail": "the request is wrong", "fields": wrong})
    assert type(error) is kind
    assert str(error) == f"{code}: the request is wrong\n    width: must be at least 8"
    assert read_problem({"code": code, "message": "as a job says it"}).what == "as a job says it"
    assert read_problem({}).what == "the worker gives no reason"


def test_events() -> None:
    lines = [
        b"event: progress",
        b'data: {"progress": 0.5}',
        b"",
        b"event: result",
        b"data: {}",
        b"",
    ]
    assert list(events(iter(lines))) == [("progress", {"progress": 0.5}), ("result", {})]


def test_an_output() -> None:
    about = {
        "output": {"delivery": "base64", "format": "png"},
        "timings": {"total_s": 1.5},
        "notes": ["a note"],
    }
    image = base64.b64encode(b"picture").decode()
    info = json.dumps({"infotexts": ["a cat\nSteps: 4"]})
    drawn = read_output({"images": [image], "info": info, "bakery": about})
    assert (drawn.pictures, drawn.links, drawn.seconds) == ([b"picture"], (), 1.5)
    assert drawn.infotexts == ["a cat\nSteps: 4"]
    about["output"] = {"delivery": "s3", "format": "png"}
    stored = read_output({"images": ["https://x/1.png"], "info": info, "bakery": about})
    assert (stored.pictures, stored.links) == ((), ["https://x/1.png"])


def test_the_output_of_an_upscaling() -> None:
    about = {
        "output": {"delivery": "base64", "format": "png"},
        "timings": {"total_s": 1.5},
        "notes": [],
    }
    image = base64.b64encode(b"picture").decode()
    drawn = read_output({"image": image, "html_info": "<p></p>", "bakery": about})
    assert (drawn.pictures, drawn.infotexts) == ([b"picture"], ())
    about["output"] = {"delivery": "s3", "format": "png"}
    stored = read_output({"image": "https://x/1.png", "html_info": "", "bakery": about})
    assert stored.links == ["https://x/1.png"]


def test_variables_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIVITAI_TOKEN", "abc")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    settings = Settings.from_environment()
    made = make_environment(("BAKERY_ATTEMPTS=1", "OTHER=a=b"), settings)
    assert made == {"CIVITAI_TOKEN": "abc", "BAKERY_ATTEMPTS": "1", "OTHER": "a=b"}
    for text, says in (
        ("secret", "--env: 'secret' is not NAME=VALUE"),
        ("no name=secret", "--env: 'no name=…' is not NAME=VALUE"),
        ("BAKERY_DEVICE=tpu", "--env: BAKERY_DEVICE='tpu': is not one of auto, cuda, cpu"),
    ):
        with pytest.raises(ManifestError) as caught:
            make_environment((text,), settings)
        assert str(caught.value) == says


def test_the_page_is_one_file_and_its_policy_names_what_is_in_it() -> None:
    page = read_page()
    assert not re.findall(
        r"(?:src|href)=[\"'](?:https?:)?//|url\(|@import|\sstyle=|\son[a-z]+=", page
    )
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = content_policy(page)
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_what_the_page_is_made_from() -> None:
    worker = make_worker()
    about = make_about(worker, "registry/x:1")
    assert about["upscalers"] == ["Lanczos", "Nearest"]
    baked = Weights(role="upscaler", name="4x-sharp", path="/x", sha256="0" * 64, size_bytes=1)
    several = dataclasses.replace(worker, weights=(*worker.weights, baked))
    assert make_about(several, "")["upscalers"] == ["4x-sharp", "Lanczos", "Nearest"]
    assert "alwayson_scripts" not in {
        name for name, section in about["sections"].items() if section != "neutral"
    }
    assert about["checkpoints"] == [each.name for each in worker.of_role("checkpoint")]
    properties = make_schema()["properties"]
    assert set(about["sections"]) <= set(properties)
    assert {name for name in properties if name not in about["sections"]} == {
        name for name, each in properties.items() if "type" not in each
    }


def test_what_has_no_use_in_which_request() -> None:
    unused = make_unused()
    names = {each.name for each in FIELDS}
    assert all(set(each) <= names for each in unused.values())
    for name, used in (
        ("prompt", {"txt2img", "txt2img enable_hr", "img2img", "img2img mask"}),
        ("hr_scale", {"txt2img enable_hr"}),
        ("denoising_strength", {"txt2img enable_hr", "img2img", "img2img mask"}),
        ("init_images", {"txt2img", "txt2img enable_hr", "img2img", "img2img mask"}),
        ("mask", {"img2img", "img2img mask"}),
        ("mask_blur", {"img2img mask"}),
        ("enable_hr", {"txt2img", "txt2img enable_hr"}),
        ("resize_mode", {"img2img", "img2img mask", "extra-single-image"}),
        ("image", {"txt2img", "txt2img enable_hr", "extra-single-image"}),
        ("upscaler_1", {"extra-single-image"}),
        ("image_format", set(unused)),
    ):
        assert {kind for kind in unused if name not in unused[kind]} == used, name


def test_a_worker_that_got_ready_while_this_machine_stood_still_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pings, over = [204, 200], threading.Event()
    clock = SimpleNamespace(monotonic=lambda: 3600.0 * (2 - len(pings)))
    monkeypatch.setattr("bake.serve.worker.time", clock)
    monkeypatch.setattr(LocalWorker, "ping", lambda _: pings.pop(0))

    def logs(**_: object) -> list[bytes]:
        over.wait(300)
        return []

    container: Any = SimpleNamespace(logs=logs, wait=lambda timeout: {"StatusCode": 0})
    worker = LocalWorker(container, port=1, device="cpu", console=Console(quiet=True))
    try:
        worker.wait_until_ready(60)  # an hour has passed after the first look
    finally:
        over.set()
    assert pings == []
