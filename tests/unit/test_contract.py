"""The base contract's labels, and the worker file that is made from them."""

from dataclasses import replace

import pytest

from bake.errors import BuildError
from bake.image.build.contract import read_contract
from runtime.worker import Weights, Worker

LABELS = {
    "bakery.contract": "1",
    "bakery.webui.name": "webui",
    "bakery.webui.version": "1.9.3",
    "bakery.webui.revision": "1c0a0c4c",
    "bakery.webui.directory": "/opt/webui",
    "bakery.webui.python": "/opt/webui/venv/bin/python",
    "bakery.webui.script": "/opt/webui/launch.py",
    "bakery.webui.args": '["--port", "3000"]',
    "bakery.webui.args.cpu": '["--use-cpu", "all"]',
    "bakery.webui.port": "3000",
    "bakery.path.checkpoint": "/c",
    "bakery.path.vae": "/v",
    "bakery.path.lora": "/l",
    "bakery.path.config": "/opt/webui/config.json",
}


def make_worker() -> Worker:
    weights = Weights(
        role="checkpoint", name="x", path="/c/x.safetensors", sha256="0" * 64, size_bytes=1
    )
    return Worker(
        name="demo",
        family="demo",
        webui=read_contract(LABELS, where="base"),
        weights=(weights,),
        args=("--a",),
    )


def test_the_command_starts_the_script_under_boot_with_the_device_s_arguments() -> None:
    assert make_worker().command("cpu") == [
        "/opt/webui/venv/bin/python", "-m", "runtime.boot", "/opt/webui/launch.py",
        "--port", "3000", "--use-cpu", "all", "--a", "--ckpt", "/c/x.safetensors",
    ]  # fmt: skip
    assert make_worker().command("cuda", boot=False)[:2] == [
        "/opt/webui/venv/bin/python",
        "/opt/webui/launch.py",
    ]
    assert "--use-cpu" not in make_worker().command("cuda")


def test_a_cpu_draws_without_xformers_which_has_nothing_for_it() -> None:
    worker = replace(make_worker(), args=("--xformers", "--no-half-vae"))
    assert {"--xformers", "--no-half-vae"} <= set(worker.command("cuda"))
    assert "--xformers" not in worker.command("cpu")
    assert "--no-half-vae" in worker.command("cpu")


def test_the_worker_file_is_the_same_bytes_after_a_round_trip() -> None:
    text = make_worker().to_json()
    assert Worker.from_json(text).to_json() == text


def test_another_contract_version_is_refused() -> None:
    text = make_worker().to_json().replace('"contract": 1', '"contract": 2')
    with pytest.raises(ValueError, match="has contract 2, this runtime speaks 1"):
        Worker.from_json(text)


def test_all_wrong_labels_are_named_at_once() -> None:
    labels = LABELS | {
        "bakery.webui.port": "x",
        "bakery.webui.args": "--port",
        "bakery.contract": "9",
    }
    del labels["bakery.path.lora"]
    with pytest.raises(BuildError) as caught:
        read_contract(labels, where="some/base")
    for part in (
        "contract is '9'",
        "path.lora is missing",
        "args is not a JSON list",
        "port is 'x'",
        "some/base",
    ):
        assert part in str(caught.value)
