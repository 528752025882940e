"""The boot module's parts that need no webui: choice, hooks, lazy modules, the pack, hashes."""

import importlib
import importlib.util
import inspect
import json
import os
import py_compile
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.boot import choice, hooks, jobs, start, timeline
from runtime.boot.choice import HARMLESS, ON_DEVICE, RECORDED, TRICKS, choose, proven_on
from runtime.boot.context import Context
from runtime.boot.tricks import hashes, lazy, pack, stack
from runtime.worker import WEIGHTS_MTIME
from tests.unit.test_boot_weights import write_safetensors

NAMES = ("pack", "gc", "ui")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    before, modules = list(sys.meta_path), set(sys.modules)
    monkeypatch.setenv("BAKERY_TIMELINE", str(tmp_path / "timeline.jsonl"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "site").mkdir()
    yield
    sys.meta_path[:] = before
    for name in set(sys.modules) - modules:
        if name.startswith("bakery_"):
            del sys.modules[name]


def write_module(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / "site" / (name + ".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    importlib.invalidate_caches()
    return path


def context(*arguments: str) -> Context:
    return Context(script="script.py", arguments=arguments, began=0.0)


@pytest.mark.parametrize(
    ("text", "chosen", "unknown"),
    [
        ("proven", ["pack", "gc"], []),
        ("", ["pack", "gc"], []),
        ("all", ["pack", "gc", "ui"], []),
        ("plain", [], []),
        ("-gc", ["pack"], []),
        ("all,-gc", ["pack", "ui"], []),
        ("-gc,-ui", ["pack"], []),
        ("ui,gc", ["gc", "ui"], []),
        ("-gx", ["pack", "gc"], ["gx"]),
    ],
)
def test_choice(text: str, chosen: list[str], unknown: list[str]) -> None:
    assert choose(text, NAMES, {"pack", "gc"}) == (chosen, unknown)


def test_what_is_on_by_default_was_proven_on_that_kind_of_device() -> None:
    cpu = {"cpu": ["pack", "weights", "ui"]}
    assert proven_on("cpu", cpu) == {"pack", "weights", "ui"}
    # Another device: what puts something on a device itself is off until it was seen there.
    assert proven_on("cuda", cpu) == {"pack", "ui"}
    assert proven_on("cuda", {"cuda": []}) == set()
    assert proven_on("cpu", {"cpu": [], "cuda": ["gc"]}) == set()
    assert proven_on("cuda", {}) == set()
    assert proven_on("cuda", None) == {"ahead", "pack", "gc", "stack", "hashes"}
    assert set(TRICKS) > HARMLESS | ON_DEVICE


def test_the_halves_for_cuda_are_on_where_a_record_of_a_run_on_a_card_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = Path(__file__).parents[2] / "docs" / "records"
    assert {path.stem for path in records.glob("*.json")} == RECORDED
    monkeypatch.setattr(choice, "RECORDED", {"cuda"})
    assert proven_on("cuda", {"cpu": ["pack", "weights"]}) == {"pack", "weights"}


@pytest.mark.parametrize(
    ("text", "chosen", "said"),
    [
        (None, ["pack", "gc"], ""),
        ('{"cpu": ["gc", "ui"]}', ["gc", "ui"], ""),
        ("[1", [], "proven.json proves nothing"),
        ('["gc"]', [], "proven.json proves nothing"),
    ],
)
def test_the_proof_of_the_harvest_decides(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    chosen: list[str],
    said: str,
) -> None:
    monkeypatch.setenv("BAKERY_HARVEST", str(tmp_path))
    monkeypatch.setenv("BAKERY_DEVICE", "cpu")
    monkeypatch.setattr(start, "TRICKS", dict.fromkeys(NAMES, "stack"))
    monkeypatch.setattr(jobs, "install", lambda: None)
    if text is not None:
        (tmp_path / "proven.json").write_text(text)
    its = context()
    start.install(its, "")
    assert list(its.chosen) == chosen
    assert said in capsys.readouterr().err


def test_the_device_is_the_workers_choice_else_what_the_arguments_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("BAKERY_DEVICE", raising=False)
    assert context("--use-cpu", "all").device == "cpu"
    assert context().device == "cuda"
    monkeypatch.setenv("BAKERY_DEVICE", "cpu")
    assert context().device == "cpu"


def test_options_are_read_as_argparse_reads_them() -> None:
    it = context("--ckpt", "/a", "--port=3000", "--ckpt=/b", "--no-half")
    assert it.option("--ckpt") == "/b"
    assert it.option("--port") == "3000"
    assert it.option("--vae-path") is None
    assert it.has_flag("--no-half")


def test_timeline_line(tmp_path: Path) -> None:
    timeline.write("model", 1.0, 2.5, tricks=["gc"])
    line = (tmp_path / "timeline.jsonl").read_text()
    assert json.loads(line) == {"name": "model", "began": 1.0, "ended": 2.5, "tricks": ["gc"]}
    assert line.endswith("\n")


def test_hook_runs_after_the_module_and_a_failure_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_module(tmp_path, "bakery_hooked", "value = 1\n")
    seen = []
    hooks.after_import("bakery_hooked", lambda module: seen.append(module.value), trick="one")
    hooks.after_import("bakery_hooked", lambda module: module.nothing, trick="two")
    module = importlib.import_module("bakery_hooked")
    assert seen == [1]
    assert "value = 1" in inspect.getsource(module)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("boot: two is off, bakery_hooked is not as expected: AttributeError")


def test_hook_on_a_module_that_is_there() -> None:
    seen: list[Any] = []
    hooks.after_import("json", seen.append, trick="one")
    assert seen == [json]


def make_lazy(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(lazy, "LAZY", frozenset(names))
    lazy.install(context())


def test_lazy_module_runs_at_its_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_module(tmp_path, "bakery_slow", "print('run')\nvalue = 2\n")
    make_lazy(monkeypatch, "bakery_slow")
    module = importlib.import_module("bakery_slow")
    assert not hasattr(module, "__nothing__")
    assert capsys.readouterr().out == ""
    assert module.value == 2
    assert importlib.import_module("bakery_slow").value == 2
    assert capsys.readouterr().out == "run\n"
    with pytest.raises(AttributeError, match="'bakery_slow' has no attribute 'other'"):
        _ = module.other


def test_a_lazy_package_runs_before_its_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_module(tmp_path, "bakery_pkg/__init__", "print('package')\n")
    write_module(tmp_path, "bakery_pkg/part", "print('part')\n")
    write_module(tmp_path, "bakery_pkg/late", "print('late')\n")
    make_lazy(monkeypatch, "bakery_pkg", "bakery_pkg.late")
    importlib.import_module("bakery_pkg.late")
    assert capsys.readouterr().out == ""
    importlib.import_module("bakery_pkg.part")
    assert capsys.readouterr().out == "package\npart\n"


def test_lazy_functions_decorators_and_placeholders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "print('run')\ntold = []\nclass Kind: pass\n"
    text += "def double(x): return 2 * x\ndef mark(f):\n    told.append(f)\n    return f\n"
    write_module(tmp_path, "bakery_tools", text)
    write_module(
        tmp_path,
        "bakery_asks",
        "from bakery_tools import Kind, double, mark\n@mark\ndef f(): pass\n",
    )
    monkeypatch.setattr(lazy, "FUNCTIONS", {"bakery_tools": ("double",)})
    monkeypatch.setattr(lazy, "DECORATORS", {"bakery_tools": ("mark",)})
    monkeypatch.setattr(lazy, "PLACEHOLDERS", {"bakery_tools": (("Kind",), ("bakery_asks",))})
    make_lazy(monkeypatch, "bakery_tools")
    asks = importlib.import_module("bakery_asks")
    assert capsys.readouterr().out == ""
    assert asks.double(4) == 8
    assert capsys.readouterr().out == "run\n"
    tools = importlib.import_module("bakery_tools")
    assert tools.told == [asks.f]
    assert tools.Kind is not asks.Kind
    assert not isinstance(tools.Kind(), asks.Kind)


def test_a_module_asked_by_others_is_no_placeholder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "bakery_tools", "class Kind: value = 7\n")
    monkeypatch.setattr(lazy, "PLACEHOLDERS", {"bakery_tools": (("Kind",), ("bakery_asks",))})
    make_lazy(monkeypatch, "bakery_tools")
    assert importlib.import_module("bakery_tools").Kind.value == 7


def test_a_shells_modules_are_imported_without_its_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_module(
        tmp_path, "bakery_shell/__init__", "print('package')\nfrom .part import Kind\nx = 3\n"
    )
    write_module(tmp_path, "bakery_shell/part", "print('part')\nclass Kind: pass\n")
    monkeypatch.setattr(lazy, "SHELLS", {"bakery_shell": {"Kind": "part"}})
    make_lazy(monkeypatch, "bakery_shell")
    kind = importlib.import_module("bakery_shell").Kind
    assert capsys.readouterr().out == "part\n"
    assert kind is importlib.import_module("bakery_shell.part").Kind
    assert importlib.import_module("bakery_shell").x == 3
    assert capsys.readouterr().out == "package\n"
    assert importlib.import_module("bakery_shell").Kind is kind


def test_a_kept_object_and_an_ignored_function_load_nothing_until_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "print('run')\ndef declare(name): print('declared')\nclass T: words = {'a': 1}\ntable = T()\n"
    write_module(tmp_path, "bakery_words", text)
    monkeypatch.setattr(lazy, "OBJECTS", {"bakery_words": ("table",)})
    monkeypatch.setattr(lazy, "IGNORED", {"bakery_words": ("declare",)})
    make_lazy(monkeypatch, "bakery_words")
    words = importlib.import_module("bakery_words")
    kept = words.table
    words.declare("x")
    assert capsys.readouterr().out == ""
    assert kept.words == {"a": 1}
    assert capsys.readouterr().out == "run\n"
    assert kept.words is words.table.words
    words.declare("x")
    assert capsys.readouterr().out == "declared\n"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ('a cat, (masterpiece:1.2) <lora:x:1>\nBREAK\t[a|b] "quoted" it\'s ~', True),
        ("", True),
        ("tom &amp; jerry", False),
        ("tom & jerry", False),
        ("caf\u00e9", False),
        ("\u201cquoted\u201d", False),
        ("line\r\nline", False),
        ("\x1b[31mred", False),
        ("a\x00b", False),
        ("a\x7fb", False),
    ],
)
def test_only_text_that_ftfy_would_not_change_passes_it_by(text: str, plain: bool) -> None:
    assert lazy.is_plain(text) is plain


def test_cheap_stack_names_the_same_callers() -> None:
    cheap = [(each.filename, each.function) for each in stack._CheapInspect().stack()]
    assert cheap == [(each.filename, each.function) for each in inspect.stack(0)]


def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A harvest with the module bakery_packed, whose source says something else by now."""
    path = write_module(tmp_path, "bakery_packed", "value = 'old'\n")
    os.utime(path, (WEIGHTS_MTIME, WEIGHTS_MTIME))
    py_compile.compile(str(path))
    module = importlib.import_module("bakery_packed")
    again = pack.make_pack([("bakery_packed", module), ("json", json)])
    assert again == pack.make_pack([("json", json), ("bakery_packed", module)])
    del sys.modules["bakery_packed"]
    harvest = tmp_path / "harvest"
    harvest.mkdir()
    (harvest / pack.FILE).write_bytes(again)
    path.write_text("value = 'much newer'\n")
    os.utime(tmp_path / "site", (WEIGHTS_MTIME, WEIGHTS_MTIME))
    monkeypatch.setenv("BAKERY_HARVEST", str(harvest))
    return tmp_path / script


def install_pack(script: Path) -> None:
    pack.install(Context(script=str(script), arguments=(), began=0.0))


def test_pack_answers_without_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = packed(tmp_path, monkeypatch, "elsewhere/script.py")
    content = (tmp_path / "harvest" / pack.FILE).read_bytes()
    index, code = pack.read_pack(memoryview(content))
    index["roots"][str(tmp_path / "site")] = WEIGHTS_MTIME
    text = json.dumps(index).encode()
    (tmp_path / "harvest" / pack.FILE).write_bytes(len(text).to_bytes(8, "little") + text + code)
    install_pack(script)
    module = importlib.import_module("bakery_packed")
    assert module.value == "old"
    assert module.__file__ == str(tmp_path / "site" / "bakery_packed.py")
    # Whoever asks again gets what is there now.
    del sys.modules["bakery_packed"]
    assert importlib.import_module("bakery_packed").value == "much newer"


def test_pack_is_left_where_a_root_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_pack(packed(tmp_path, monkeypatch, "elsewhere/script.py"))
    assert importlib.import_module("bakery_packed").value == "much newer"
    assert f"boot: pack is off below {tmp_path / 'site'}" in capsys.readouterr().err


def test_pack_checks_every_file_beside_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_pack(packed(tmp_path, monkeypatch, "site/script.py"))
    assert importlib.import_module("bakery_packed").value == "much newer"


def test_pack_of_another_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = packed(tmp_path, monkeypatch, "elsewhere/script.py")
    monkeypatch.setattr(importlib.util, "MAGIC_NUMBER", b"\0\0\0\0")
    install_pack(script)
    assert "boot: pack is off: it was made by another Python" in capsys.readouterr().err


def baked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "lora.safetensors"
    write_safetensors(path, {}, b"data")
    os.utime(path, (WEIGHTS_MTIME, WEIGHTS_MTIME))
    worker = {"weights": [{"path": str(path), "size_bytes": path.stat().st_size, "sha256": "ab"}]}
    (tmp_path / "worker.json").write_text(json.dumps(worker))
    monkeypatch.setenv("BAKERY_WORKER_FILE", str(tmp_path / "worker.json"))
    return path


def test_hashes_of_baked_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = baked(tmp_path, monkeypatch)
    extra = tmp_path / hashes.FILE
    extra.write_text(json.dumps(hashes.make_file(hashes.read_known(""))))
    known = hashes.read_known(str(extra))

    class Upstream:
        @staticmethod
        def sha256_from_cache(filename: str, title: str, use_addnet_hash: bool = False) -> str:
            return f"upstream {title} {use_addnet_hash}"

    hashes._answer(Upstream, known)
    assert Upstream.sha256_from_cache(str(path), "lora/lora") == "ab"
    data = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
    assert Upstream.sha256_from_cache(str(path), "lora/lora", True) == data
    assert Upstream.sha256_from_cache("/other", "x") == "upstream x False"
    for make in (lambda _: Path("/proc/x").mkdir(), lambda _: sqlite3.connect("/proc/x/y")):
        unwritable = SimpleNamespace(cached_data_for_file=None, make_cache=make)
        hashes._read_directly(unwritable, known)
        cache = unwritable.make_cache("hashes")
        assert bool(cache)
        cache["x"] = {"mtime": 1}
        assert cache.get("x") == {"mtime": 1}
    os.utime(path, (WEIGHTS_MTIME + 5, WEIGHTS_MTIME + 5))
    assert Upstream.sha256_from_cache(str(path), "lora/lora") == "upstream lora/lora False"
