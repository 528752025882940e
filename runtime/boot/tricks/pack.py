"""`pack`: the compiled modules of a start come from one file instead of some thousand.

A warm-up writes `modules.pack`: for every module that was imported, where its source is and the code
that its .pyc held. One read brings it in; importing a module then needs no search through folders and
no file. Only modules found where they were found before are taken from it: the folder must be in the
path that Python asks for, the script's own tree is checked file by file, and every other root by its
modification time, which an installation changes.
"""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from runtime.boot.context import Context
from runtime.boot.timeline import log

FILE = "modules.pack"
PYC_HEADER_BYTES = 16


class Entry:
    """A module in the pack: where its source is, and where its code is."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.origin: str = values[0]
        self.is_package: bool = values[1]
        self.offset, self.length, self.mtime, self.size = values[2:]

    @property
    def folder(self) -> str:
        """The entry of sys.path, or of the parent's `__path__`, below which it was found."""
        folder = os.path.dirname(self.origin)  # noqa: PTH120
        return os.path.dirname(folder) if self.is_package else folder  # noqa: PTH120


def install(context: Context) -> None:
    """Puts a finder for the pack before the others; without a pack there is nothing to do."""
    path = os.path.join(context.harvest, FILE)  # noqa: PTH118
    if not os.path.exists(path) or context.is_recording:  # noqa: PTH110
        return
    with open(path, "rb") as file:  # noqa: PTH123
        content = memoryview(file.read())
    index, code = read_pack(content)
    if index["magic"] != importlib.util.MAGIC_NUMBER.hex():
        log("pack is off: it was made by another Python")
        return
    tree = os.path.dirname(os.path.realpath(context.script)) + os.sep  # noqa: PTH120
    roots = {
        root: mtime
        for root, mtime in index["roots"].items()
        if not (root + os.sep).startswith(tree)
    }
    wrong = [root for root, mtime in roots.items() if _mtime(root) != mtime]
    if wrong:
        log(f"pack is off below {', '.join(wrong)}: changed since the warm-up")
    entries = {name: Entry(values) for name, values in index["modules"].items()}
    usable = {
        name: entry
        for name, entry in entries.items()
        if _is_unchanged(entry, tree, tuple(root + os.sep for root in wrong))
    }
    sys.meta_path.insert(0, _Finder(usable, code))


def read_pack(content: memoryview) -> tuple[dict[str, Any], memoryview]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(bytes(content[8 : 8 + length])), content[8 + length :]


def _is_unchanged(entry: Entry, tree: str, wrong: tuple[str, ...]) -> bool:
    if entry.origin.startswith(tree):
        try:
            found = os.stat(entry.origin)  # noqa: PTH116
        except OSError:
            return False
        return (int(found.st_mtime), found.st_size) == (entry.mtime, entry.size)
    return not entry.origin.startswith(wrong)


def _mtime(path: str) -> int:
    try:
        return int(os.stat(path).st_mtime)  # noqa: PTH116
    except OSError:
        return -1


class _Finder:
    def __init__(self, entries: dict[str, Entry], code: memoryview) -> None:
        self.entries = entries
        self.code = code

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        entry = self.entries.get(name)
        if entry is None or entry.folder not in (sys.path if path is None else path):
            return None
        # Once: whoever asks again (a reload, cv2 for the library behind its own name) means to search.
        del self.entries[name]
        loader = _Loader(name, entry.origin, self.code[entry.offset : entry.offset + entry.length])
        folder = [os.path.dirname(entry.origin)] if entry.is_package else None  # noqa: PTH120
        return importlib.util.spec_from_file_location(
            name, entry.origin, loader=loader, submodule_search_locations=folder
        )


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, code: memoryview) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType | None:
        del fullname
        return marshal.loads(self._code)  # type: ignore[no-any-return]  # noqa: S302  # written at build time


def make_pack(modules: Iterable[tuple[str, ModuleType]]) -> bytes:
    """The pack of these modules. The same files give the same bytes."""
    index: dict[str, list[Any]] = {}
    roots: dict[str, int] = {}
    parts: list[bytes] = []
    offset = 0
    for name, module in sorted(modules, key=lambda item: item[0]):
        found = _find_code(name, module)
        if found is None:
            continue
        origin, is_package, code = found
        source = os.stat(origin)  # noqa: PTH116
        index[name] = [
            origin, is_package, offset, len(code), int(source.st_mtime), source.st_size,
        ]  # fmt: skip
        if "." not in name:
            root = Entry(index[name]).folder
            roots[root] = _mtime(root)
        parts.append(code)
        offset += len(code)
    header = {"magic": importlib.util.MAGIC_NUMBER.hex(), "modules": index, "roots": roots}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def _find_code(name: str, module: ModuleType) -> tuple[str, bool, bytes] | None:
    spec = getattr(module, "__spec__", None)
    origin, cached = getattr(spec, "origin", None), getattr(spec, "cached", None)
    if spec is None or spec.name != name or not origin or not cached or not origin.endswith(".py"):
        return None
    try:
        with open(cached, "rb") as file:  # noqa: PTH123
            content = file.read()
        source = os.stat(origin)  # noqa: PTH116
    except OSError:
        return None
    if content[4:8] == bytes(4):  # by time, not by hash
        expected = int(source.st_mtime) & 0xFFFFFFFF, source.st_size & 0xFFFFFFFF
        if tuple(memoryview(content[8:16]).cast("I")) != expected:
            return None
    return origin, spec.submodule_search_locations is not None, content[PYC_HEADER_BYTES:]
