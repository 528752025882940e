"""A bake up to the point where it needs an engine, and its report: pinned, planned, fetched, told."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from bake.console import Console
from bake.errors import ManifestError, SourceError
from bake.lock import Lock, lock_path
from bake.manifest.load import parse_manifest
from bake.pipeline import pin_sources, plan_run, sha256s
from bake.plan.state import BuildFolder
from bake.plan.step import Options
from bake.report.record import EARLIER, find_report
from bake.settings import Settings
from bake.steps.fetch import fetch_weights
from bake.steps.report import write_report
from bake.steps.run import Context, Run
from tests.report_case import make_report
from tests.samples import make_worker
from tests.standins import models
from tests.unit.test_assemble import make_image

TEXT = """\
name: example
family: sdxl
gpu: rtx-6000-ada
checkpoint: file:model.safetensors
loras: {detail: "file:lora.safetensors"}
warmup: {prompt: a red circle}
image: ghcr.io/you/example
"""
WEIGHTS = {
    "model": models.safetensors(models.SDXL, seed=1),
    "lora": models.safetensors(models.LORA_SDXL),
}


def make_context(folder: Path, **options: Any) -> Context:
    """A folder with a manifest and its weights."""
    path = folder / "example.yaml"
    path.write_text(TEXT)
    for name, content in WEIGHTS.items():
        (folder / f"{name}.safetensors").write_bytes(content)
    return Context(
        manifest=parse_manifest(TEXT, path),
        options=Options(build_args={}, **options),
        settings=Settings(store=folder / "store", cache=folder / "cache"),
        console=Console(as_json=True),
        folder=BuildFolder(folder / "build" / "example"),
    )


def begin(context: Context, lock: Lock) -> Run:
    engine: Any = SimpleNamespace()
    return plan_run(context, lock, engine)


def test_the_first_bake_writes_the_lock_and_a_later_one_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = make_context(tmp_path)
    with pytest.raises(ManifestError, match="the manifest is not locked yet"):
        pin_sources(context, locked=True)
    assert not lock_path(context.manifest.path).exists()
    lock = pin_sources(context, locked=False)
    written = lock_path(context.manifest.path).read_bytes()
    assert [pin.key for pin in lock.pins] == ["checkpoint", "loras.detail"]
    assert sha256s(lock) == [pin.sha256 for pin in lock.pins]
    capsys.readouterr()
    for locked in (False, True):
        assert pin_sources(context, locked=locked) == lock
        event = json.loads(capsys.readouterr().out)
        assert (event["event"], event["step"]) == ("step.skipped", "lock")
        assert event["why"].endswith("example.lock.json fits the manifest")
    assert lock_path(context.manifest.path).read_bytes() == written


def test_a_lock_of_another_manifest_is_no_lock_of_this_one(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    path = lock_path(context.manifest.path)
    pin_sources(context, locked=False)
    before = path.read_bytes().replace(b"file:lora.safetensors", b"file:else.safetensors")
    path.write_bytes(before)
    with pytest.raises(ManifestError, match="lock"):
        pin_sources(context, locked=False)
    assert path.read_bytes() == before, "who baked with it is asked, not overruled"


def test_what_the_store_lacks_is_fetched_and_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = make_context(tmp_path)
    lock = pin_sources(context, locked=False)
    run = begin(context, lock)
    assert not run.plan.step("fetch").runs, "what has no published digest is in the store by now"
    gone = context.store.path_of(lock.pins[1].sha256)
    gone.unlink()
    run = begin(context, lock)
    assert run.plan.step("fetch").why == "the store lacks loras.detail"
    capsys.readouterr()
    fetch_weights(run)
    assert gone.read_bytes() == WEIGHTS["lora"]
    assert set(run.seconds) == {"fetch"}
    # Of what stands in it the file is warned of at each bake, not only when it comes.
    first = [line for line in capsys.readouterr().out.splitlines() if '"warning"' in line]
    fetch_weights(begin(context, lock))
    assert [line for line in capsys.readouterr().out.splitlines() if '"warning"' in line] == first


def test_a_source_that_has_changed_fetches_nothing(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    lock = pin_sources(context, locked=False)
    context.store.path_of(lock.pins[0].sha256).unlink()
    (tmp_path / "model.safetensors").write_bytes(models.safetensors(models.SDXL, seed=2))
    with pytest.raises(SourceError, match="SHA256"):
        fetch_weights(begin(context, lock))
    assert not context.store.has(lock.pins[0].sha256)


def report(run: Run, *, harvest: str = "own") -> Path:
    return write_report(
        run,
        make_worker(),
        make_image(),
        reference="ghcr.io/you/example:1",
        warmup=make_report()["warmup"] if harvest == "own" else {"harvest": harvest},
        verdict={"checks": [], "verdict": "good"},
        pushed=None,
    )


def png(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


def test_a_report_says_what_was_baked_of_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    context = make_context(tmp_path)
    run = begin(context, pin_sources(context, locked=False))
    run.seconds["warmup"] = 1.5
    folder = context.folder.root
    folder.mkdir(parents=True)
    (folder / "picture.png").write_bytes(png("red"))
    path = report(run)
    data = json.loads(path.read_text())
    assert (data["name"], data["digest"]) == ("sample", make_image().digest)
    assert data["build_dir"] is None, "it is the default"
    assert {step["step"]: step["seconds"] for step in data["steps"]}["warmup"] == 1.5
    assert [each["key"] for each in data["pins"]] == ["checkpoint", "loras.detail"]
    assert data["request"]["prompt"] == "a red circle"
    assert data["push"] is None
    found = find_report(folder)
    assert found is not None
    assert found.picture == png("red")
    assert "data:image/png" in (folder / "report.html").read_text()
    # Without a picture of its own it shows none, and the one before is kept beside it.
    report(run, harvest="reused")
    assert "data:image/png" not in (folder / "report.html").read_text().split("earlier")[0]
    assert not (folder / "report.png").exists()
    assert (folder / EARLIER / "report.png").read_bytes() == png("red")


@pytest.mark.parametrize(("here", "said"), [(".", "elsewhere"), ("other", None)])
def test_a_folder_of_ones_own_is_named_as_the_command_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, said: str | None
) -> None:
    (tmp_path / "other").mkdir()
    context = make_context(tmp_path)
    folder = BuildFolder(tmp_path / "elsewhere" / "example")
    monkeypatch.chdir(tmp_path / here)
    run = begin(context, pin_sources(context, locked=False))
    moved: Any = Context(**{**vars(context), "folder": folder})
    run = Run(**{**vars(run), "context": moved})
    data = json.loads(report(run, harvest="none").read_text())
    assert data["build_dir"] == (said or str(tmp_path / "elsewhere"))
