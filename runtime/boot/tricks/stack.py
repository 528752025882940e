"""`stack`: `inspect.stack()` without looking up source files, where the webui asks for file names.

Every `on_…` of `modules/script_callbacks.py` calls it to learn who registers; `inspect` answers with
source lines, for which it resolves the path of every loaded module: about 1 s in a profiled start.
"""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any

from runtime.boot.context import Context
from runtime.boot.hooks import after_import


def install(_context: Context) -> None:
    after_import("modules.script_callbacks", _replace, trick="stack")


def _replace(script_callbacks: Any) -> None:
    if script_callbacks.inspect is not inspect:
        raise AttributeError("inspect")
    script_callbacks.inspect = _CheapInspect()


class _CheapInspect:
    """The module `inspect`, but for `stack`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(inspect, name)

    @staticmethod
    def stack(_context: int = 1) -> list[inspect.FrameInfo]:
        """The callers, innermost first, as `inspect.stack(0)` has them: no source lines."""
        frames = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            frames.append(
                inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None)
            )
            frame = frame.f_back
        return frames
