"""The report: what is kept of a bake, what differs between two, and the pages as text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bake.cli import cli
from bake.cli.failures import State
from bake.errors import BuildError
from bake.image.verify.worker import read_start
from bake.lock import Licence, Lock, Pin
from bake.report.difference import compare
from bake.report.page import format_seconds, render_comparison, render_report, write_page
from bake.report.pins import describe_pins
from bake.report.record import find_earlier, find_report, keep_report, load_report
from bake.report.timelines import read_timelines, ticks
from tests.report_case import HOSTILE, make_hostile, make_png, make_report, make_reported

OTHER = "sha256:" + "9a" * 32


class Reader(HTMLParser):
    """The tags of a page, its text, and each `data` element's value with what is shown of it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def values(self) -> list[str]:
        return [str(attrs["value"]) for tag, attrs in self.tags if tag == "data"]


def make_other() -> dict[str, Any]:
    """The same with another prompt and runtime: another image."""
    report = make_report(digest=OTHER, baked_at="2026-11-28T10:00:00Z")
    report["request"] = {**report["request"], "prompt": "a blue square"}
    report["layers"][3] = {**report["layers"][3], "digest": OTHER, "size_bytes": 400_000}
    report["pins"] = [{**report["pins"][0], "sha256": "b" * 64}]
    report["warmup"] = {**report["warmup"], "loaded_s": 2.5}
    return report


def test_the_page_shows_every_number_of_the_report() -> None:
    page = Reader(render_report(make_reported(picture=make_png("red"))))
    report = make_report()
    for step in report["steps"]:
        assert step["seconds"] is None or str(step["seconds"]) in page.values
    for number in ("3.944", "0.2941", "2.726", "0.313", str(report["size_bytes"])):
        assert number in page.values, number
    for layer in report["layers"]:
        assert str(layer["size_bytes"]) in page.values
    for text in ("2 min 05 s", "0.29 s", "126.3 MiB", "cc-by-nc-4.0", "forbids commercial use",
                 "Shapes, v2", "verified, with 1 warning", "2026-11-27 16:40 UTC", "kept",
                 "bake push manifests/demo.yaml", "bake deploy manifests/demo.yaml --dry-run"):  # fmt: skip
        assert text in page.text, text
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 1
    assert str(images[0]).startswith("data:image/png;base64,")
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == ["https://civitai.com/models/5?modelVersionId=7"]


def test_the_policy_allows_nothing_from_elsewhere_and_no_script() -> None:
    for page in (
        render_report(make_reported()),
        render_comparison(make_reported(), make_reported(make_other())),
    ):
        read = Reader(page)
        policy = next(attrs["content"] for tag, attrs in read.tags if tag == "meta" and "http-equiv" in attrs)  # fmt: skip
        assert str(policy).startswith("default-src 'none'; img-src data:; style-src 'sha256-")
        assert "unsafe" not in str(policy)
        assert not [tag for tag, _ in read.tags if tag in ("script", "iframe", "object", "form")]
        assert not [attrs for _, attrs in read.tags if "style" in attrs]
        fetched = [attrs.get("src") or attrs.get("href") for tag, attrs in read.tags if tag in ("img", "link")]  # fmt: skip
        assert all(str(each).startswith("data:") for each in fetched)


def test_hostile_values_are_text() -> None:
    one, other = make_hostile(make_report()), make_hostile(make_other())
    for page in (
        render_report(make_reported(one), make_reported(other)),
        render_comparison(make_reported(one), make_reported(other)),
    ):
        read = Reader(page)
        assert not [tag for tag, _ in read.tags if tag in ("script", "img")]
        assert not [name for _, attrs in read.tags for name in attrs if name.startswith("on")]
        assert not [tag for tag, _ in read.tags if tag == "a"], "only https pages are linked"
        assert f"a red circle{HOSTILE}" in read.text, "as it was written"
        assert "49" not in re.findall(r"&amp;(\d+)", page), "no template is made of a value"


@pytest.mark.parametrize(
    ("harvest", "said"),
    [("none", "its worker starts slower"), ("reused", "modules of an earlier warm-up")],
)
def test_without_a_warm_up_the_page_says_so_and_has_no_picture(harvest: str, said: str) -> None:
    report = make_report(warmup={"harvest": harvest})
    report["verify"] = {"verdict": "good", "checks": []}
    page = render_report(make_reported(report))
    assert said in page
    assert "<img" not in page
    assert "The start" not in page


def test_the_page_says_what_is_new_since_the_last_bake() -> None:
    page = Reader(render_report(make_reported(make_other()), make_reported()))
    text = " ".join(page.text.split())
    assert "1 of 5 layers are new since the bake of 2026-11-27 16:40 UTC: 390.6 KiB of" in text
    assert "warmup.prompta red circlea blue square" in text, "cells of one row"
    same = make_report()
    text = " ".join(Reader(render_report(make_reported(same), make_reported())).text.split())
    assert "Every layer is as in the bake of" in text


def test_the_command_names_another_build_folder_and_a_path_with_spaces() -> None:
    report = make_report(manifest="my models/x.yaml", build_dir="out/b", push={"sent_bytes": 10, "seconds": 1.5})  # fmt: skip
    text = Reader(render_report(make_reported(report))).text
    assert "bake deploy 'my models/x.yaml' --build-dir out/b --dry-run" in text
    assert "bake push" not in text, "it was pushed"


def test_seconds_are_shown_with_two_digits_that_mean_something() -> None:
    shown = [format_seconds(each) for each in (None, 0.0, 0.014, 0.94, 0.96, 12.34, 99.96, 125.4)]
    assert shown == ["–", "0.00 s", "0.01 s", "0.94 s", "1.0 s", "12.3 s", "1 min 40 s", "2 min 05 s"]  # fmt: skip  # noqa: RUF001


def test_timelines_begin_with_their_start_and_meet_at_the_model() -> None:
    warmup, worker = read_timelines(make_report())
    bars = {bar.label: (round(bar.began_s, 3), round(bar.ended_s, 3)) for bar in warmup.bars}
    assert bars == {
        "until the model is loaded": (0.0, 2.726),
        "boot: hooks and tricks": (0.826, 1.526),
        "load model": (2.326, 2.726),
        "draw": (2.726, 3.039),
    }
    bars = {bar.label: (round(bar.began_s, 3), round(bar.ended_s, 3)) for bar in worker.bars}
    assert bars == {
        "until the worker is ready": (0.0, 3.944),
        "load model": (1.144, 1.444),
        "RunPod SDK": (2.444, 3.944),
        "draw": (3.944, 4.238),
    }, "it is ready when the last of both is"
    assert ticks((warmup, worker)) == (0, 1, 2, 3, 4, 5)


def test_events_older_than_the_start_are_not_drawn_outside() -> None:
    report = make_report()
    report["warmup"]["timeline"][0]["began"] = 990.0
    assert all(bar.began_s >= 0 for line in read_timelines(report) for bar in line.bars)


def test_what_differs_between_two() -> None:
    difference = compare(make_report(), make_other())
    assert [(each.what, each.before, each.after) for each in difference.changes] == [
        ("warmup.prompt", "a red circle", "a blue square")
    ]
    assert difference.pins[0].what == "checkpoint"
    assert "sha256 aaaaaaaaaaaa" in str(difference.pins[0].before)
    assert [layer["what"] for layer in difference.new_layers] == ["the runtime"]
    assert difference.new_bytes == 400_000
    times = {each.what: (each.before, each.after) for each in difference.times}
    assert times["warm-up: model loaded"] == (2.726, 2.5)
    assert times["step verify"] == (125.434, 125.434)
    assert "step fetch" not in times, "it ran in neither"
    nothing = compare(make_report(), make_report())
    assert (nothing.changes, nothing.pins) == ((), ())
    assert (nothing.new_layers, nothing.gone_layers) == ((), ())


def test_the_bake_before_is_kept_until_another_image_is_made(tmp_path: Path) -> None:
    red, blue = make_png("red"), make_png("blue")
    keep_report(tmp_path, make_report(), red)
    assert find_earlier(tmp_path) is None
    keep_report(tmp_path, make_other(), blue)
    keep_report(tmp_path, make_other(), blue)
    earlier, now = find_earlier(tmp_path), find_report(tmp_path)
    assert earlier is not None
    assert now is not None
    assert (earlier.data["digest"], earlier.picture) == (make_report()["digest"], red)
    assert (now.data["digest"], now.picture) == (OTHER, blue)
    keep_report(tmp_path, make_report(), None)
    assert load_report(tmp_path).picture is None
    drawn = make_report(request={**make_report()["request"], "prompt": "a green circle"})
    keep_report(tmp_path, drawn, blue)
    earlier = find_earlier(tmp_path)
    assert earlier is not None
    assert earlier.data["request"]["prompt"] == "a red circle", (
        "the image is the same, the picture is not"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1, "digest": "sha256:a"}', '{"format": 2, "digest": 7}'])  # fmt: skip
def test_what_is_no_report_of_this_format_is_not_taken_for_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    assert find_report(tmp_path) is None
    with pytest.raises(BuildError, match=r"there is no report\.json that this bake has written"):
        load_report(tmp_path)
    keep_report(tmp_path, make_report(), None)
    assert find_earlier(tmp_path) is None


def run_cli(*args: str) -> Any:
    return CliRunner().invoke(cli, ["report", *args], obj=State())


def test_the_command_writes_the_page_again_and_compares(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, report in ((one, make_report()), (other, make_other())):
        folder.mkdir()
        write_page(keep_report(folder, report, make_png("red")))
        (folder / "report.html").unlink()
    shown = run_cli(str(one), str(other))
    assert shown.output.splitlines() == [str(one / "report.html"), str(other / "report.html")]
    assert "a blue square" in (other / "report.html").read_text()

    shown = run_cli("--compare", str(one), str(other))
    assert shown.output.splitlines() == [
        "390.6 KiB in 1 layer(s) are new",
        "  checkpoint: Shapes, v2 (sha256 aaaaaaaaaaaa, cc-by-nc-4.0) → Shapes, v2 (sha256 bbbbbbbbbbbb, cc-by-nc-4.0)",
        "  warmup.prompt: a red circle → a blue square",
        "  thin: 65.2 MiB → 65.2 MiB (+41.0 KiB)",
        "  warm-up: model loaded: 2.7 s → 2.5 s",
        str(other / "compare.html"),
    ]
    shown = run_cli("--compare", "--json", "-o", str(tmp_path / "x.html"), str(one), str(other))
    event = json.loads(shown.output)
    assert (event["event"], event["after"], event["new_bytes"]) == ("compared", OTHER, 400_000)
    assert (tmp_path / "x.html").read_text().count("<img") == 2


def test_one_bake_is_compared_with_the_one_before_it(tmp_path: Path) -> None:
    keep_report(tmp_path, make_report(), None)
    alone = run_cli("--compare", str(tmp_path))
    assert "no bake of anything else came before this one" in str(alone.exception)
    keep_report(tmp_path, make_other(), None)
    assert run_cli("--compare", str(tmp_path)).output.startswith("390.6 KiB in 1 layer(s) are new")
    three = run_cli("--compare", *[str(tmp_path)] * 3)
    assert "3 bakes are given" in str(three.exception)


def test_pins_are_described_with_licence_page_and_warning() -> None:
    def pin(**fields: Any) -> Pin:
        known = {"key": "checkpoint", "role": "checkpoint", "name": "a", "source": "x", "file_name": "a.safetensors", "size_bytes": None, "sha256": "a" * 64, "url": ""}  # fmt: skip
        return Pin(**{**known, **fields})

    pins = (
        pin(source="civitai:7", url="https://civitai.com/api/download/models/7", model_id=5, version_id=7, licence=Licence(commercial_use=("Image",))),
        pin(source="hf://a/b@c/d.safetensors", url="https://huggingface.co/a/b/resolve/c/d.safetensors", revision="c", licence=Licence(name="mit")),
        pin(source="https://host/a", url="https://host/a"),
        pin(source="http://127.0.0.1/a", url="http://127.0.0.1/a"),
        pin(source="file:a", url="file:a"),
        pin(source="https://host/a", url="https://user:pw@host/a"),
    )  # fmt: skip
    described = describe_pins(Lock(manifest_name="a", family="sd1", pins=pins), {"a" * 64: 7})
    assert [each["page"] for each in described] == [
        "https://civitai.com/models/5?modelVersionId=7",
        "https://huggingface.co/a/b/blob/c/d.safetensors",
        "https://host/a",
        None,
        None,
        None,
    ]
    assert [each["licence"] for each in described[:5]] == [
        "commercial use: Image", "mit", "not known", "not known", "a file of your own",
    ]  # fmt: skip
    assert "forbids running it in a paid generation service" in described[0]["warnings"][0]
    assert [bool(each["warnings"]) for each in described[1:5]] == [False, True, True, False]
    assert all(each["size_bytes"] == 7 for each in described)


def test_the_worker_s_log_tells_its_start() -> None:
    event = {"name": "model", "began": 1.0, "ended": 2.0}
    line = {"message": "model loaded", "start_s": 3.5, "timeline": [event, "x", {"name": 1}]}
    log = b"--- SDK ---\n{}\n[1]\nnot json {\n" + json.dumps(line).encode() + b"\n"
    assert read_start(log) == {"start_s": 3.5, "timeline": [event]}
    assert read_start(b"") is None
    assert read_start(b'{"message": "model loaded", "start_s": "soon"}') is None
