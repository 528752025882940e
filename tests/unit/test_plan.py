"""What runs, what is skipped, and why."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bake.image.oci.model import GZIP_LAYER, RAW_LAYER, Descriptor, Layer, LayerKind, sha256_digest
from bake.lock import ExtensionPin, Licence, Lock, Pin
from bake.manifest.load import parse_manifest
from bake.pipeline import STEPS
from bake.plan.plan import Plan, plan_bake
from bake.plan.state import Record
from bake.plan.step import (
    Options,
    Situation,
    Step,
    StepName,
    decide_by_record,
    describe_changes,
    pinned_extensions,
)

TEXT = """
name: example
family: sdxl
checkpoint: civitai:1
loras: {detail: "civitai:2"}
warmup: {prompt: a red circle}
image: ghcr.io/you/example
"""
OPTIONS = Options(build_args={})
BASE = {"Dockerfile.base": "1"}


def pin(key: str, sha: str, size: int | None = 1000) -> Pin:
    return Pin(
        key=key, role="checkpoint" if key == "checkpoint" else "lora", name=key.rsplit(".", maxsplit=1)[-1],
        source="", file_name="x.safetensors", size_bytes=size, sha256=sha * 64, url="",
    )  # fmt: skip


LOCK = Lock(
    manifest_name="example", family="sdxl", pins=(pin("checkpoint", "a"), pin("loras.detail", "b"))
)


def records_of(plan: Plan) -> dict[str, Record]:
    return {step.name: Record(document=dict(step.document), result={}) for step in plan.steps}


def plan_with(
    records: Mapping[str, Record] | None = None,
    *,
    text: str = TEXT,
    lock: Lock = LOCK,
    options: Options = OPTIONS,
    base: Mapping[str, str] = BASE,
    gone: StepName | None = None,
    missing: int = 0,
    layers: Sequence[Layer] = (),
) -> Plan:
    def exists(name: StepName, result: Mapping[str, Any]) -> bool:
        return name != gone

    situation = Situation(
        manifest=parse_manifest(text, Path("example.yaml")),
        lock=lock,
        options=options,
        base=base,
        record=(records or {}).get,
        exists=exists,
        missing_pins=lock.pins[len(lock.pins) - missing :],
        layers=layers,
    )
    return plan_bake(STEPS, situation)


def running(plan: Plan) -> list[str]:
    return [step.name for step in plan.steps if step.runs]


def test_the_first_bake_runs_everything_in_order() -> None:
    plan = plan_with(missing=2)
    assert running(plan) == [
        "fetch", "base", "warmup", "environment", "runtime", "assemble", "load", "verify",
    ]  # fmt: skip
    assert plan.step("base").why == "it has not been done yet"
    assert plan.step("fetch").why == "the store lacks checkpoint, loras.detail"
    assert plan.step("fetch").size_bytes == 2000


def test_an_unknown_size_makes_no_total() -> None:
    lock = Lock(manifest_name="e", family="sdxl", pins=(pin("checkpoint", "a", None),))
    assert plan_with(lock=lock, missing=1).step("fetch").size_bytes is None


def test_nothing_changed_means_nothing_runs() -> None:
    assert running(plan_with(records_of(plan_with()))) == []


def test_a_new_checkpoint_spares_the_base_and_the_runtime() -> None:
    moved = Lock(manifest_name="e", family="sdxl", pins=(pin("checkpoint", "c"), LOCK.pins[1]))
    plan = plan_with(records_of(plan_with()), lock=moved)
    assert running(plan) == ["warmup", "assemble", "load", "verify"]
    assert plan.step("warmup").why == (
        "weights checkpoint changed (checkpoint.safetensors aaaaaaaa → checkpoint.safetensors cccccccc)"
    )


def test_the_same_bytes_under_another_name_are_warmed_up_with_that_name() -> None:
    renamed = dataclasses.replace(LOCK.pins[0], name="other")
    plan = plan_with(
        records_of(plan_with()), lock=dataclasses.replace(LOCK, pins=(renamed, LOCK.pins[1]))
    )
    assert running(plan) == ["warmup", "assemble", "load", "verify"]
    assert plan.step("warmup").why == (
        "weights checkpoint changed (checkpoint.safetensors aaaaaaaa → other.safetensors aaaaaaaa)"
    )


def test_what_the_lock_says_besides_goes_into_the_image() -> None:
    licensed = dataclasses.replace(LOCK.pins[0], licence=Licence(name="mit"))
    plan = plan_with(
        records_of(plan_with()), lock=dataclasses.replace(LOCK, pins=(licensed, LOCK.pins[1]))
    )
    assert running(plan) == ["assemble", "load", "verify"]
    assert re.fullmatch(r"lock changed \([0-9a-f]{8} → [0-9a-f]{8}\)", plan.step("assemble").why)


def test_a_new_base_moves_all_that_stands_on_it() -> None:
    plan = plan_with(records_of(plan_with()), base={"Dockerfile.base": "2"})
    assert running(plan) == ["base", "warmup", "assemble", "load", "verify"]
    assert re.fullmatch(r"base changed \([0-9a-f]{8} → [0-9a-f]{8}\)", plan.step("warmup").why)


def test_another_prompt_draws_again_only() -> None:
    plan = plan_with(records_of(plan_with()), text=TEXT.replace("red circle", "blue square"))
    assert running(plan) == ["warmup", "assemble", "load", "verify"]


def test_another_device_draws_again() -> None:
    plan = plan_with(records_of(plan_with()), options=Options(build_args={}, device="cpu"))
    assert plan.step("warmup").why == "device changed (auto → cpu)"


def test_a_lost_result_is_made_again_and_nothing_else() -> None:
    plan = plan_with(records_of(plan_with()), gone="base")
    assert running(plan) == ["base"]
    assert plan.step("base").why == "its result is gone"


def test_a_push_is_planned_only_when_asked_for() -> None:
    assert "push" not in running(plan_with())
    assert "push" in running(plan_with(options=Options(build_args={}, push=True)))


def test_a_push_always_asks_the_registry_again() -> None:
    options = Options(build_args={}, push=True)
    plan = plan_with(records_of(plan_with(options=options)), options=options)
    assert running(plan) == ["push"]
    assert plan.step("push").why == "the registry is asked what it lacks"
    assert plan.step("push").size_bytes == 0


def test_a_push_names_the_weights_that_will_move_and_their_bytes() -> None:
    options = Options(build_args={}, push=True)
    records = records_of(plan_with(options=options))
    moved = Lock(manifest_name="e", family="sdxl", pins=(pin("checkpoint", "c"), LOCK.pins[1]))
    push = plan_with(records, lock=moved, options=options).step("push")
    assert "; weights that it had not at the last push: checkpoint;" in push.why
    assert push.size_bytes == 1000
    elsewhere = plan_with(records, text=TEXT.replace("you/", "them/"), options=options).step("push")
    assert elsewhere.size_bytes == 2000, "another repository has none of them"


def layer(data: bytes, kind: LayerKind) -> Layer:
    descriptor = Descriptor(media_type=RAW_LAYER, digest=sha256_digest(data), size_bytes=len(data))
    return Layer(descriptor=descriptor, diff_id=descriptor.digest, kind=kind)


def test_a_push_of_an_assembled_image_counts_every_layer_that_is_not_there() -> None:
    options = Options(build_args={}, push=True)
    layers = [layer(b"base", "base"), layer(b"w" * 500, "weights"), layer(b"thin!", "thin")]
    records = records_of(plan_with(options=options))
    pushed = records.pop("push")
    first = plan_with(records, options=options, layers=layers).step("push")
    assert first.size_bytes == 2000 + len(b"base") + len(b"thin!")
    there = [{"digest": each.digest} for each in layers[:2]]
    records["push"] = Record(document=pushed.document, result={"layers": there})
    again = plan_with(records, options=options, layers=layers).step("push")
    assert again.size_bytes == len(b"thin!")
    assert again.why == "the registry is asked what it lacks"


def test_a_push_under_zstd_says_what_has_to_be_packed_until_it_is() -> None:
    options = Options(build_args={}, push=True)
    text = TEXT + "compression: zstd\n"
    base = layer(b"base", "base")
    described = dataclasses.replace(base.descriptor, media_type=GZIP_LAYER)
    base = dataclasses.replace(base, descriptor=described)
    layers = [base, layer(b"w" * 500, "weights")]
    records = records_of(plan_with(options=options))  # a push with gzip, which has the same weights
    records["push"] = Record(
        document=dict(records["push"].document),
        result={"layers": [{"digest": each.digest} for each in layers]},
    )
    assert plan_with(records, options=options, layers=layers).step("push").size_bytes == 0
    first = plan_with(records, options=options, layers=layers, text=text).step("push")
    assert first.document["compression"] == "zstd"
    assert first.size_bytes == len(b"base")
    assert first.why.endswith(
        "; 1 of its layers, 4 B as they are, are read and packed with zstd,"
        " unless the registry has them so from an earlier push"
    )
    there = [{"digest": "sha256:1", "rewritten_from": base.digest}]
    records["push"] = Record(document=dict(first.document), result={"layers": there})
    again = plan_with(records, options=options, layers=layers, text=text).step("push")
    assert (again.size_bytes, again.why) == (0, "the registry is asked what it lacks")
    back = plan_with(records, options=options, layers=layers).step("push")
    assert back.size_bytes == len(b"base")
    assert "compression" not in back.document


def test_a_push_says_what_its_bytes_leave_out() -> None:
    options = Options(build_args={}, push=True)
    layers = [layer(b"base", "base"), layer(b"thin!", "thin")]
    first = plan_with(options=options).step("push")
    assert first.size_bytes == 2000
    assert first.why.endswith(
        "checkpoint, loras.detail; not counted: the base and what is made anew"
    )
    records = records_of(plan_with(options=options))
    edited = plan_with(records, options=options, layers=layers, gone="assemble").step("push")
    assert edited.size_bytes == 0
    assert edited.why.endswith("lacks; not counted: what is made anew")


def test_without_the_engine_nothing_is_loaded_and_verified_anew() -> None:
    plan = plan_with(records_of(plan_with()), options=Options(build_args={}, push=True, load=False))
    assert running(plan) == ["verify", "push"]
    assert "load" not in [step.name for step in plan.steps]


STREAMING = Options(build_args={}, push=True, load=False, store=False)


def test_without_the_store_what_it_lacks_is_streamed_and_not_warmed_up() -> None:
    plan = plan_with(options=STREAMING, missing=1)
    assert running(plan) == [
        "base", "environment", "runtime", "stream", "assemble", "verify", "push",
    ]  # fmt: skip
    assert plan.streamed == ("loras.detail",)
    assert plan.harvest == "none"
    assert plan.step("fetch").why == "the store is not wanted; it lacks loras.detail"
    assert plan.step("warmup").why.endswith("no earlier harvest fits: the worker starts slower")
    assert plan.step("stream").why == "straight from their sources to the registry: loras.detail"
    assert (plan.step("stream").size_bytes, plan.step("push").size_bytes) == (1000, 1000)


def test_without_the_store_what_it_has_is_used_all_the_same() -> None:
    plan = plan_with(options=STREAMING)
    assert (plan.streamed, plan.harvest) == ((), "own")
    assert "stream" not in running(plan)
    assert "warmup" in running(plan)


def test_the_harvest_of_the_same_weights_stays_theirs() -> None:
    plan = plan_with(records_of(plan_with()), options=STREAMING, missing=2)
    assert plan.harvest == "own"
    assert running(plan) == ["stream", "assemble", "verify", "push"]
    ordinary = plan_with()
    assert plan.step("warmup").key == ordinary.step("warmup").key
    assert plan.step("assemble").key != ordinary.step("assemble").key, "its bytes are elsewhere"


def test_a_harvest_of_other_weights_is_reused_in_part() -> None:
    moved = Lock(manifest_name="e", family="sdxl", pins=(pin("checkpoint", "c"), LOCK.pins[1]))
    records = records_of(plan_with())
    plan = plan_with(records, lock=moved, options=STREAMING, missing=2)
    assert plan.harvest == "reused"
    assert "the last warm-up's harvest is used" in plan.step("warmup").why
    assert "warmup" not in running(plan)
    assert plan_with(records, lock=moved, options=STREAMING, missing=2, gone="warmup").harvest == (
        "none"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"base": {"Dockerfile.base": "2"}},
        {"text": TEXT.replace("sdxl", "sd1")},
        {"text": TEXT + "webui: {args: [--medvram]}\n"},
    ],
)
def test_a_harvest_of_another_start_is_not_reused(change: dict[str, Any]) -> None:
    plan = plan_with(records_of(plan_with()), options=STREAMING, missing=2, **change)
    assert plan.harvest == "none"


def test_without_a_harvest_the_webuis_arguments_still_make_another_image() -> None:
    records = records_of(plan_with(options=STREAMING, missing=2))
    text = TEXT + "webui: {args: [--medvram]}\n"
    plan = plan_with(records, text=text, options=STREAMING, missing=2)
    assert plan.step("assemble").why == 'webui.args changed ([] → ["--medvram"])'


def test_what_was_streamed_there_before_counts_no_bytes() -> None:
    records = records_of(plan_with(options=STREAMING, missing=1))
    del records["push"]  # it was cut off after the stream
    plan = plan_with(records, options=STREAMING, missing=1)
    assert plan.step("stream").size_bytes == 0
    assert plan.step("stream").why == "the registry is asked what it lacks of the weights"
    assert plan.step("push").size_bytes == 1000


def test_changes_are_named_with_what_was_and_what_is() -> None:
    assert describe_changes({"a": "1", "b": "1"}, {"a": "2", "c": "1"}) == (
        "a changed (1 → 2), c is new, b is gone"
    )


def test_a_step_in_json() -> None:
    step = Step(name="fetch", document={"a": "1"}, runs=True, why="it is asked for", size_bytes=5)
    key = hashlib.sha256(b'{"a": "1"}').hexdigest()
    assert step.to_json() == {
        "step": "fetch", "runs": True, "why": "it is asked for", "bytes": 5, "key": key,
    }  # fmt: skip


def test_a_result_is_looked_for_by_what_was_recorded_of_it() -> None:
    document, result = {"a": "1"}, {"image": "sha256:1"}
    asked: list[tuple[str, Mapping[str, Any]]] = []

    def exists(name: StepName, result: Mapping[str, Any]) -> bool:
        asked.append((name, result))
        return len(asked) == 1

    def record(_name: str) -> Record:
        return Record(document=document, result=result)

    situation = Situation(
        manifest=parse_manifest(TEXT, Path("example.yaml")), lock=LOCK, options=OPTIONS, base=BASE,
        record=record, exists=exists, missing_pins=(),
    )  # fmt: skip
    there = decide_by_record("base", document, situation, {})
    assert (there.runs, there.why) == (False, "nothing that it depends on has changed")
    gone = decide_by_record("base", document, situation, {})
    assert (gone.runs, gone.why) == (True, "its result is gone")
    assert asked == [("base", result)] * 2


def test_only_a_sha256_is_cut_to_its_first_digits() -> None:
    digest, other, short = "0123456789abcdef" * 4, "x" * 64, "abcdef01" * 4
    changes = describe_changes({"a": digest, "b": "", "c": other, "d": short}, {"a": "", "b": digest, "c": "", "d": ""})  # fmt: skip
    assert changes == (
        f"a changed (01234567 → nothing), b changed (nothing → 01234567), "
        f"c changed ({'x' * 39}… → nothing), d changed ({short} → nothing)"
    )


def test_extensions_are_known_by_commit_and_files() -> None:
    pin = ExtensionPin(
        name="tint", url="https://example.com/tint", commit="1" * 40, sha256="2" * 64, size_bytes=1,
        files_sha256="3" * 64, licence=None, resolved_on="2026-01-01",
    )  # fmt: skip
    document = pinned_extensions(dataclasses.replace(LOCK, extensions=(pin,)))
    assert document == {"extension tint": " ".join([pin.commit, *pin.stored])}


def test_long_values_and_long_lists_are_shown_short() -> None:
    before = {"sha": "ab" * 32, "text": "x" * 50, "was": ""}
    after = {"sha": "cd" * 32, "text": "y" * 50, "was": "set"}
    assert describe_changes(before, after) == (
        f"sha changed (abababab → cdcdcdcd), text changed ({'x' * 39}… → {'y' * 39}…), "
        "was changed (nothing → set)"
    )
    many = {f"file {number}": "1" for number in range(9)}
    assert describe_changes({}, many) == (
        "file 0 is new, file 1 is new, file 2 is new, file 3 is new, and 5 more"
    )


def test_another_prompt_is_named() -> None:
    plan = plan_with(records_of(plan_with()), text=TEXT.replace("red circle", "blue square"))
    assert plan.step("warmup").why == ('warmup.prompt changed ("a red circle" → "a blue square")')
