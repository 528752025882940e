"""Which steps run again after an edit of each file of the tree, as if it were edited: file by file."""

import fnmatch
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import pytest

from bake.plan.state import Record
from tests.a_plan import a_plan

ROOT = Path(__file__).parents[2]
AFTER = {
    "base": ["extensions", "warmup"],
    "extensions": ["warmup", "assemble"],
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
    "Dockerfile.final": "extensions environment runtime",
    "requirements/imports.py": "base",
    "requirements/slim.py": "base",
    "requirements/torch.txt": "base",
    "requirements/webui.txt": "base",
    "requirements/xformers.txt": "base",
    "requirements/runtime.txt": "environment",
    "requirements/trim-runtime": "environment",
    # how the base is built
    "bake/image/build/base.py": "base",
    "bake/image/build/dockerfile.py": "base",
    "bake/image/build/wheel.py": "base",
    "bake/image/engine/buildx.py": "base extensions environment runtime",
    # what the warm-up executes, on both sides
    "bake/image/build/warmup.py": "warmup",
    "bake/image/build/warmup_inside.py": "warmup",
    "bake/image/build/picture.py": "warmup verify",
    "bake/steps/warmup.py": "warmup",
    "runtime/worker.py": "extensions warmup environment runtime assemble verify",
    "runtime/clock.py": "warmup runtime",
    "runtime/webui/client.py": "warmup runtime",
    "runtime/webui/process.py": "warmup runtime",
    "runtime/*/__init__.py": "runtime",  # docstrings, and what the warm-up does not import
    "runtime/boot/**": "warmup runtime",
    "runtime/**": "runtime",
    "bake/*/__init__.py": NOTHING,  # docstrings
    # layers, and how they become an image
    "bake/image/build/thin.py": "extensions environment runtime assemble",
    "bake/extensions/requirements.py": "extensions",
    "bake/extensions/tree.py": "extensions",
    "bake/steps/extensions.py": "extensions",
    "bake/image/final/packages.py": "extensions assemble",
    "bake/steps/thin.py": "environment runtime",
    "bake/image/oci/layers.py": "extensions environment runtime assemble verify",
    "bake/image/oci/model.py": "extensions environment runtime assemble verify",
    "bake/image/oci/parse.py": "assemble verify",
    "bake/image/saved.py": "assemble verify",
    "bake/image/oci/streams.py": "extensions assemble verify",
    "bake/image/oci/reference.py": "assemble",
    "bake/image/final/assemble.py": "assemble verify",
    "bake/image/final/inspect.py": NOTHING,
    "bake/image/final/**": "assemble",
    "bake/image/source.py": "assemble",
    "bake/image/engine/archive.py": "assemble verify",
    "bake/image/engine/device.py": "warmup",
    "bake/image/engine/probe.py": "assemble",
    "bake/steps/assemble.py": "assemble",
    "bake/steps/worker.py": "assemble",
    "bake/__init__.py": "assemble",  # the version is written into the image
    # how it is looked at
    "bake/image/verify/**": "verify",
    "bake/steps/verify.py": "verify",
    "bake/secrets.py": "verify",
    # all else talks, decides, or moves bytes by their digests
    "**": NOTHING,
}
"""The steps whose own document changes, by the first pattern that fits; what stands on them follows."""
PATTERNS = ("Dockerfile.*", "bake/**/*", "runtime/**/*", "requirements/**/*")
NAMES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in PATTERNS
    for path in ROOT.glob(pattern)
    if path.is_file() and "__pycache__" not in path.parts
)
"""All that the program is made of."""


@pytest.fixture
def edits(monkeypatch: pytest.MonkeyPatch) -> dict[Path, bytes]:
    """What reading a file gives in place of its bytes; nothing is written anywhere."""
    instead: dict[Path, bytes] = {}
    as_it_is = cache(Path.read_bytes)

    def read_bytes(path: Path) -> bytes:
        return instead[path] if path in instead else as_it_is(path)

    def read_text(path: Path, encoding: str | None = None, errors: str | None = None) -> str:
        return read_bytes(path).decode(encoding or "utf-8", errors or "strict")

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(Path, "read_text", read_text)
    return instead


def run_again(edits: dict[Path, bytes], groups: Iterable[Sequence[str]]) -> list[dict[str, str]]:
    """For each group of files, the steps that run after an edit of them all, and why."""
    records: dict[str, Record] = {
        step.name: Record(document=dict(step.document), result={}) for step in a_plan({}).steps
    }
    found: list[dict[str, str]] = []
    for names in groups:
        for name in names:
            edits[ROOT / name] = (ROOT / name).read_bytes() + b"\n# edited\n"
        found.append({step.name: step.why for step in a_plan(records).steps if step.runs})
        edits.clear()
    assert not any(step.runs for step in a_plan(records).steps)
    return found


def expected(name: str) -> set[str]:
    pattern = next(each for each in EXPECTED if fnmatch.fnmatch(name, each))
    steps, waiting = set(), EXPECTED[pattern].split()
    while waiting:
        step = waiting.pop()
        steps.add(step)
        waiting += AFTER.get(step, [])
    return steps


def test_an_edit_of_each_file_runs_exactly_the_right_steps_again(edits: dict[Path, bytes]) -> None:
    names = [name for name in NAMES if expected(name)]
    wrong = {
        name: f"{sorted(ran)}, not {sorted(expected(name))}"
        for name, ran in zip(names, run_again(edits, [[name] for name in names]), strict=True)
        if set(ran) != expected(name)
    }
    assert wrong == {}, "if these are the right steps, say so in EXPECTED"


def test_an_edit_of_all_other_files_runs_nothing_again(edits: dict[Path, bytes]) -> None:
    others = [name for name in NAMES if not expected(name)]
    assert len(others) > 100
    assert run_again(edits, [others]) == [{}], "say in EXPECTED which step a file shapes"


def test_the_edited_file_is_named_with_both_hashes(edits: dict[Path, bytes]) -> None:
    name = "runtime/webui/process.py"
    (why,) = run_again(edits, [[name]])
    assert why["warmup"].startswith(f"{name} changed (")


def test_every_pattern_is_of_a_file() -> None:
    unused = [each for each in EXPECTED if not fnmatch.filter(NAMES, each)]
    assert unused == []
