"""The trick `weights`: a file's header, tensors that lie together, and copying each of them once."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from runtime.boot.context import Context
from runtime.boot.tricks import weights


def write_safetensors(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_header(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    header = {
        "__metadata__": {"a": "b"},
        "x.late": {"dtype": "F16", "shape": [2, 2], "data_offsets": [8, 16]},
        "y.early": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
    }
    pad = -(8 + len(json.dumps(header))) % 8
    header["__metadata__"] = {"a": "b" + " " * pad}
    write_safetensors(path, header, bytes(16))
    late, early = reversed(weights.read_header(str(path)))
    assert (early.name, early.kind, early.count, early.group) == (
        "y.early",
        "int64",
        1,
        ("y", "int64"),
    )
    assert (late.shape, late.count, late.begin) == ((2, 2), 4, early.begin + 8)


def test_header_with_a_type_or_an_offset_that_boot_leaves_to_upstream(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, b"0")
    with pytest.raises(KeyError, match="F8_E4M3"):
        weights.read_header(str(path))
    entry = {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}
    name = "x" if len(json.dumps({"x": entry})) % 2 else "xx"
    write_safetensors(path, {name: entry}, b"00")
    with pytest.raises(ValueError, match="begins at the odd offset"):
        weights.read_header(str(path))


def write_checkpoint(path: Path) -> None:
    entries = {"a.n": ("I64", 1), "a.x": ("F16", 3), "b.y": ("F16", 200), "a.z": ("F16", 300)}
    header, at = {}, 0
    for name, (kind, count) in entries.items():
        end = at + count * (8 if kind == "I64" else 2)
        header[name] = {"dtype": kind, "shape": [count], "data_offsets": [at, end]}
        at = end
    pad = -(8 + len(json.dumps({"__metadata__": {"a": ""}, **header}))) % 8
    write_safetensors(path, {"__metadata__": {"a": " " * pad}, **header}, bytes(at))


@pytest.mark.parametrize(
    ("to_float", "kind", "begins"), [(False, "float16", 256), (True, "float32", 128)]
)
def test_tensors_of_a_component_lie_together_and_aligned(
    tmp_path: Path, to_float: bool, kind: str, begins: int
) -> None:
    write_checkpoint(tmp_path / "a.safetensors")
    groups = weights.make_groups(str(tmp_path / "a.safetensors"), to_float=to_float)
    assert [[each.name for each in group.members] for group in groups] == [
        ["a.n"],
        ["a.x", "a.z"],
        ["b.y"],
    ]
    assert [group.kind for group in groups] == ["int64", kind, kind]
    assert groups[1].places == [(0, 3), (begins, 300)]
    assert all(begin * group.item_bytes % 512 == 0 for group in groups for begin, _ in group.places)
    assert [len(group.allocate()) for group in groups] == [
        group.count * group.item_bytes for group in groups
    ]
    assert groups[0].allocate() is groups[0].allocate()


class Torch:
    """As much of torch as a copy between tensors needs."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.copied: list[str] = []

    def get_num_threads(self) -> int:
        return 1

    def _foreach_copy_(self, targets: tuple[str, ...], _sources: tuple[Any, ...]) -> None:
        if self.error is not None:
            raise self.error
        self.copied += targets


class Source:
    def numel(self) -> int:
        return 3

    def element_size(self) -> int:
        return 2


def prepared_for(path: Path) -> weights.Prepared:
    write_checkpoint(path)
    arguments = ("--no-half", "--use-cpu", "all")
    return weights.Prepared(str(path), Context(script="webui.py", arguments=arguments, began=0.0))


def test_every_tensor_is_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PIECE_BYTES", 12)
    torch = Torch()
    names = [str(number) for number in range(101)]
    prepared_for(tmp_path / "a.safetensors")._copy(torch, [(name, Source()) for name in names])
    assert sorted(torch.copied, key=int) == names


@pytest.mark.parametrize("error", [IndexError("out of range"), RuntimeError("no memory")])
def test_a_copy_that_fails_leaves_the_file_to_the_webui(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    prepared = prepared_for(tmp_path / "a.safetensors")
    prepared.lay_out()
    assert prepared.groups
    torch = Torch(error)
    monkeypatch.setattr(prepared, "_prepare", lambda _: prepared._copy(torch, [("a", Source())]))
    prepared._run(torch)
    assert prepared.tensors is None
    assert prepared.groups == []
    assert f"weights is off: {error!r}" in capsys.readouterr().err
