"""Scripts of extensions, as the webui's `modules.scripts` (v1.9.3) loads and runs them, and with its faults.

Arguments that a script has no place for are dropped without a word, and a picture is drawn on where a script fails, with
a line in the log only; `runtime.boot.jobs` reads that line. An extension imports `modules.scripts` and `gradio`: here it
finds this module, and components that only hold a label and a value.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

AlwaysVisible = object()
_BUILT_IN = {"seed": 6, "sampler": 3, "refiner": 3, "comments": 0}
"""The page's own, which make nothing of their arguments through the API."""


def _report(message: str, *, exc_info: bool = False) -> None:
    print(f"*** {message}", file=sys.stderr)
    if exc_info:
        traceback.print_exc()


errors = SimpleNamespace(report=_report)


class Script:
    """What an extension's script is made of."""

    name: str | None = None
    filename = ""
    controls: list[Any]

    def title(self) -> str:
        raise NotImplementedError  # as in the webui: each script says its own

    def show(self, is_img2img: bool) -> object:
        del is_img2img
        return True

    def ui(self, is_img2img: bool) -> list[Any]:
        del is_img2img
        return []


class Runner:
    """The scripts of one kind of request."""

    def __init__(self, *, is_img2img: bool) -> None:
        self.is_img2img = is_img2img
        self.scripts: list[Script] = []

    def add(self, kind: type[Script], file: str) -> None:
        script = kind()
        script.filename = file
        if script.show(self.is_img2img) is AlwaysVisible:
            script.controls = list(script.ui(self.is_img2img) or [])
            script.name = script.title().lower()
            self.scripts.append(script)

    def find(self, name: str) -> Script | None:
        """The first of that title in any case; None where there is none."""
        return next((each for each in self.scripts if each.name == name.lower()), None)

    def run(self, method: str, given: dict[str, Any], *arguments: Any) -> None:
        """Calls a method of every script that has it; one that fails is only spoken of."""
        for script in self.scripts:
            function = getattr(script, method, None)
            if function is None:
                continue
            try:
                function(*arguments, *_arguments(script, given))
            except Exception:  # noqa: BLE001  # as the webui, whatever it is
                errors.report(f"Error running {method}: {script.filename}", exc_info=True)

    def describe(self) -> Iterator[dict[str, Any]]:
        """As `/sdapi/v1/script-info` lists them."""
        for script in self.scripts:
            listed = [{"label": each.label or "", "value": each.value} for each in script.controls]
            yield self._entry(str(script.name), listed)
        for name, count in _BUILT_IN.items():
            yield self._entry(name, [{"label": ""}] * count)

    def _entry(self, name: str, listed: list[dict[str, Any]]) -> dict[str, Any]:
        return {"name": name, "is_alwayson": True, "is_img2img": self.is_img2img, "args": listed}


def _arguments(script: Script, given: dict[str, Any]) -> list[Any]:
    values = [each.value for each in script.controls]
    asked: dict[str, Any] = next(
        (each for name, each in given.items() if name.lower() == script.name), {}
    )
    for index in range(min(len(values), len(asked.get("args", ())))):
        values[index] = asked["args"][index]
    return values


scripts_txt2img = Runner(is_img2img=False)
scripts_img2img = Runner(is_img2img=True)


def has_script(name: str, *, is_img2img: bool) -> bool:
    runner = scripts_img2img if is_img2img else scripts_txt2img
    return name.lower() in _BUILT_IN or runner.find(name) is not None


def load_scripts(folder: Path) -> None:
    """Loads the scripts of every extension in `folder`; one that fails is only spoken of."""
    files = sorted(folder.glob("*/scripts/*.py"))
    if not files:
        return
    _lend_modules()
    for file in files:
        try:
            module = _load(file)
        except Exception:  # noqa: BLE001  # as the webui, whatever it is
            errors.report(f"Error loading script: {file.name}", exc_info=True)
            continue
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, Script) and kind is not Script:
                scripts_txt2img.add(kind, str(file))
                scripts_img2img.add(kind, str(file))


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parents[1]))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parents[1]))
    return module


class _Component:
    def __init__(self, *_values: Any, label: str | None = None, value: Any = None, **_: Any):
        self.label, self.value = label, value


def _lend_modules() -> None:
    package, gradio = ModuleType("modules"), ModuleType("gradio")
    package.scripts = sys.modules[__name__]  # type: ignore[attr-defined]
    gradio.__getattr__ = lambda _name: _Component  # type: ignore[method-assign]
    sys.modules.update({"modules": package, "modules.scripts": package.scripts, "gradio": gradio})
