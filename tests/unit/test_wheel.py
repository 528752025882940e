"""The xformers wheel: what its key depends on, what a wheel holds code for, when it is compiled."""

import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest

from bake.console import Console
from bake.errors import BuildError, ManifestError
from bake.image.build.dockerfile import Dockerfile, parse_dockerfile
from bake.image.build.wheel import (
    WheelPlan,
    find_wheel,
    plan_wheel,
    provide_wheel,
    wheel_architectures,
)
from bake.image.engine.docker import Engine

NAME = "xformers-0.0.23.post1-cp310-cp310-linux_x86_64.whl"
LOCKS = {
    "torch.txt": "numpy==1.26.2 --hash=sha256:0\ntorch==2.1.2 \\\n    --hash=sha256:1\n",
    "xformers.txt": "xformers==0.0.23.post1 --hash=sha256:2\n",
}
TEXT = """\
ARG PYTHON_IMAGE=python:3.10
ARG CUDA_IMAGE=cuda:12.1
FROM ${PYTHON_IMAGE} AS torch
RUN install torch
FROM ${CUDA_IMAGE} AS xformers-build
ARG CUDA_ARCHITECTURE=8.9
ARG FLASH_ATTENTION=1
ARG MAX_JOBS=
RUN compile
FROM scratch AS xformers
FROM torch AS webui
"""


def fatbin(*entries: tuple[int, int]) -> bytes:
    """A fat binary as nvcc embeds it: `(kind, architecture)` of each entry; kind 2 is a cubin, 1 is PTX."""
    content = b""
    for kind, architecture in entries:
        code = b"\x7fELF" + b"\0" * 60
        header = struct.pack(
            "<HHIQIIHHIII", kind, 0x101, 64, len(code), 0, 0, 1, 2, architecture, 0, 0
        )
        content += header.ljust(64, b"\0") + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(content)) + content


def write_wheel(folder: Path, *extensions: bytes, name: str = NAME) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("xformers/__init__.py", "")
        for number, extension in enumerate(extensions):
            archive.writestr(f"xformers/_C{number}.so", extension)
    return folder / name


def plan(
    text: str = TEXT, *, brought: Path | None = None, args: Mapping[str, str] | None = None
) -> WheelPlan:
    found = plan_wheel(parse_dockerfile(text), build_args=args or {}, locks=LOCKS, brought=brought)
    assert found is not None
    return found


class Compiler:
    """Takes the engine's place: leaves a wheel where buildx would."""

    def __init__(self, *extensions: bytes) -> None:
        self.extensions = extensions
        self.calls: list[list[str]] = []

    def buildx(self, arguments: Sequence[str], *, log: Path, what: str) -> None:
        self.calls.append(list(arguments))
        output = arguments[list(arguments).index("--output") + 1]
        write_wheel(Path(output.partition("dest=")[2]), *self.extensions)


def provide(compiler: Compiler, cache: Path, planned: WheelPlan) -> Path:
    return provide_wheel(
        planned,
        cache=cache,
        engine=cast(Engine, compiler),
        build=["--file", "Dockerfile.base", "context"],
        log=cache / "log",
        console=Console(quiet=True),
    )


def test_the_key_document_names_what_the_code_depends_on() -> None:
    document = dict(plan().document)
    assert len(document.pop("stage")) == 64
    assert document == {
        "xformers": "0.0.23.post1",
        "torch": "2.1.2",
        "PYTHON_IMAGE": "python:3.10",
        "CUDA_IMAGE": "cuda:12.1",
        "CUDA_ARCHITECTURE": "8.9",
        "FLASH_ATTENTION": "1",
    }


@pytest.mark.parametrize(
    "build_args",
    [
        {"CUDA_ARCHITECTURE": "9.0"},
        {"FLASH_ATTENTION": "0"},
        {"CUDA_IMAGE": "x"},
        {"PYTHON_IMAGE": "x"},
    ],
)
def test_another_card_compiler_or_python_is_another_wheel(build_args: dict[str, str]) -> None:
    assert plan(args=build_args).key != plan().key


def test_jobs_comments_and_other_stages_are_no_reason_to_compile_again() -> None:
    assert plan(args={"MAX_JOBS": "8"}).key == plan().key
    assert plan(TEXT.replace("RUN compile", "# how\nRUN compile")).key == plan().key
    assert plan(TEXT.replace("RUN install torch", "RUN install torch again")).key == plan().key
    assert plan(TEXT.replace("RUN compile", "RUN compile --fast")).key != plan().key


def test_a_base_without_the_stages_needs_no_wheel() -> None:
    none: Dockerfile = parse_dockerfile("FROM python:3.10 AS demo\n")
    assert plan_wheel(none, build_args={}, locks=LOCKS) is None


def test_architectures_are_counted_by_cubin_and_ptx_is_not(tmp_path: Path) -> None:
    broken = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 1 << 40)
    extension = b"padding" + fatbin((2, 89), (2, 89), (1, 75)) + broken + fatbin((2, 90))
    wheel = write_wheel(tmp_path, extension, b"no code", fatbin((2, 89)))
    assert wheel_architectures(wheel) == {"8.9": 3, "9.0": 1}


def test_a_missing_wheel_is_compiled_once_and_kept(tmp_path: Path) -> None:
    compiler = Compiler(fatbin((2, 89)))
    first = provide(compiler, tmp_path, plan())
    second = provide(compiler, tmp_path, plan(args={"MAX_JOBS": "4"}))
    assert first == second == tmp_path / plan().key
    assert [path.name for path in first.iterdir()] == [NAME]
    (call,) = compiler.calls
    assert call[:2] == ["--file", "Dockerfile.base"]
    assert call[-1] == "context"
    assert call[call.index("--target") + 1] == "xformers"


def test_a_wheel_for_another_card_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"machine code for 8\.0, 9\.0, the image is for 8\.9"):
        provide(Compiler(fatbin((2, 80), (2, 90))), tmp_path, plan())
    assert list(tmp_path.iterdir()) == []


def test_a_ready_made_wheel_is_taken_as_it_is_and_never_compiled(tmp_path: Path) -> None:
    brought = write_wheel(tmp_path / "mine", fatbin((2, 89)))
    compiler = Compiler()
    planned = plan(brought=brought)
    folder = provide(compiler, tmp_path / "cache", planned)
    assert set(planned.document) == {"ready-made wheel", "CUDA_ARCHITECTURE"}
    assert compiler.calls == []
    found = find_wheel(folder)
    assert found is not None
    assert found.read_bytes() == brought.read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("xformers-0.0.22-cp310-cp310-linux_x86_64.whl", "expected xformers 0.0.23.post1"),
        ("xformers-0.0.23.post1-cp311-cp311-linux_x86_64.whl", "for CPython 3.10"),
        (NAME, r"machine code for no card at all, the image is for 8\.9"),
    ],
)
def test_a_ready_made_wheel_that_does_not_fit_is_refused(
    tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        plan(brought=write_wheel(tmp_path, b"", name=name))


def test_a_ready_made_wheel_that_is_not_there_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="there is no such wheel"):
        plan(brought=tmp_path / NAME)
    (tmp_path / NAME).write_bytes(b"<html>")
    with pytest.raises(ManifestError, match="not a ZIP archive"):
        plan(brought=tmp_path / NAME)
