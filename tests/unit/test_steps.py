"""Steps at work: what is recorded, what a failed one leaves, what the engine and the registry get."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bake.console import Console
from bake.errors import BuildError
from bake.image.build.base import BasePlan
from bake.image.prune import NAMED
from bake.image.registry.push import PushReport
from bake.manifest.load import parse_manifest
from bake.plan.plan import Plan
from bake.plan.state import BuildFolder
from bake.plan.step import Options
from bake.settings import Settings
from bake.steps import load, push
from bake.steps.load import load_into_engine, reference_of
from bake.steps.push import push_to_registry
from bake.steps.run import Context, Run
from tests.unit.test_assemble import make_image
from tests.unit.test_plan import BASE, LOCK, TEXT, plan_with, records_of

IMAGE = make_image()
NAMED_BY_CONTENT = f"ghcr.io/you/example:{IMAGE.digest[7:19]}"


def make_run(folder: Path, plan: Plan | None = None, *, text: str = TEXT, **options: Any) -> Run:
    chosen = Options(build_args={}, **options)
    context = Context(
        manifest=parse_manifest(text, Path("example.yaml")),
        options=chosen,
        settings=Settings(),
        console=Console(quiet=True),
        folder=BuildFolder(folder),
    )
    engine: Any = SimpleNamespace()
    base = BasePlan(document=BASE, build_args={})
    plan = plan or plan_with(text=text, options=chosen)
    return Run(context=context, lock=LOCK, engine=engine, base=base, plan=plan)


def test_a_step_that_has_run_is_recorded_with_its_document_and_its_time(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert run.step("load", lambda: {"id": "1"}) == {"id": "1"}
    record = run.context.folder.record("load")
    assert record is not None
    assert (record.document, record.result) == (run.plan.step("load").document, {"id": "1"})
    assert set(run.seconds) == {"load"}


def test_a_step_that_need_not_run_gives_what_is_recorded(tmp_path: Path) -> None:
    def never() -> Mapping[str, Any]:
        raise AssertionError("it ran")

    plan = plan_with(records_of(plan_with()))
    assert not plan.step("load").runs
    run = make_run(tmp_path, plan)
    assert run.step("load", never) == {}
    run.context.folder.write_record("load", plan.step("load").document, {"id": "1"})
    assert run.step("load", never) == {"id": "1"}
    assert run.seconds == {}


def test_what_is_being_replaced_is_not_taken_for_what_was_recorded(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.context.folder.write_record("load", {"of": "an earlier bake"}, {"id": "0"})
    seen = []

    def fail() -> Mapping[str, Any]:
        seen.append(run.context.folder.record("load"))
        raise BuildError("the engine's disk is full")

    with pytest.raises(BuildError):
        run.step("load", fail)
    assert seen == [None]
    assert run.context.folder.record("load") is None
    assert run.seconds == {}


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ("ghcr.io/you/example", NAMED_BY_CONTENT),
        ("127.0.0.1:5005/example", f"127.0.0.1:5005/example:{IMAGE.digest[7:19]}"),
        ("ghcr.io/you/example:v2", "ghcr.io/you/example:v2"),
        ("127.0.0.1:5005/example:v2", "127.0.0.1:5005/example:v2"),
    ],
)
def test_an_image_without_a_tag_is_named_by_its_content(image: str, reference: str) -> None:
    text = TEXT.replace("ghcr.io/you/example", image)
    assert reference_of(parse_manifest(text, Path("example.yaml")), IMAGE) == reference


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The references that an engine was given."""
    given: list[str] = []

    def load_image(_image: object, _engine: object, reference: str) -> str:
        given.append(reference)
        return f"sha256:{len(given)}"

    monkeypatch.setattr(load, "load_image", load_image)
    return given


def test_names_made_up_for_a_folder_are_kept_for_prune(tmp_path: Path, loaded: list[str]) -> None:
    run = make_run(tmp_path)
    earlier = {"ghcr.io/you/example:0123456789ab": "sha256:0"}
    run.context.folder.write_record("load", {}, {"id": "x", "reference": "y", NAMED: earlier})
    assert load_into_engine(run, IMAGE) == NAMED_BY_CONTENT
    record = run.context.folder.record("load")
    assert record is not None
    assert record.result == {
        "id": "sha256:1",
        "reference": NAMED_BY_CONTENT,
        NAMED: {**earlier, NAMED_BY_CONTENT: "sha256:1"},
    }


def test_a_tag_of_the_authors_is_not_made_up(tmp_path: Path, loaded: list[str]) -> None:
    text = TEXT.replace("you/example", "you/example:v2")
    run = make_run(tmp_path, text=text)
    assert load_into_engine(run, IMAGE) == "ghcr.io/you/example:v2"
    record = run.context.folder.record("load")
    assert record is not None
    assert record.result[NAMED] == {}


def test_an_engine_that_is_not_to_have_it_is_given_nothing(
    tmp_path: Path, loaded: list[str]
) -> None:
    run = make_run(tmp_path, load=False)
    assert load_into_engine(run, IMAGE) == NAMED_BY_CONTENT
    assert loaded == []
    assert run.context.folder.record("load") is None


def test_a_push_warns_of_licences_and_records_what_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = PushReport(
        reference=NAMED_BY_CONTENT,
        digest=IMAGE.digest,
        assembled=IMAGE.digest,
        layers=(),
        sent_bytes=7,
        seconds=1.0,
    )
    sent = []

    def push_image(image: object, reference: str, *, console: Console) -> PushReport:
        sent.append((image, reference))
        return report

    monkeypatch.setattr(push, "push_image", push_image)
    run = make_run(tmp_path, push=True)
    assert push_to_registry(run, IMAGE) == report.as_json()
    assert sent == [(IMAGE, NAMED_BY_CONTENT)]
    record = run.context.folder.record("push")
    assert record is not None
    assert record.document["repository"] == "ghcr.io/you/example"
    assert record.result["sent_bytes"] == 7
    assert "no licence is known" in capsys.readouterr().err
