"""Where each tensor of a checkpoint will lie in memory, and that memory, before torch is there.

Memory that is touched for the first time costs the kernel time (and a virtual machine's host again):
4 GB took 3 to 14 s of one core where this was measured. The imports leave cores idle meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import threading
from typing import Any

ALIGN_BYTES = 512
"""As torch's own allocators place tensors: kernels choose their way by alignment."""
TYPES = {
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F32": ("float32", 4),
    "F64": ("float64", 8),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "U8": ("uint8", 1),
}
HALF_TYPES = ("float16", "bfloat16")
THREADS = 2
TOUCH_BYTES = 32 << 20
"""Touched by one call: after it a thread sees whether torch has come."""
NICE = 10
"""Imports are what everything waits for; threads that prepare take what they leave."""


class Tensor:
    """One entry of a safetensors header."""

    def __init__(self, name: str, entry: dict[str, Any], base: int) -> None:
        self.name = name
        self.kind, self.item_bytes = TYPES[entry["dtype"]]
        self.shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        self.begin = base + begin
        self.count = (end - begin) // self.item_bytes
        if self.begin % self.item_bytes:
            raise ValueError(f"{name} begins at the odd offset {self.begin}")

    @property
    def group(self) -> tuple[str, str]:
        """Tensors of one component and type share their memory: `deepcopy` of a VAE copies only that."""
        return self.name.partition(".")[0], self.kind


def read_header(path: str) -> list[Tensor]:
    """The tensors of a safetensors file in the order of their bytes.

    Raises:
        ValueError, KeyError: it is no such file, or has a type that `TYPES` lacks.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        length = int.from_bytes(file.read(8), "little")
        if length > 100 << 20:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    tensors = [Tensor(name, entry, 8 + length) for name, entry in header.items()]
    return sorted(tensors, key=lambda tensor: tensor.begin)


class Group:
    """Tensors of one component and type, one after the other in one piece of memory."""

    def __init__(self, members: list[Tensor], *, to_float: bool) -> None:
        self.members = members
        self.source_kind = members[0].kind
        becomes_float = to_float and self.source_kind in HALF_TYPES
        self.kind = "float32" if becomes_float else self.source_kind
        self.item_bytes = 4 if becomes_float else members[0].item_bytes
        step = ALIGN_BYTES // self.item_bytes
        self.places: list[tuple[int, int]] = []
        """For each member where it begins and how many items it has."""
        self.count = 0
        for each in members:
            self.places.append((self.count, each.count))
            self.count += -(-each.count // step) * step
        self.memory: mmap.mmap | None = None

    def allocate(self) -> mmap.mmap:
        """The memory, in this machine's main memory; once."""
        if self.memory is None:
            size = max(self.count * self.item_bytes, 1)
            self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return self.memory


def make_groups(path: str, *, to_float: bool) -> list[Group]:
    """The groups of a safetensors file, `to_float` with halves becoming float32.

    Raises:
        ValueError, KeyError: as `read_header`.
    """
    members: dict[tuple[str, str], list[Tensor]] = {}
    for tensor in read_header(path):
        members.setdefault(tensor.group, []).append(tensor)
    return [Group(each, to_float=to_float) for each in members.values()]


class Touch:
    """Touches the groups' memory, first to last, until it is all there or `stop` is called."""

    def __init__(self, groups: list[Group]) -> None:
        self._pieces = [piece for group in groups for piece in _split(group.allocate())]
        self._pieces.reverse()
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name="boot-touch")
            for _ in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        be_nice()
        with contextlib.suppress(IndexError):
            while True:
                ctypes.memset(*self._pieces.pop())

    def stop(self) -> None:
        """Returns when no thread writes any more."""
        self._pieces.clear()
        for thread in self._threads:
            thread.join()


def _split(memory: mmap.mmap) -> list[tuple[int, int, int]]:
    """Arguments of memset."""
    first, size = ctypes.addressof(ctypes.c_char.from_buffer(memory)), len(memory)
    return [(first + at, 0, min(TOUCH_BYTES, size - at)) for at in range(0, size, TOUCH_BYTES)]


def be_nice() -> None:
    """Lets the other threads of this process go first, where Linux lets it."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
