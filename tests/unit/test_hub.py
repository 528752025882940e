"""What `.runpod/` says to RunPod's Hub, against the keys that its guide documents and against the worker itself."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bake.manifest.deploy import Deploy
from bake.manifest.gpus import find_gpu
from runtime.errors import JobError
from runtime.job.fields import limits_of
from runtime.job.request import parse_request
from runtime.settings import Settings
from tests.samples import NAMES, make_worker

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".runpod"
HUB = json.loads((FOLDER / "hub.json").read_text(encoding="utf-8"))
TESTS = json.loads((FOLDER / "tests.json").read_text(encoding="utf-8"))
REFUSALS = json.loads((FOLDER / "refusals.json").read_text(encoding="utf-8"))
VARIABLES = {each.metadata["variable"]: each for each in dataclasses.fields(Settings)}
CARD = find_gpu("rtx-6000-ada")


def test_everything_that_a_listing_needs_is_there() -> None:
    for name in ("hub.json", "tests.json", "Dockerfile", "handler.py", "README.md"):
        assert (FOLDER / name).is_file()


def test_only_documented_keys() -> None:
    assert set(HUB) <= {"title", "description", "type", "category", "iconUrl", "config"}
    assert (HUB["type"], HUB["category"]) == ("serverless", "image")
    assert set(HUB["config"]) <= {
        "runsOn", "containerDiskInGb", "gpuCount", "gpuIds", "allowedCudaVersions", "presets", "env", "endpointType",
    }  # fmt: skip
    for each in HUB["config"]["presets"]:
        assert set(each) == {"name", "defaults"}
    for each in HUB["config"]["env"]:
        assert set(each) == {"key", "input"}
        assert set(each["input"]) <= {
            "type",
            "name",
            "description",
            "default",
            "advanced",
            "options",
        }
        assert each["input"]["type"] in {"string", "number", "boolean"}
    assert set(TESTS) == {"tests", "config"}
    for each in TESTS["tests"]:
        assert set(each) == {"name", "input", "timeout"}
    assert set(TESTS["config"]) <= {"gpuTypeId", "gpuCount", "allowedCudaVersions", "env"}


def test_the_cards_are_those_that_the_image_is_compiled_for() -> None:
    assert HUB["config"]["gpuIds"] == CARD.pool == "ADA_48_PRO"
    assert TESTS["config"]["gpuTypeId"] == CARD.runpod_type
    lowest = [int(part) for part in Deploy().cuda.split(".")]
    for config in (HUB["config"], TESTS["config"]):
        versions = [
            [int(part) for part in each.split(".")] for each in config["allowedCudaVersions"]
        ]
        assert min(versions) == lowest


def as_text(value: Any) -> str:
    return str(value)


def test_variables_are_the_workers_with_its_own_defaults() -> None:
    for each in HUB["config"]["env"]:
        variable = VARIABLES[each["key"]]
        given = Settings.from_environment({each["key"]: as_text(each["input"]["default"])})
        assert getattr(given, variable.name) == variable.default
        options = [option["value"] for option in each["input"].get("options", ())]
        assert tuple(options) == tuple(variable.metadata["choices"])


@pytest.mark.parametrize("preset", HUB["config"]["presets"], ids=lambda each: each["name"])
def test_presets_start_the_worker(preset: dict[str, Any]) -> None:
    assert set(preset["defaults"]) <= {each["key"] for each in HUB["config"]["env"]}
    Settings.from_environment({key: as_text(value) for key, value in preset["defaults"].items()})


def check(value: Any) -> Any:
    return parse_request(value, worker=make_worker(), names=NAMES, limits=limits_of({}, {}))


@pytest.mark.parametrize("case", TESTS["tests"], ids=lambda each: each["name"])
def test_the_tests_are_requests_that_the_worker_takes(case: dict[str, Any]) -> None:
    request = check(case["input"])
    assert request.images == case["input"].get("batch_size", 1) * case["input"].get("n_iter", 1)
    assert 10_000 <= case["timeout"] <= 600_000


def test_they_cover_what_the_worker_is_for() -> None:
    inputs = [each["input"] for each in TESTS["tests"]]
    assert any(each.get("loras") for each in inputs)
    assert any(each.get("batch_size", 1) > 1 for each in inputs)
    assert max(map(len, inputs)) >= 15


@pytest.mark.parametrize("case", REFUSALS["refusals"], ids=lambda each: each["name"])
def test_what_must_be_refused_is(case: dict[str, Any]) -> None:
    with pytest.raises(JobError) as caught:
        check(case["input"])
    assert caught.value.code == "invalid_request"
    fields = {each.field for each in caught.value.fields}
    assert fields == set(case["fields"])


def test_the_dockerfile_starts_from_a_digest_and_builds_nothing() -> None:
    lines = (FOLDER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line and not line.startswith("#")]
    assert len(code) == 1
    assert re.fullmatch(r"FROM [a-z0-9.-]+(?::\d+)?/\S+@sha256:[0-9a-f]{64}", code[0])


def test_a_release_writes_its_digest(tmp_path: Path) -> None:
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod/Dockerfile").write_bytes((FOLDER / "Dockerfile").read_bytes())
    image = f"ghcr.io/you/other@sha256:{'a' * 64}"
    command = ["make", "-s", "-f", str(ROOT / "Makefile"), "hub", f"IMAGE={image}"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert f"FROM {image}\n" in (tmp_path / ".runpod/Dockerfile").read_text()
    command[-1] = "IMAGE=ghcr.io/you/other:latest"
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "by digest" in refused.stderr
