"""Which steps run again after an edit of each file of the tree: a copy is edited, file by file."""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AFTER = {
    "base": ["warmup"],
    "warmup": ["assemble"],
    "environment": ["assemble"],
    "runtime": ["assemble"],
    "assemble": ["load", "verify"],
}
"""Which steps hold the key of which."""
NOTHING = ""
EXPECTED = {
    # what images are built from
    "Dockerfile.base": "base",
    "Dockerfile.final": "environment runtime",
    "requirements/torch.txt": "base",
    "requirements/webui.txt": "base",
    "requirements/xformers.txt": "base",
    "requirements/runtime.txt": "environment",
    # how the base is built
    "bake/image/build/base.py": "base",
    "bake/image/build/dockerfile.py": "base",
    "bake/image/build/wheel.py": "base",
    "bake/image/engine/buildx.py": "base environment runtime",
    # what the warm-up executes, on both sides
    "bake/image/build/warmup.py": "warmup",
    "bake/image/build/warmup_inside.py": "warmup",
    "bake/image/build/picture.py": "warmup verify",
    "bake/steps/warmup.py": "warmup",
    "runtime/worker.py": "warmup environment runtime assemble verify",
    "runtime/clock.py": "warmup runtime",
    "runtime/webui/client.py": "warmup runtime",
    "runtime/webui/process.py": "warmup runtime",
    "runtime/*/__init__.py": "runtime",  # docstrings, and what the warm-up does not import
    "runtime/boot/**": "warmup runtime",
    "runtime/**": "runtime",
    "bake/*/__init__.py": NOTHING,  # docstrings
    # layers, and how they become an image
    "bake/image/build/thin.py": "environment runtime assemble",
    "bake/steps/thin.py": "environment runtime",
    "bake/image/oci/layers.py": "environment runtime assemble verify",
    "bake/image/oci/model.py": "environment runtime assemble verify",
    "bake/image/oci/parse.py": "assemble verify",
    "bake/image/oci/saved.py": "assemble verify",
    "bake/image/oci/streams.py": "assemble verify",
    "bake/image/oci/layout.py": "assemble",
    "bake/image/oci/reference.py": "assemble",
    "bake/image/final/assemble.py": "assemble verify",
    "bake/image/final/inspect.py": NOTHING,
    "bake/image/final/**": "assemble",
    "bake/image/source.py": "assemble",
    "bake/image/engine/archive.py": "assemble verify",
    "bake/image/engine/probe.py": "assemble",
    "bake/steps/assemble.py": "assemble",
    "bake/steps/worker.py": "assemble",
    "bake/__init__.py": "assemble",  # the version is written into the image
    # how it is looked at
    "bake/image/verify/**": "verify",
    "bake/steps/verify.py": "verify",
    # all else talks, decides, or moves bytes by their digests
    "**": NOTHING,
}
"""The steps whose own document changes, by the first pattern that fits; what stands on them follows."""
PLAN = """
import json, sys
from pathlib import Path
from bake.image.build.base import plan_base
from bake.lock import Lock, Pin
from bake.manifest.load import parse_manifest
from bake.pipeline import STEPS
from bake.plan.plan import plan_bake
from bake.plan.state import Record
from bake.plan.step import Options, Situation
from bake.settings import Settings

TEXT = '''
name: a-model
family: sd1
gpu: rtx-6000-ada
checkpoint: civitai:1
warmup: {prompt: a red circle}
image: ghcr.io/you/a-model
'''

def plan(records):
    manifest = parse_manifest(TEXT, Path("a-model.yaml"))
    pin = Pin(key="checkpoint", role="checkpoint", name="a", source="civitai:1",
              file_name="a.safetensors", size_bytes=1, sha256="a" * 64, url="")
    return plan_bake(STEPS, Situation(
        manifest=manifest, lock=Lock(manifest_name="a-model", family="sd1", pins=(pin,)),
        options=Options(build_args={}), base=plan_base(manifest, build_args={}, settings=Settings()).document,
        record=records.get, exists=lambda name, result: True, missing_pins=()))
"""
"""Defines `plan(records)`, for a process whose `bake` is another one than ours."""
SCRIPT = f"""
{PLAN}
records = {{step.name: Record(document=dict(step.document), result={{}}) for step in plan({{}}).steps}}
answer = {{}}
for name in json.loads(sys.argv[1]):
    path = Path(name)
    before = path.read_bytes()
    path.write_bytes(before + b"\\n# edited\\n")
    answer[name] = {{step.name: step.why for step in plan(records).steps if step.runs}}
    path.write_bytes(before)
assert not any(step.runs for step in plan(records).steps)
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A copy of what the program is made of, and the names of its files."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in ("bake", "runtime", "requirements"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("Dockerfile.*"):
        shutil.copy(path, copy)
    names = [path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()]
    return copy, sorted(names)


def run_again(copy: Path, names: list[str]) -> dict[str, dict[str, str]]:
    """For each file, the steps that run after an edit of it, and why."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(names)],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    answer: dict[str, dict[str, str]] = json.loads(ended.stdout)
    return answer


def expected(name: str) -> set[str]:
    pattern = next(each for each in EXPECTED if fnmatch.fnmatch(name, each))
    steps, waiting = set(), EXPECTED[pattern].split()
    while waiting:
        step = waiting.pop()
        steps.add(step)
        waiting += AFTER.get(step, [])
    return steps


def test_an_edit_of_each_file_runs_exactly_the_right_steps_again(
    files: tuple[Path, list[str]],
) -> None:
    copy, names = files
    found = run_again(copy, names)
    wrong = {
        name: f"{sorted(ran)}, not {sorted(expected(name))}"
        for name, ran in found.items()
        if set(ran) != expected(name)
    }
    assert wrong == {}, "if these are the right steps, say so in EXPECTED"


def test_the_edited_file_is_named_with_both_hashes(files: tuple[Path, list[str]]) -> None:
    copy, _ = files
    name = "runtime/webui/process.py"
    assert run_again(copy, [name])[name]["warmup"].startswith(f"{name} changed (")


def test_every_pattern_is_of_a_file(files: tuple[Path, list[str]]) -> None:
    _, names = files
    unused = [each for each in EXPECTED if not fnmatch.filter(names, each)]
    assert unused == []
