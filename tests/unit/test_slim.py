"""What the base's build leaves out: files, and the machine code of other cards."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bake import assets
from tests.unit.test_wheel import fatbin, write_wheel

SLIM: dict[str, Any] = runpy.run_path(str(assets.SLIM))
PTX, CUBIN = 1, 2


def library(folder: Path, name: str, *binaries: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without ELF's first bytes: ldd takes a tenth of a second a file.
    path.write_bytes(b"\0" * 64 + b"text".join(binaries) + b"the end")
    return path


def codes(path: Path) -> list[tuple[int, int, bool]]:
    """Kind, architecture and whether there is code, of every entry."""
    content = path.read_bytes()
    return [
        (entry.kind, entry.architecture, any(content[entry.begin : entry.begin + entry.size]))
        for entries in SLIM["read_fat_binaries"](content)
        for entry in entries
    ]


def run_slim(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(assets.SLIM), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_other_cards_code_becomes_zeros_and_everything_else_stays(tmp_path: Path) -> None:
    entries = [(CUBIN, 50), (CUBIN, 80), (CUBIN, 86), (CUBIN, 90), (PTX, 90)]
    path = library(tmp_path, "torch/lib/libtorch_cuda.so", fatbin(*entries))
    before = path.read_bytes()
    saved = SLIM["slim"](tmp_path, card=89)
    assert codes(path) == [
        (CUBIN, 50, False),
        (CUBIN, 80, True),
        (CUBIN, 86, True),
        (CUBIN, 90, False),
        (PTX, 90, False),
    ]
    after = path.read_bytes()
    assert len(after) == len(before)
    assert all(new in (old, 0) for old, new in zip(before, after, strict=True))
    assert saved.zeroed == {"torch/lib/libtorch_cuda.so": 3 * 64}
    assert saved.kept == {"torch/lib/libtorch_cuda.so": {"8.0": 1, "8.6": 1}}


@pytest.mark.parametrize(
    "entries",
    [
        [(CUBIN, 70), (CUBIN, 90)],  # no code of this major number
        [(CUBIN, 70), (PTX, 70)],  # the driver compiles the PTX
        [(CUBIN, 87)],  # a later minor number does not run
    ],
)
def test_a_fat_binary_without_code_for_the_card_is_left_alone(
    tmp_path: Path, entries: list[tuple[int, int]]
) -> None:
    path = library(tmp_path, "torch/lib/a.so", fatbin(*entries), fatbin((CUBIN, 86)))
    before = path.read_bytes()
    SLIM["slim"](tmp_path, card=86)
    assert path.read_bytes() == before


def test_what_only_looks_like_a_fat_binary_is_not_touched(tmp_path: Path) -> None:
    looks = fatbin((CUBIN, 50), (CUBIN, 90))
    cut = looks[:-10]
    path = library(tmp_path, "torch/lib/a.so", cut, looks[:16], looks[:5], fatbin((CUBIN, 86)))
    before = path.read_bytes()
    SLIM["slim"](tmp_path, card=86)
    assert path.read_bytes() == before


def test_nvidias_libraries_are_changed_only_when_told(tmp_path: Path) -> None:
    library(tmp_path, "torch/lib/a.so", fatbin((CUBIN, 89)))
    theirs = library(
        tmp_path, "nvidia/cublas/lib/libcublas.so.12", fatbin((CUBIN, 50), (CUBIN, 89))
    )
    nccl = library(tmp_path, "nvidia/nccl/lib/libnccl.so.2", fatbin((CUBIN, 50), (CUBIN, 80)))
    before = theirs.read_bytes()
    SLIM["slim"](tmp_path, card=89)
    assert theirs.read_bytes() == before
    assert codes(nccl) == [(CUBIN, 50, False), (CUBIN, 80, True)]
    SLIM["slim"](tmp_path, card=89, nvidia=True)
    assert codes(theirs) == [(CUBIN, 50, False), (CUBIN, 89, True)]


def test_files_that_no_worker_opens_are_removed_and_counted(tmp_path: Path) -> None:
    library(tmp_path, "torch/lib/a.so", fatbin((CUBIN, 89)))
    kept = [
        "torch/testing/__init__.py",
        "nvidia/cudnn/lib/libcudnn_ops_infer.so.8",
        "numpy/core/x.py",
    ]
    gone = [
        "triton/ops/x.py",
        "triton-2.1.0.dist-info/RECORD",
        "torch/include/ATen/ATen.h",
        "nvidia/cudnn/include/cudnn.h",
        "nvidia/cudnn/lib/libcudnn_ops_train.so.8",
        "nvidia/cusolver/lib/libcusolverMg.so.11",
        "numpy/core/tests/test_x.py",
        "deep/inside/lib.a",
    ]
    for name in kept + gone:
        library(tmp_path, name)
    saved = SLIM["slim"](tmp_path, card=89)
    assert [name for name in kept if not (tmp_path / name).exists()] == []
    assert [name for name in gone if (tmp_path / name).exists()] == []
    assert sum(saved.removed.values()) == len(gone) * 71


@pytest.mark.parametrize("pattern", SLIM["LEFT_OUT"])
def test_what_was_left_out_and_comes_back_fails_the_check(tmp_path: Path, pattern: str) -> None:
    library(tmp_path, "torch/lib/a.so", fatbin((CUBIN, 89)))
    library(tmp_path, "numpy/core/x.py")
    SLIM["slim"](tmp_path, card=89)
    assert SLIM["find_back"](tmp_path, card=89) == []
    name = pattern.replace("**", "deep").replace("[!c]", "x").replace("*", "1")
    library(tmp_path, name)
    back = SLIM["find_back"](tmp_path, card=89)
    assert f"{name} is there again ({SLIM['LEFT_OUT'][pattern]})" in back
    done = run_slim(str(tmp_path), "--card", "8.9", "--check")
    assert (done.returncode, name in done.stdout) == (1, True)


def test_code_of_other_cards_that_comes_back_fails_the_check(tmp_path: Path) -> None:
    entries = (CUBIN, 50), (CUBIN, 89), (PTX, 90)
    library(tmp_path, "torch/lib/a.so", fatbin(*entries))
    library(tmp_path, "torch/lib/empty.so").write_bytes(b"")
    nvidia = library(tmp_path, "nvidia/cublas/lib/libcublas.so.12", fatbin(*entries))
    assert SLIM["find_back"](tmp_path, card=89) == [
        "torch/lib/a.so holds code of other cards again (5.0, 9.0)"
    ]
    SLIM["slim"](tmp_path, card=89)
    assert SLIM["find_back"](tmp_path, card=89) == []
    name = str(nvidia.relative_to(tmp_path))
    assert SLIM["find_back"](tmp_path, card=89, nvidia=True) == [
        f"{name} holds code of other cards again (5.0, 9.0)"
    ]
    done = run_slim(str(tmp_path), "--card", "8.9", "--check")
    assert (done.returncode, done.stdout) == (0, "nothing that was left out is back\n")


def test_packages_that_the_locks_leave_out_stay_out() -> None:
    lock = (assets.LOCKS / "webui.txt").read_text()
    overrides = (assets.LOCKS / "webui-overrides.txt").read_text()
    never = re.findall(r"^(\S+) ; sys_platform == 'never'$", overrides, re.MULTILINE)
    assert {"numba", "hf-xet", "opencv-python"} <= set(never)
    pinned = set(re.findall(r"^([A-Za-z0-9_.-]+)==", lock, re.MULTILINE))
    assert pinned & {*never, "llvmlite"} == set(), "llvmlite is what numba alone asks for"


def test_the_last_step_of_the_base_looks_whether_anything_is_back_or_missing() -> None:
    last = assets.DOCKERFILE_BASE.read_text().split("FROM ${PYTHON_IMAGE} AS webui")[1]
    steps = re.split(r"^(?:RUN|COPY) ", last, flags=re.MULTILINE)
    check = 'python3 /run/slim.py "$packages" --card "$CUDA_ARCHITECTURE" $nvidia --check\n'
    assert check in steps[-1]
    assert "/opt/webui-venv/bin/python -B /run/imports.py /opt/webui\n" in steps[-1]


def test_an_environment_without_code_for_the_card_is_an_error(tmp_path: Path) -> None:
    library(tmp_path, "torch/lib/a.so", b"")
    with pytest.raises(ValueError, match=r"no library below .* holds code for sm_89"):
        SLIM["slim"](tmp_path, card=89)


def test_a_library_that_is_linked_to_one_left_out_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an `ldd` that finds a library where it lies below the folder."""
    library(tmp_path, "sp/torch/lib/a.so", fatbin((CUBIN, 89)))
    (tmp_path / "sp/torch/lib/a.so").write_bytes(b"\x7fELF" + fatbin((CUBIN, 89)))
    needed = library(tmp_path, "sp/nvidia/cusolver/lib/libcusolverMg.so.11")
    tool = tmp_path / "bin/ldd"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n[ -e {needed} ] || echo '\tlibcusolverMg.so.11 => not found'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    with pytest.raises(
        ValueError, match=r"^torch/lib/a\.so needs libcusolverMg\.so\.11, which was left out$"
    ):
        SLIM["slim"](tmp_path / "sp", card=89)


def test_the_command_says_what_it_saved_and_where_it_lists(tmp_path: Path) -> None:
    library(tmp_path, "sp/torch/lib/a.so", fatbin((CUBIN, 50), (CUBIN, 89)))
    library(tmp_path, "sp/triton/x.py")
    done = run_slim(str(tmp_path / "sp"), "--card", "8.9", "--json", str(tmp_path / "saved.json"))
    assert done.returncode == 0, done.stderr
    assert "left out:      0.0 MB  triton  compiles kernels at run time" in done.stdout
    assert "zeroed:      0.0 MB  torch/lib/a.so" in done.stdout
    assert json.loads((tmp_path / "saved.json").read_text())["removed"] == {"triton": 71}
    wheel = write_wheel(tmp_path, fatbin((CUBIN, 89), (PTX, 90)))
    listed = run_slim("--list", str(wheel), str(tmp_path / "sp/torch/lib/a.so"))
    assert json.loads(listed.stdout) == {"5.0": 1, "8.9": 2}
    assert run_slim(str(tmp_path / "sp")).returncode == 2
