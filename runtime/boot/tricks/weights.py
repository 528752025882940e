"""`weights`: the checkpoint is converted and placed beside the imports, and handed over.

As soon as torch is there, threads make of every tensor what the webui would end with: on the CPU with
`--no-half` float32, on CUDA the file's own type on the device, else the file's bytes as they are.
`sd_models.read_state_dict` then returns these.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from runtime.boot import timeline
from runtime.boot.context import Context
from runtime.boot.hooks import after_import
from runtime.boot.threads import be_nice, share
from runtime.boot.upload import BUFFER_BYTES, Place, Portion, make_portions, upload

PIECE_BYTES = 64 << 20
"""Of the file, copied by one call: each call lets go of the interpreter's lock and waits for it."""
PART_OF_GPU_MEMORY = 0.6
"""Placed on the device in advance only where it takes no more than this of what is free."""
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


def install(context: Context) -> None:
    """Begins when torch is there."""
    path = context.option("--ckpt")
    if path is None or not path.endswith(".safetensors") or not os.path.isfile(path):  # noqa: PTH113
        return
    prepared = Prepared(os.path.realpath(path), context)
    context.prepared = prepared
    after_import("torch", prepared.start, trick="weights")
    after_import("modules.sd_models", prepared.offer, trick="weights")


class Prepared:
    """The checkpoint on its way from the file to the model."""

    def __init__(self, path: str, context: Context) -> None:
        self.path = path
        self.context = context
        self.groups: list[Group] = []
        self.tensors: dict[str, Any] | None = None
        self.device = "cpu"
        self._done = threading.Event()
        self._is_started = False

    def lay_out(self) -> list[Group]:
        """Where the tensors will lie, once known."""
        self.groups = self.groups or make_groups(self.path, to_float=self._to_float)
        return self.groups

    def start(self, torch: ModuleType) -> None:
        self._is_started = True
        threading.Thread(target=self._run, args=(torch,), daemon=True, name="boot-weights").start()

    def _run(self, torch: Any) -> None:
        began = time.monotonic()
        try:
            self.tensors = self._prepare(torch)
            timeline.write("prepare tensors", began)
        except Exception as error:  # noqa: BLE001  # the webui reads the file itself
            timeline.log(f"weights is off: {error!r}")
        finally:
            # The tensors alone hold the memory: it goes with the model.
            self.groups = []
            self._done.set()

    def _prepare(self, torch: Any) -> dict[str, Any]:
        self.device = self._choose_device(torch)
        if self.device != "cpu":
            return self._upload(torch)
        whole = torch.UntypedStorage.from_file(self.path, False, os.path.getsize(self.path))  # noqa: PTH202
        # Private pages of the file: what is written to them never reaches it.
        bytes_of_file = torch.empty(0, dtype=torch.uint8).set_(whole)
        made: dict[str, Any] = {}
        copies: list[tuple[Any, Any]] = []
        for group in self.lay_out():
            memory = torch.frombuffer(group.allocate(), dtype=getattr(torch, group.kind))
            targets = _pieces(memory, group.places)
            ranges = [(each.begin, each.count * each.item_bytes) for each in group.members]
            source_type = getattr(torch, group.source_kind)
            sources = [piece.view(source_type) for piece in _pieces(bytes_of_file, ranges)]
            copies += zip(targets, sources, strict=True)
            for each, target in zip(group.members, targets, strict=True):
                made[each.name] = target, each.shape
        self._copy(torch, copies)
        return made

    def _upload(self, torch: Any) -> dict[str, Any]:
        made: dict[str, Any] = {}
        portions: list[Portion] = []
        for group in self.lay_out():
            kind, size = getattr(torch, group.kind), group.item_bytes
            memory = torch.empty(group.count, dtype=kind, device=self.device)
            places = [
                Place(each.begin, begin * size, count * size)
                for each, (begin, count) in zip(group.members, group.places, strict=True)
            ]
            portions += make_portions(memory.view(torch.uint8), places, BUFFER_BYTES)
            flat = _pieces(memory, group.places)
            made.update((m.name, (f, m.shape)) for m, f in zip(group.members, flat, strict=True))
        upload(torch, self.path, portions)
        return made

    def _copy(self, torch: Any, copies: list[tuple[Any, Any]]) -> None:
        """From several threads."""

        def work(portions: Iterator[list[tuple[Any, Any]]]) -> None:
            be_nice()
            use_one_core(torch)
            for portion in portions:
                targets, sources = zip(*portion, strict=True)
                torch._foreach_copy_(targets, sources)

        share(_portions(copies), THREADS, work)

    @property
    def _to_float(self) -> bool:
        return self.stays_on_cpu and self.context.has_flag("--no-half")

    @property
    def stays_on_cpu(self) -> bool:
        context = self.context
        flags = ("--no-half", "--lowvram", "--medvram", "--medvram-sdxl", "--lowram")
        elsewhere = ("--use-cpu", "--device-id")
        return any(map(context.option, elsewhere)) or any(map(context.has_flag, flags))

    def _choose_device(self, torch: Any) -> str:
        if self.stays_on_cpu or not torch.cuda.is_available():
            return "cpu"
        free, _ = torch.cuda.mem_get_info()
        size = os.path.getsize(self.path)  # noqa: PTH202
        return "cuda" if size < PART_OF_GPU_MEMORY * free else "cpu"

    def offer(self, sd_models: Any) -> None:
        """Puts the prepared tensors in the place of the first reading of this file."""
        upstream = sd_models.read_state_dict

        def read_state_dict(
            checkpoint_file: str, print_global_state: bool = False, map_location: Any = None
        ) -> Any:
            plain = not print_global_state and map_location is None
            if plain and os.path.realpath(checkpoint_file) == self.path:
                tensors = self._take(sd_models)
                if tensors is not None:
                    return sd_models.get_state_dict_from_checkpoint(tensors)
            return upstream(checkpoint_file, print_global_state, map_location)

        sd_models.read_state_dict = read_state_dict

    def _take(self, sd_models: Any) -> dict[str, Any] | None:
        if not self._is_started:
            return None
        with timeline.span("wait for tensors"):
            self._done.wait()
        tensors, self.tensors = self.tensors, None
        if tensors is None:
            return None
        if self.device != "cpu" and sd_models.shared.opts.sd_checkpoint_cache > 0:
            return None  # the cache belongs into main memory
        return {name: flat.view(shape) for name, (flat, shape) in tensors.items()}


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


def _pieces(flat: Any, ranges: list[tuple[int, int]]) -> list[Any]:
    """Views of these ranges (begin, length), which ascend and do not overlap, by one call of torch."""
    sizes, at = [], 0
    for begin, length in ranges:
        sizes += [begin - at, length]
        at = begin + length
    sizes.append(flat.numel() - at)
    return list(flat.split_with_sizes(sizes)[1::2])


def _portions(copies: list[tuple[Any, Any]]) -> list[list[tuple[Any, Any]]]:
    """Consecutive copies of about `PIECE_BYTES` each."""
    portions: list[list[tuple[Any, Any]]] = []
    size = PIECE_BYTES
    for target, source in copies:
        if size >= PIECE_BYTES:
            portions.append([])
            size = 0
        portions[-1].append((target, source))
        size += source.numel() * source.element_size()
    return portions


def use_one_core(torch: Any) -> None:
    """This thread's OpenMP loops stay on one core: the imports beside it need the others.

    OpenMP keeps that number for each thread, and torch sets it by its first loop in a thread;
    `torch.set_num_threads` would set it for all.
    """
    torch.get_num_threads()
    with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123
        paths = [line.rstrip("\n").partition("/")[2] for line in maps]
    for path in paths:
        if "/libgomp" in path:
            ctypes.CDLL("/" + path).omp_set_num_threads(1)
            return
