"""`ui`: with `--nowebui`, only that part of the gradio pages which the API works with.

`Api.__init__` builds all pages for their side effects on the scripts. Kept of them: the extensions'
options, the scripts with their arguments (`args_from`, `args_to`, names, API descriptions), the
options for the order of callbacks. The rest are pages nobody can open. A request with `infotext`
needs the pages' paste fields: the first such request builds them all, as upstream does at the start.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from typing import Any

from runtime.boot.context import Context
from runtime.boot.hooks import after_import
from runtime.boot.timeline import log


def install(_context: Context) -> None:
    after_import("modules.api.api", _replace, trick="ui")


def _replace(api: Any) -> None:
    pages = _Pages(api)
    # Only in this module's names: webui.py's own call, without --nowebui, finds upstream's function.
    api.ui = pages
    upstream = api.Api.apply_infotext

    def apply_infotext(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        if request.infotext:
            pages.build_all(self)
        return upstream(self, request, *args, **kwargs)

    api.Api.apply_infotext = apply_infotext
    _leave_out_servers(api)


def _leave_out_servers(api: Any) -> None:
    """While the API is made, a `gr.Blocks` that ends writes no page configuration and no server.

    Four of them end there, for the scripts' arguments only, and each would set up a FastAPI
    application of its own.
    """
    upstream = api.Api.__init__
    blocks = sys.modules["gradio.blocks"]

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        application: Any = blocks.routes.App
        kept = blocks.Blocks.get_config_file, application.__dict__["create_app"]
        blocks.Blocks.get_config_file = lambda _blocks: {}
        application.create_app = staticmethod(lambda *_args, **_kwargs: None)
        try:
            upstream(self, *args, **kwargs)
        finally:
            blocks.Blocks.get_config_file, application.create_app = kept

    api.Api.__init__ = __init__


class _Pages:
    """The module `modules.ui`, but for `create_ui`."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self._ui = api.ui
        self._lock = threading.Lock()
        self._is_complete = False
        if not callable(self._ui.create_ui):
            raise AttributeError("create_ui")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ui, name)

    def create_ui(self) -> None:
        try:
            self._create_scripts()
        except Exception as error:  # noqa: BLE001  # upstream's way remains
            log(f"ui is off: {error!r}")
            self._ui.create_ui()
            self._is_complete = True

    def _create_scripts(self) -> None:
        ui, scripts = self._ui, self._api.scripts
        import_module("modules.img2img")
        import_module("modules.txt2img")

        settings = ui.ui_settings.UiSettings()
        settings.register_settings()
        for runner, is_img2img in (
            (scripts.scripts_txt2img, False),
            (scripts.scripts_img2img, True),
        ):
            scripts.scripts_current = runner
            runner.initialize_scripts(is_img2img=is_img2img)
            self._create_controls(runner)
        scripts.scripts_current = None
        ui.shared.opts.data_labels.update(
            ui.shared.options_section(
                ("callbacks", "Callbacks", "system"), {**ui.shared_items.callbacks_order_settings()}
            )
        )

    def _create_controls(self, runner: Any) -> None:
        """In the order of upstream's pages, which decides each argument's place."""
        ui = self._ui
        with ui.gr.Blocks(analytics_enabled=False):
            runner.prepare_ui()
            for category in ui.ordered_ui_categories():
                if category == "scripts":
                    runner.setup_ui()
                runner.setup_ui_for_section(category)

    def build_all(self, server: Any) -> None:
        """Upstream's pages, once, and what `Api.__init__` reads from them."""
        with self._lock:
            if self._is_complete:
                return
            with server.queue_lock:
                self._ui.create_ui()
                scripts = self._api.scripts
                server.default_script_arg_txt2img = server.init_default_script_args(
                    scripts.scripts_txt2img
                )
                server.default_script_arg_img2img = server.init_default_script_args(
                    scripts.scripts_img2img
                )
            self._is_complete = True
