"""Calls a function right after a module was imported, so that upstream's files stay as they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from runtime.boot.timeline import log

Callback = Callable[[ModuleType], None]


class _Finder:
    """First in `sys.meta_path`: lets the other finders find, and adds to what the loader does."""

    def __init__(self) -> None:
        self.callbacks: dict[str, list[tuple[str, Callback]]] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.callbacks:
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                self._extend(spec)
                return spec
        return None

    def _extend(self, spec: ModuleSpec) -> None:
        loader = spec.loader
        upstream = getattr(loader, "exec_module", None)
        if loader is None or upstream is None:
            return

        def exec_module(module: ModuleType) -> None:
            upstream(module)
            for trick, callback in self.callbacks.pop(spec.name, ()):
                call(trick, callback, module)

        # On the loader's instance, which belongs to this module alone: a wrapping loader would hide
        # get_source, get_data and the resource readers.
        loader.exec_module = exec_module  # type: ignore[method-assign]


_finder = _Finder()


def after_import(module: str, callback: Callback, *, trick: str) -> None:
    """Calls `callback(module)` once, right after its first import, or now if it is there already."""
    if (present := sys.modules.get(module)) is not None:
        call(trick, callback, present)
        return
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _finder.callbacks.setdefault(module, []).append((trick, callback))


def come_first() -> None:
    """The hooks must see every import before a finder that answers for good."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
        sys.meta_path.insert(0, _finder)


def call(trick: str, callback: Callback, module: ModuleType) -> None:
    """A trick that cannot do its work leaves upstream's way, and says so in one line."""
    try:
        callback(module)
    except Exception as error:  # noqa: BLE001  # whatever it is: the webui must start
        log(f"{trick} is off, {module.__name__} is not as expected: {error!r}")
