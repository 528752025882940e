"""Images with extensions: what is planned, proven, listed and verified; and that others are what they were."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from bake.errors import ManifestError, SourceError
from bake.files import digest_of_list
from bake.image.build import warmup_inside
from bake.image.final.inspect import count_components
from bake.image.final.sbom import make_provenance, make_sbom
from bake.image.oci.model import sha256_digest
from bake.image.verify.checks import _check_extension, check_files
from bake.image.verify.scan import LayerFacts, scan_layer
from bake.lock import ExtensionPin, Lock, Pin
from bake.manifest.load import parse_manifest
from bake.plan.plan import Plan
from bake.report.pins import describe_pins
from bake.steps.worker import _data_folder, _path_of
from bake.weights.check import check_stored
from bake.weights.licences import licence_warnings
from runtime.webui.client import WebuiClient
from runtime.worker import Extension, Worker
from tests.samples import make_worker
from tests.standins.models import safetensors
from tests.unit import test_verify as verify
from tests.unit import test_warmup_inside as inside
from tests.unit.test_assemble import make_base
from tests.unit.test_plan import LOCK, TEXT, plan_with, records_of, running

COMMIT = "0123456789" * 4
FILES = {"scripts/tint.py": b"print('tint')\n", "README.md": b"# tint\n"}
PIN = ExtensionPin(
    name="tint",
    url="https://example.com/owner/tint",
    ref="v1",
    commit=COMMIT,
    sha256="a" * 64,
    size_bytes=10,
    files_sha256=digest_of_list(
        (name, sha256_digest(content)[7:], False) for name, content in FILES.items()
    ),
    licence="AGPL-3.0",
    requirements="file:tint.txt",
    requirements_sha256="b" * 64,
    resolved_on="2026-01-01",
)
TINT = Extension(name="tint", path="/webui/extensions/tint", commit=COMMIT, scripts=("Tint",))

# The plan

WITH = TEXT.replace(
    "warmup:", "extensions: [{url: 'https://example.com/owner/tint', ref: v1}]\nwarmup:"
)
LOCKED = replace(LOCK, extensions=(PIN,))


def test_without_extensions_there_is_no_such_step() -> None:
    assert "extensions" not in [step.name for step in plan_with().steps]
    assert plan_with(text=TEXT.replace("warmup:", "extensions: []\nwarmup:")) == plan_with()


def test_extensions_are_a_layer_that_is_warmed_up_with() -> None:
    plan = plan_with(text=WITH, lock=LOCKED)
    names = running(plan)
    assert names.index("base") < names.index("extensions") < names.index("warmup")
    assert running(plan_with(records_of(plan), text=WITH, lock=LOCKED)) == []


def again(**change: Any) -> Plan:
    before = records_of(plan_with(text=WITH, lock=LOCKED))
    pin = replace(PIN, **change)
    return plan_with(before, text=WITH, lock=replace(LOCKED, extensions=(pin,)))


def test_another_commit_is_named_and_drawn_with_anew() -> None:
    plan = again(commit="f" * 40, sha256="c" * 64)
    assert running(plan) == ["extensions", "warmup", "assemble", "load", "verify"]
    assert plan.step("extensions").why.startswith("extension tint changed (")
    assert running(again(requirements_sha256="d" * 64))[0] == "extensions"
    assert running(again(licence="MIT")) == ["assemble", "load", "verify"]


def test_another_script_is_of_the_image_only() -> None:
    before = records_of(plan_with(text=WITH, lock=LOCKED))
    text = WITH.replace("ref: v1}", "ref: v1, scripts: [Tint]}")
    plan = plan_with(before, text=text, lock=LOCKED)
    assert running(plan) == ["warmup", "assemble", "load", "verify"]
    assert plan.step("assemble").why.startswith("warmup changed")


# The warm-up


def drawn(scripts: list[Any], **changes: Any) -> warmup_inside.Drawn:
    made = inside.drawn(inside.png(), ["gc"])
    return replace(made, scripts=scripts, last_lines=["its last words"], **changes)


OFFERED = [["tint", False, 3], ["tint", True, 3]]


def warm_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, given: Any = None, **draws: Any
) -> tuple[int, str]:
    """The exit status and the tricks of the first start; `ours` and `plain` are what comes of the two."""
    asked: list[str] = []

    def draw(_worker: Any, _request: Any, *, boot: str, record: bool) -> warmup_inside.Drawn:
        del record
        asked.append(boot)
        result: warmup_inside.Drawn = draws["plain" if boot == "plain" else "ours"]
        return result

    config = folder / "config.json"
    config.write_text("{}")
    worker = make_worker(extensions=(TINT,))
    worker = replace(worker, webui=replace(worker.webui, config_file=str(config)))
    monkeypatch.setattr(warmup_inside, "FOLDER", folder)
    monkeypatch.setattr(warmup_inside, "_draw", draw)
    monkeypatch.setattr(Worker, "load", lambda: worker)
    payload = {"alwayson_scripts": given} if given else {}
    (folder / "request.json").write_text(json.dumps({"device": "cpu", "payload": payload}))
    return warmup_inside.main(), asked[0]


@pytest.mark.parametrize(
    ("given", "tricks"),
    [(None, "all,-ui,-lazy"), ({"TINT": {"args": [True]}}, "all,-ui")],
)
def test_what_extensions_hang_on_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any, tricks: str
) -> None:
    ours = drawn(OFFERED)
    assert warm_up(tmp_path, monkeypatch, given=given, ours=ours, plain=ours) == (0, tricks)
    assert json.loads((tmp_path / "record/proven.json").read_text()) == {"cpu": ["gc"]}
    assert "scripts" not in json.loads((tmp_path / "response.json").read_text())


def test_other_scripts_than_upstreams_prove_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = drawn([["tint", False, 2], ["tint", True, 3]])
    assert warm_up(tmp_path, monkeypatch, ours=fewer, plain=drawn(OFFERED))[0] == 0
    assert json.loads((tmp_path / "record/proven.json").read_text()) == {"cpu": []}
    told = json.loads((tmp_path / "response.json").read_text())
    assert "other scripts with them" in told["unproven"]


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        (drawn([["seed", False, 6]]), "no extension has the script Tint, or it cannot be loaded"),
        (
            drawn(
                OFFERED,
                info=json.dumps(
                    {
                        "bakery": {
                            "scripts": [{"names": ["tint"], "method": "process", "reason": "X: y"}]
                        }
                    }
                ),
            ),
            "a script failed: tint failed in process: X: y",
        ),
    ],
)
def test_extensions_that_do_not_work_fail_the_bake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Any, reason: str
) -> None:
    assert warm_up(tmp_path, monkeypatch, ours=plain, plain=plain)[0] == 1
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert failure == {"reason": reason, "last_lines": ["its last words"]}


def test_what_is_compared_of_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        {"name": "Tint", "is_alwayson": True, "is_img2img": False, "args": [{"value": 1}, {}]},
        {"name": "Loopback", "is_alwayson": False, "is_img2img": True, "args": []},
    ]
    monkeypatch.setattr(WebuiClient, "get", lambda _client, _name: listed)
    assert warmup_inside._list_scripts(WebuiClient(1)) == [["tint", False, 2]]


# Where they lie


@pytest.mark.parametrize(
    ("args", "folder"),
    [
        ((), "/webui"),
        (("--data-dir", "/data"), "/data"),
        (("--data-dir=data", "--api"), "/webui/data"),
    ],
)
def test_the_folder_is_the_webuis_own(args: tuple[str, ...], folder: str) -> None:
    webui = replace(make_worker().webui, args=args)
    assert _data_folder(webui) == PurePosixPath(folder)


# The documents


def test_the_bill_of_materials_names_commit_address_and_licence() -> None:
    worker = replace(verify.make_worker(), extensions=(TINT,))
    lock = replace(verify.make_lock(), extensions=(PIN,))
    sbom = json.loads(make_sbom(worker=worker, lock=lock, packages=[]))
    assert count_components(sbom) == {"extensions": 1, "models": 1}
    part = next(each for each in sbom["components"] if each["name"] == "tint")
    assert (part["type"], part["version"]) == ("application", COMMIT)
    assert part["licenses"] == [{"license": {"name": "AGPL-3.0"}}]
    assert part["externalReferences"] == [{"type": "vcs", "url": PIN.url}]
    assert {each["name"]: each["value"] for each in part["properties"]} == {
        "bakery:role": "extension",
        "bakery:path": TINT.path,
        "bakery:ref": "v1",
        "bakery:requirements.sha256": "b" * 64,
        "bakery:scripts": "Tint",
    }
    base = make_base()
    provenance = json.loads(make_provenance(worker=worker, lock=lock, base=base, layers=[]))
    sources = provenance["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert sources[-1] == {
        "name": "extensions.tint",
        "digest": {"gitCommit": COMMIT, "sha256": "a" * 64},
        "uri": PIN.url,
    }


# Verification


def found(tmp_path: Path, *more: Any, files: dict[str, bytes] = FILES, pin: Any = PIN) -> Any:
    """The checks of an image with these files of the extension, by name."""
    worker = replace(verify.make_worker(), extensions=(TINT,))
    lock = replace(verify.make_lock(), extensions=(pin,) if pin else ())
    tree = [(f"webui/extensions/tint/{name}", content) for name, content in files.items()]
    layers = [
        verify.weights_layer(tmp_path),
        verify.thin(*tree, ("webui/extensions/tint/__pycache__/x.pyc", b"1")),
        verify.thin(("opt/bakery/worker.json", worker.to_json().encode())),
        *more,
    ]
    facts: list[LayerFacts] = [
        scan_layer(each.content.chunks(), verify.SCANNER) for each in layers if each.content
    ]
    image = verify.make_image(tmp_path)
    return {each.name: each for each in check_files(image, layers, facts, lock=lock)}


def test_the_files_of_the_commit_are_there(tmp_path: Path) -> None:
    checks = found(tmp_path)
    assert checks["extension tint"].severity == "ok"
    assert "2 files of commit 012345678901" in checks["extension tint"].message
    assert checks["lock"].severity == "ok"


@pytest.mark.parametrize(
    "files",
    [
        {**FILES, "README.md": b"other"},
        {**FILES, "more.py": b"1"},
        {"README.md": FILES["README.md"]},
    ],
)
def test_other_files_than_the_commits(tmp_path: Path, files: dict[str, bytes]) -> None:
    check = found(tmp_path, files=files)["extension tint"]
    assert check.severity == "error"
    assert f"has other files than commit {COMMIT} of {PIN.url}" in check.message


def test_a_later_layer_that_changes_a_file(tmp_path: Path) -> None:
    layer = verify.thin(("webui/extensions/tint/scripts/tint.py", b"print('other')\n"))
    assert found(tmp_path, layer)["extension tint"].severity == "error"
    gone = verify.thin(("webui/extensions/.wh.tint", b""))
    assert "is in no layer" in found(tmp_path, gone)["extension tint"].message


def test_another_commit_than_the_locks(tmp_path: Path) -> None:
    other = dataclasses.replace(PIN, commit="f" * 40)
    message = found(tmp_path, pin=other)["lock"].message
    assert message == "extension tint is another commit"
    assert Lock(manifest_name="x", family="sd1", pins=()).extensions == ()


# Models of extensions

MODELS = """
name: x
family: sd1
checkpoint: civitai:1
allow_pickle: true
extensions: [{url: 'https://example.com/owner/tint', ref: v1}]
extension_models:
  %s: %s
warmup: {prompt: a}
image: example.com/x
"""


def models(path: str, source: str = "https://example.com/x.safetensors") -> Any:
    return parse_manifest(MODELS % (path, source), Path("x.yaml"))


@pytest.mark.parametrize(
    "path",
    [
        "ControlNet/control canny.safetensors",
        "adetailer/face_yolov8n.pt",
        "extensions/tint/models/deep/x.pth",
    ],
)
def test_a_model_has_a_path(path: str) -> None:
    (entry,) = (each for each in models(path).sources() if each.role == "extension_model")
    assert (entry.key, entry.name) == (f"extension_models.{path}", path)
    assert str(model_pin(path).place) == path
    lock = Lock(manifest_name="x", family="sd1", pins=(model_pin(path),))
    assert Lock.from_json(lock.to_json()) == lock


def model_pin(path: str, file_name: str = "") -> Pin:
    return Pin(
        key=f"extension_models.{path}",
        role="extension_model",
        name=path,
        source="https://example.com/x",
        file_name=file_name or path.rpartition("/")[2],
        size_bytes=1,
        sha256="a" * 64,
        url="",
    )


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("x.safetensors", "is no path such as"),
        ("../x/y.safetensors", "is no path such as"),
        ("/etc/x.safetensors", "is no path such as"),
        ("a//x.safetensors", "is no path such as"),
        ("a/.hidden/x.safetensors", "is no path such as"),
        ("a/x.py", "must end in .safetensors, .ckpt, .pt, .pth or .bin"),
        ("extensions/x.pth", "is no path in an extension's folder"),
        ("extensions/other/x.pth", "in the folder of other, which is none of `extensions`"),
    ],
)
def test_what_is_no_path_of_a_model(path: str, words: str) -> None:
    with pytest.raises(ManifestError) as caught:
        models(path)
    assert words in str(caught.value)


def test_a_model_lies_where_its_extension_looks() -> None:
    webui = replace(make_worker().webui, models_dir="/webui/models")
    assert _path_of(model_pin("ControlNet/x.pth"), webui) == "/webui/models/ControlNet/x.pth"
    inside = model_pin("extensions/tint/models/x.pth")
    assert _path_of(inside, webui) == "/webui/extensions/tint/models/x.pth"
    with pytest.raises(ManifestError, match=r"no label bakery\.path\.models"):
        _path_of(inside, make_worker().webui)


def test_a_model_is_what_its_name_says(tmp_path: Path) -> None:
    manifest = models("ControlNet/x.safetensors")
    file = tmp_path / "x.safetensors"
    file.write_bytes(safetensors({"input_hint_block.0.weight": (3, 3)}))
    assert check_stored(file, manifest, model_pin("ControlNet/x.safetensors")) == []
    wrong = model_pin("ControlNet/x.safetensors", "x.pth")
    with pytest.raises(
        SourceError, match=r"ends in \.pth, the path that it is to have in \.safetensors"
    ):
        check_stored(file, manifest, wrong)


def test_a_model_in_the_extensions_folder_is_none_of_its_files(tmp_path: Path) -> None:
    path = "/webui/extensions/tint/models/x.pth"
    weights = replace(verify.make_worker().weights[0], role="extension_model", path=path)
    worker = replace(verify.make_worker(), weights=(weights,), extensions=(TINT,))
    files = [*FILES.items(), ("models/x.pth", b"1")]
    layer = verify.thin(*((f"webui/extensions/tint/{name}", each) for name, each in files))
    assert layer.content is not None
    facts = [scan_layer(layer.content.chunks(), verify.SCANNER)]
    assert _check_extension(TINT, PIN, facts, worker.weights).severity == "ok"
    assert _check_extension(TINT, PIN, facts, ()).severity == "error"


# What is said of them


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "extensions.tint: its licence AGPL-3.0: whoever is served by the image may ask"),
        ({"licence": None}, "extensions.tint: no licence is known"),
        ({"licence": "CC-BY-NC"}, "its licence CC-BY-NC forbids commercial use"),
        ({"licence": "MIT"}, None),
        ({"licence": None, "url": "file:tint"}, None),
    ],
)
def test_licences_of_code_are_warned_about(change: dict[str, Any], words: str | None) -> None:
    lock = Lock(manifest_name="x", family="sd1", pins=(), extensions=(replace(PIN, **change),))
    warned = licence_warnings(lock)
    assert len(warned) == (words is not None)
    assert (words or "") in "".join(warned)


def test_the_report_has_them_among_its_pins() -> None:
    lock = replace(verify.make_lock(), extensions=(PIN,))
    weights, extension = describe_pins(lock, {})
    assert weights.keys() == extension.keys()
    assert (extension["title"], extension["page"]) == ("tint v1 012345678901", PIN.url)
