"""Files as `torch.save` writes them, without torch: both of its formats, with tensors that are shapes only."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_Pickler: Any = pickle._Pickler


class Global:
    """A name that a pickle asks for."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, *_: Any) -> None:
        """Never called: pickle only asks whether it could be."""


class Storage:
    """What is not in the pickle itself."""


class Tensor:
    """Of a shape."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __reduce__(self) -> Any:
        rebuild = Global("torch._utils", "_rebuild_tensor_v2")
        return rebuild, (Storage(), 0, self.shape, self.shape, False, OrderedDict())


class _Writer(_Pickler):  # type: ignore[misc]
    dispatch: ClassVar[dict[Any, Any]] = dict(_Pickler.dispatch)

    def save_name(self, each: Global) -> None:
        self.write(f"c{each.module}\n{each.name}\n".encode())

    dispatch[Global] = save_name

    def persistent_id(self, each: Any) -> Any:
        where = ("storage", Global("torch", "FloatStorage"), "0", "cpu", 4)
        return where if isinstance(each, Storage) else None


def dumps(value: Any) -> bytes:
    out = io.BytesIO()
    _Writer(out, protocol=2).dump(value)
    return out.getvalue()


def torch_zip(value: Any, *more: str) -> bytes:
    """torch 1.6 and later; `more`: further entries, as newer ones write them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", dumps(value))
        for name in ("data/0", "version", *more):
            archive.writestr(f"archive/{name}", "3\n")
    return out.getvalue()


def torch_legacy(value: Any) -> bytes:
    """torch before 1.6."""
    parts = (_MAGIC, _PROTOCOL, {"little_endian": True}, value, ["0"])
    return b"".join(map(dumps, parts)) + bytes(64)


def state(shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """A module's state, with the attribute that torch gives it."""
    made: Any = OrderedDict((name, Tensor(*shape)) for name, shape in shapes.items())
    made._metadata = OrderedDict(version=1)
    return made
