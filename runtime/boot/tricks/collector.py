"""`gc`: no garbage collection until the webui serves; then what the start left is set aside.

The start makes some millions of objects that live as long as the process, and the collector walks
them again and again: 0.8 s of a start of 4.9 s (docs/benchmarks.md). Afterwards `gc.freeze` keeps them out
of every later walk.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from runtime.boot.context import Context
from runtime.boot.hooks import after_import

LATEST_S = 300.0
"""Collection begins at the latest this long after the start, whatever the script is."""


def install(context: Context) -> None:
    """Switches the collector off, and on again when the server runs and the model is loaded."""
    gc.disable()
    moment = _Moment(context)
    context.when_loaded(moment.check)
    after_import("uvicorn.server", moment.watch_uvicorn, trick="gc")
    after_import("socketserver", moment.watch_socketserver, trick="gc")
    latest = threading.Timer(LATEST_S, moment.collect)
    latest.daemon = True
    latest.start()


class _Moment:
    """When to collect again."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.is_serving = False
        self._once = threading.Lock()

    def served(self) -> None:
        self.is_serving = True
        self.check()

    def check(self) -> None:
        """Called when the server begins to listen, and when the model is loaded."""
        if self.is_serving and (self.context.model_is_loaded or not self.context.has_model_hook):
            self.collect()

    def collect(self) -> None:
        if self._once.acquire(blocking=False):  # never released: once is enough
            gc.freeze()
            gc.enable()

    def watch_uvicorn(self, server: ModuleType) -> None:
        upstream = server.Server.startup
        moment = self

        async def startup(self: Any, *args: Any, **kwargs: Any) -> Any:
            answer = await upstream(self, *args, **kwargs)
            moment.served()
            return answer

        server.Server.startup = startup

    def watch_socketserver(self, module: ModuleType) -> None:
        upstream: Callable[..., Any] = module.BaseServer.serve_forever
        moment = self

        def serve_forever(self: Any, *args: Any, **kwargs: Any) -> Any:
            moment.served()
            return upstream(self, *args, **kwargs)

        module.BaseServer.serve_forever = serve_forever
