"""The plan of a small manifest, which needs neither weights nor an engine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from bake.image.build.base import plan_base
from bake.lock import ExtensionPin, Lock, Pin
from bake.manifest.load import parse_manifest
from bake.manifest.model import Manifest
from bake.pipeline import STEPS
from bake.plan.plan import Plan, plan_bake
from bake.plan.state import Record
from bake.plan.step import Options, Situation
from bake.settings import Settings

TEXT = """\
name: a-model
family: sd1
gpu: rtx-6000-ada
checkpoint: civitai:1
extensions: [{url: "https://example.com/tint", commit: 012345678901234567890123456789012345678a}]
warmup: {prompt: a red circle}
image: ghcr.io/you/a-model
"""
PIN = Pin(
    key="checkpoint",
    role="checkpoint",
    name="a",
    source="civitai:1",
    file_name="a.safetensors",
    size_bytes=1,
    sha256="a" * 64,
    url="",
)
EXTENSION = ExtensionPin(
    name="tint",
    url="https://example.com/tint",
    commit="012345678901234567890123456789012345678a",
    sha256="b" * 64,
    size_bytes=1,
    files_sha256="c" * 64,
    resolved_on="2026-01-01",
)


@cache
def _manifest() -> Manifest:
    return parse_manifest(TEXT, Path("a-model.yaml"))


def a_plan(records: Mapping[str, Record]) -> Plan:
    """What would run after steps whose documents are these, all of whose results are there."""
    manifest = _manifest()
    return plan_bake(
        STEPS,
        Situation(
            manifest=manifest,
            lock=Lock(manifest_name="a-model", family="sd1", pins=(PIN,), extensions=(EXTENSION,)),
            options=Options(build_args={}),
            base=plan_base(manifest, build_args={}, settings=Settings()).document,
            record=records.get,
            exists=lambda _name, _result: True,
            missing_pins=(),
        ),
    )
