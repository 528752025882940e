"""The CUDA halves of boot's tricks, with a torch and a driver that stand in: what goes to the card, and what fails."""

import ctypes
import json
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.boot import upload as uploading
from runtime.boot.context import Context
from runtime.boot.tricks import gpu, weights
from runtime.boot.upload import Place, make_portions, read_portion, upload
from tests.unit.test_boot_weights import write_safetensors


class Tensor:
    """A flat tensor, of this machine's memory."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def view(self, kind: Any) -> "Tensor":
        return Tensor(
            self.values.view(kind) if isinstance(kind, type) else self.values.reshape(kind)
        )

    def __getitem__(self, part: slice) -> "Tensor":
        return Tensor(self.values[part])

    def copy_(self, source: "Tensor", *, non_blocking: bool) -> None:
        assert non_blocking
        self.values[:] = source.values

    def data_ptr(self) -> int:
        return int(self.values.ctypes.data)

    def numel(self) -> int:
        return int(self.values.size)

    def split_with_sizes(self, sizes: list[int]) -> list["Tensor"]:
        return [Tensor(each) for each in np.split(self.values, np.cumsum(sizes)[:-1])]


class Torch:
    """As much of torch as an upload needs; `calls` says what the card was asked for."""

    uint8, float16, float32, int64 = np.uint8, np.float16, np.float32, np.int64

    def __init__(self, *, free: int = 1 << 40, error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self.error = error
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            mem_get_info=lambda: (free, free),
            synchronize=lambda: self.calls.append("synchronize"),
            Stream=lambda: SimpleNamespace(synchronize=self._end),
            stream=self._stream,
        )

    def _end(self) -> None:
        self.calls.append("a stream's end")
        if self.error is not None:
            raise self.error

    @contextmanager
    def _stream(self, _stream: Any) -> Iterator[None]:
        yield

    def empty(
        self, count: int, *, dtype: type, device: str = "", pin_memory: bool = False
    ) -> Tensor:
        assert device == "cuda" or pin_memory
        return Tensor(np.full(count, 7, dtype=dtype))


def random_places(rng: random.Random) -> tuple[list[Place], int, int]:
    """Places that ascend on the card, anywhere in the file."""
    places, in_file, on_card = [], rng.randrange(90), 0
    for _ in range(rng.randrange(1, 12)):
        size = rng.choice([0, 1, rng.randrange(1, 40), rng.randrange(1, 400)])
        places.append(Place(in_file, on_card, size))
        in_file += size + rng.choice([0, 0, 0, rng.randrange(50)])
        on_card += -(-size // 16) * 16
    return places, in_file, on_card


@pytest.mark.parametrize("seed", range(60))
def test_every_byte_is_read_to_its_place(seed: int, tmp_path: Path, monkeypatch: Any) -> None:
    rng = random.Random(seed)
    most = rng.choice([32, 48, 1 << 20])
    monkeypatch.setattr(uploading, "BUFFER_BYTES", most)
    monkeypatch.setattr(uploading, "MOST_VIEWS", rng.choice([1, 2, 1024]))
    places, file_bytes, card_bytes = random_places(rng)
    content = rng.randbytes(file_bytes)
    (tmp_path / "file").write_bytes(content)
    memory = Tensor(np.zeros(card_bytes, dtype=np.uint8))
    portions = make_portions(memory, places, most)
    assert all(0 < each.end - each.begin <= most for each in portions)
    torch = Torch()
    upload(torch, str(tmp_path / "file"), portions)
    for place in places:
        found = memory.values[place.on_card : place.on_card + place.size].tobytes()
        assert found == content[place.in_file : place.in_file + place.size]
    assert torch.calls == ["synchronize", *["a stream's end"] * len(portions)]


def test_short_reads_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(200))

    def preadv(_file: int, views: list[memoryview], at: int) -> int:
        size = min(7, len(views[0]))
        views[0][:size] = content[at : at + size]
        return size

    monkeypatch.setattr(os, "preadv", preadv)
    [portion] = make_portions(None, [Place(3, 0, 50), Place(53, 64, 100)], 1 << 20)
    buffer = bytearray(164)
    read_portion(0, portion, memoryview(buffer))
    assert bytes(buffer[:50] + buffer[64:]) == content[3:153]


def checkpoint(path: Path) -> dict[str, Any]:
    """Halves of two components and a tensor of another type between them; returns what is in it."""
    rng = np.random.default_rng(1)
    tensors: dict[str, Any] = {
        "a.x": rng.standard_normal((3, 5)).astype(np.float16),
        "a.n": np.arange(4, dtype=np.int64),
        "a.large": rng.standard_normal(5000).astype(np.float16),
        "b.y": rng.standard_normal((2, 2, 50)).astype(np.float16),
    }
    order = ["a.n", "a.x", "b.y", "a.large"]
    header, at, data = {}, 0, b""
    for name in order:
        kind = "I64" if name == "a.n" else "F16"
        end = at + tensors[name].nbytes
        header[name] = {
            "dtype": kind,
            "shape": list(tensors[name].shape),
            "data_offsets": [at, end],
        }
        data += tensors[name].tobytes()
        at = end
    pad = -(8 + len(json.dumps({"__metadata__": {"a": ""}, **header}))) % 8
    write_safetensors(path, {"__metadata__": {"a": " " * pad}, **header}, data)
    return tensors


def prepare(path: Path, torch: Torch, *arguments: str) -> weights.Prepared:
    prepared = weights.Prepared(str(path), Context(script="", arguments=arguments, began=0.0))
    prepared._run(torch)
    return prepared


def test_tensors_on_the_card_are_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKERY_TIMELINE", str(tmp_path / "timeline"))
    for each in (uploading, weights):
        monkeypatch.setattr(each, "BUFFER_BYTES", 1024)
    expected = checkpoint(tmp_path / "a.safetensors")
    prepared = prepare(tmp_path / "a.safetensors", Torch())
    assert prepared.device == "cuda"
    assert prepared.tensors is not None
    assert set(prepared.tensors) == set(expected)
    for name, (flat, shape) in prepared.tensors.items():
        assert flat.view(shape).values.dtype == expected[name].dtype
        assert np.array_equal(flat.view(shape).values, expected[name])


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: an illegal memory access"), MemoryError()]
)
def test_an_upload_that_fails_leaves_the_file_to_the_webui(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    monkeypatch.setenv("BAKERY_TIMELINE", str(tmp_path / "timeline"))
    checkpoint(tmp_path / "a.safetensors")
    prepared = prepare(tmp_path / "a.safetensors", Torch(error=error))
    assert prepared.tensors is None
    assert capsys.readouterr().err == f"boot: weights is off: {error!r}\n"


def test_a_file_that_was_cut_leaves_the_rest_to_the_webui(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BAKERY_TIMELINE", str(tmp_path / "timeline"))
    path = tmp_path / "a.safetensors"
    checkpoint(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert prepare(path, Torch()).tensors is None
    assert "weights is off: OSError('the file ends at byte " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--device-id", "1"), ("--lowvram",), ("--use-cpu", "all")])
def test_what_is_not_for_the_first_card_stays_off_it(arguments: tuple[str, ...]) -> None:
    context = Context(script="", arguments=arguments, began=0.0)
    prepared = weights.Prepared("a", context)
    assert prepared._choose_device(Torch()) == "cpu"


class Driver:
    """libcuda: its calls, and what each answers."""

    def __init__(self, **answers: int) -> None:
        self.calls: list[str] = []
        self.answers = answers

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*_arguments: Any) -> int:
            self.calls.append(name)
            return self.answers.get(name, 0)

        return call


@pytest.fixture
def _new_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "_is_made", threading.Event())
    monkeypatch.setenv("BAKERY_TIMELINE", str(tmp_path / "timeline"))
    monkeypatch.setenv("CUDA_MODULE_LOADING", "")  # so that it is put back if it was not set
    monkeypatch.delenv("CUDA_MODULE_LOADING")


def start(monkeypatch: pytest.MonkeyPatch, driver: Any, *arguments: str) -> dict[str, Any]:
    """Installs the trick; returns what it does after which import."""
    monkeypatch.setattr(ctypes, "CDLL", driver)
    hooked: dict[str, Any] = {}
    monkeypatch.setattr(
        gpu, "after_import", lambda name, call, *, trick: hooked.update({name: call})
    )
    gpu.install(Context(script="", arguments=arguments, began=0.0))
    join()
    return hooked


def join() -> None:
    for thread in threading.enumerate():
        if thread.name == "boot-gpu":
            thread.join(60)


class Recorder:
    """Any object: what was called of it, by its path."""

    def __init__(self, calls: list[str], path: str = "") -> None:
        self.calls, self.path = calls, path

    def __getattr__(self, name: str) -> "Recorder":
        return Recorder(self.calls, f"{self.path}.{name}".lstrip("."))

    def __call__(self, *_: Any, **__: Any) -> "Recorder":
        self.calls.append(self.path)
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...


@pytest.mark.usefixtures("_new_process")
def test_the_context_comes_from_the_driver_and_then_the_first_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver, calls = Driver(), list[str]()
    hooked = start(monkeypatch, lambda _name: driver)
    assert driver.calls == ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"]
    assert os.environ["CUDA_MODULE_LOADING"] == "LAZY"
    torch = Recorder(calls)
    hooked["torch"](torch)
    join()
    assert {"nn.functional.conv2d", "nn.functional.group_norm", "matmul"} <= set(calls)
    assert calls[-1] == "cuda.synchronize"
    monkeypatch.setitem(sys.modules, "torch", torch)
    hooked["xformers.ops"](Recorder(calls))
    join()
    assert "memory_efficient_attention" in calls
    events = [json.loads(line)["name"] for line in (tmp_path / "timeline").open()]
    assert events == ["gpu context", "gpu first use", "gpu first attention"]


@pytest.mark.usefixtures("_new_process")
def test_a_driver_that_fails_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(monkeypatch, lambda _name: Driver(cuInit=100))
    assert not gpu._is_made.is_set()
    said = "boot: gpu context is off: OSError(100, 'cuInit failed')\n"
    assert capsys.readouterr().err == said


@pytest.mark.usefixtures("_new_process")
def test_without_a_driver_there_is_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    start(monkeypatch, load)
    assert not gpu._is_made.is_set()
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("_new_process")
@pytest.mark.parametrize("arguments", [("--use-cpu", "all"), ("--device-id", "1")])
def test_where_another_device_draws_the_driver_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    driver = Driver()
    assert start(monkeypatch, lambda _name: driver, *arguments) == {}
    assert driver.calls == []
