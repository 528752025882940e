"""The check on a card: what a record proves, what the table says, and that the runtime believes the records only."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bake.assets import card_check_files, package_folder
from benchmarks.cold_start_client import attention_of
from benchmarks.cold_start_runs import Run
from benchmarks.gpu import attention, check
from benchmarks.gpu.record import hash_tricks, proven, recorded_kinds
from runtime.boot.choice import ON_DEVICE, RECORDED, TRICKS

RECORDS = Path(__file__).parents[2] / "docs" / "records"


def record(**pictures: str) -> dict[str, Any]:
    """Two rounds of every variant, all `same` but for what is named."""
    runs = [
        {"checkpoint": "sd15", "variant": name, "picture": pictures.get(name, "same")}
        for name in ("plain", "all", *TRICKS)
        for _ in range(2)
    ]
    about = {"device": "cuda", "tricks": hash_tricks(), "failed": {}}
    return {"environment": about, "figures": {}, "runs": runs}


def test_the_runtime_believes_what_records_prove_and_no_more() -> None:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in RECORDS.glob("*.json")]
    assert recorded_kinds(records) == RECORDED, "docs/records/README.md says when they differ"


def test_a_record_proves_each_trick_that_drew_upstreams_picture() -> None:
    assert proven(record()) == list(TRICKS)
    assert proven(record(place="other")) == [name for name in TRICKS if name != "place"]
    assert recorded_kinds([record(gc="other")]) == {"cuda"}
    assert recorded_kinds([record(place="other")]) == set()


def one_plain_start(made: dict[str, Any]) -> None:
    made["runs"] = made["runs"][1:]


def plain_that_varies(made: dict[str, Any]) -> None:
    made["runs"][0]["picture"] = "other"


def all_differ(made: dict[str, Any]) -> None:
    made["runs"][3]["picture"] = "other"


def a_failure(made: dict[str, Any]) -> None:
    made["environment"]["failed"] = {"sd15: gpu": "died"}


def a_second_checkpoint(made: dict[str, Any]) -> None:
    made["runs"] += [{"checkpoint": "sdxl", "variant": "plain", "picture": "a"}] * 2


def nothing(made: dict[str, Any]) -> None:
    made["runs"] = []


@pytest.mark.parametrize(
    "spoil",
    [one_plain_start, plain_that_varies, all_differ, a_failure, a_second_checkpoint, nothing],
)
def test_a_record_that_is_not_whole_proves_nothing(spoil: Callable[[Any], None]) -> None:
    made = record()
    spoil(made)
    assert proven(made) == []
    assert recorded_kinds([made]) == set()


@pytest.mark.parametrize("name", sorted(ON_DEVICE))
def test_a_record_of_other_code_proves_nothing_of_todays(name: str) -> None:
    made = record()
    made["environment"]["tricks"][name] = "0" * 64
    assert recorded_kinds([made]) == set()
    assert recorded_kinds([made, record()]) == {"cuda"}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["Applying attention optimization: xformers... done."], "xformers"),
        (["Applying attention optimization: sdp... done.", "Loading", ""], "sdp"),
        (
            ["Applying attention optimization: a... done.", "Disabling attention optimization"],
            "none",
        ),
        (["nothing of the kind"], ""),
    ],
)
def test_what_the_webui_says_of_attention(lines: list[str], said: str) -> None:
    assert attention_of(lines) == said


def test_the_probe_counts_what_is_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Flash:
        NAME = "flshattF@v2"

        @classmethod
        def apply(cls, value: int, *, needs_gradient: bool) -> tuple[type, int, bool]:
            return cls, value, needs_gradient

    class Cutlass(Flash):
        NAME = "cutlassF"

    monkeypatch.setenv("PROBE_FILE", str(tmp_path / "probe.json"))
    attention._calls.clear()
    attention.watch_xformers(SimpleNamespace(ALL_FW_OPS=[Flash, Cutlass]))
    functional = SimpleNamespace(scaled_dot_product_attention=lambda query, **_: query + 1)
    attention.watch_torch(functional)
    assert Flash.apply(3, needs_gradient=False) == (Flash, 3, False)
    assert Flash.apply(4, needs_gradient=True) == (Flash, 4, True)
    assert functional.scaled_dot_product_attention(1, scale=None) == 2
    assert json.loads((tmp_path / "probe.json").read_text()) == {
        "flshattF@v2": 2,
        "torch.scaled_dot_product_attention": 1,
    }


def run(variant: str, picture: str = "a", seconds: float = 2.0, **more: Any) -> Run:
    given: dict[str, Any] = {
        "checkpoint": "sd15",
        "cache": "warm",
        "webui_cpu_s": 1.0,
        "read_bytes": 0,
    }
    return Run(variant=variant, picture=picture, first_picture_s=seconds, **given, **more)


def make_check(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> check.Check:
    monkeypatch.setattr("sys.argv", ["check", "--webui", "w", "--python", "p", "c", *arguments])
    card = dict(zip(check.CARD, ("NVIDIA X", "550.1", "8.9", "1 MiB", "4"), strict=True))
    return check.Check(check.read_arguments(), card)


def test_the_table_names_the_card_and_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_check(monkeypatch)
    memory = {"allocated": 2_000_000_000, "allocated_peak": 3_500_000_000}
    about: dict[str, Any] = {"attention": "xformers", "torch_bytes": memory, "smi_bytes": 4 << 30}
    made.runs = [run("plain", seconds=4.0, phases={"model": (1.0, 3.0)}, **about)]
    made.runs += [run("plain", seconds=6.0, phases={"model": (2.0, 5.0)}, **about)]
    made.runs += [run("all", picture="b", seconds=2.5)]
    made.versions = {"torch": "2.1.2", "xformers": None}
    made.attention = {"sd15": {"kernels": {"flshattF@v2.3.6": 64}, "picture": "a"}}
    lines = made.table().splitlines()
    assert lines[0] == "NVIDIA X, driver 550.1, compute capability 8.9, torch 2.1.2"
    assert lines[4] == (
        "| sd15 | warm | plain | the same | 5.00 (4.00 to 6.00), 2 | 2000, 3500 | 4295 | xformers | "
        "model 1.50-4.00 |"
    )
    assert lines[5] == "| sd15 | warm | all | DIFFERS | 2.50 (2.50 to 2.50), 1 | -, - | - |  |  |"
    assert not made.is_good
    assert made.figures() == {"sd15_warm_all": 0.5}
    assert made.verdict().splitlines()[1:] == [
        "sd15: attention was computed by flshattF@v2.3.6 (64 calls)",
        "proven on this cuda: nothing",
    ]


def test_a_check_that_saw_nothing_is_not_good(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not make_check(monkeypatch).is_good


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--webui", "w", "--python", "p"], "name a checkpoint, or one to be made: --make sd15"),
        (["c"], "give --worker, or --webui and --python"),
        (["--worker", "w", "--tricks", "gcc"], "no such trick: gcc (there are weights, "),
    ],
)
def test_arguments_that_do_not_fit(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["check", *arguments])
    with pytest.raises(SystemExit, match="2"):
        check.read_arguments()
    assert said in capsys.readouterr().err


def test_an_image_is_given_all_that_the_check_imports(tmp_path: Path) -> None:
    for name, path in card_check_files().items():
        (tmp_path / "check" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "check" / name)
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "runtime").symlink_to(package_folder("runtime"))
    script = tmp_path / "check" / "benchmarks" / "gpu" / "check.py"
    for command in ([script, "--help"], ["-m", "benchmarks.cold_start_client", "{}"]):
        ended = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=tmp_path / "check",
            env={**os.environ, "PYTHONPATH": str(tmp_path / "image")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "ModuleNotFoundError" not in ended.stderr
        assert "ImportError" not in ended.stderr


def test_without_a_card_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["check", "--worker", "w"])
    assert check.main() == 3
    assert "no NVIDIA card: nvidia-smi is not there" in capsys.readouterr().err
