"""What is published of the worker is what it does: no page and no schema is stale."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from runtime.job.fields import FIELDS
from tests.unit.test_request import OFFICIAL_README, SEED_PROJECT, WEBUIAPI

DOCS = Path(__file__).parents[2] / "docs"


def load_reference() -> Any:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_written_file_is_stale() -> None:
    for path, text in load_reference().make_files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: make schema"


def test_the_schema_has_every_field_and_allows_no_other() -> None:
    schema = json.loads((DOCS / "request.schema.json").read_text(encoding="utf-8"))
    assert set(schema["properties"]) == {field.name for field in FIELDS}
    assert schema["additionalProperties"] is False
    for request in (OFFICIAL_README, WEBUIAPI, SEED_PROJECT):
        assert set(request) <= set(schema["properties"])
    assert schema["properties"]["steps"] == {
        "description": "sampling steps",
        "type": "integer",
        "default": 50,
        "minimum": 1,
        "maximum": 150,
    }
    assert schema["properties"]["script_name"]["enum"] == [None, ""]
    assert schema["properties"]["styles"]["type"] == ["array", "null"]


def test_the_workers_environment_holds_nothing_that_only_a_build_needs_or_that_is_left_out() -> (
    None
):
    folder = DOCS.parent / "requirements"
    text = (folder / "runtime.txt").read_text(encoding="utf-8")
    names = set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))
    assert {"runpod", "requests", "pillow", "boto3", "fastapi", "uvicorn"} <= names
    unwanted = {"torch", "numpy", "setuptools", "wheel", "pip", "cython", "pytest", "docker"}
    assert names & unwanted == set()
    assert "runpod==1.12.0 " in text
    groups = (folder / "runtime-left-out.txt").read_text(encoding="utf-8").strip().split("\n\n")
    for group in groups[1:]:
        reason = [line for line in group.splitlines() if line.startswith("# ")]
        left_out = [line for line in group.splitlines() if not line.startswith("#")]
        assert reason, f"{left_out} are left out for no reason"
        assert left_out == sorted(left_out)
        assert names & set(left_out) == set()
