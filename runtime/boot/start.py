"""Runs the script with the chosen tricks.

Order: what reads ahead starts first, because the disk is idle while the interpreter works; then the
import hooks; then the script. With every choice of tricks, `plain` included, the timeline's event
`model`, for which the runtime waits, is written, and jobs are kept apart (`runtime.boot.jobs`).
"""

from __future__ import annotations

import builtins
import json
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from runtime.boot import hooks, jobs, timeline
from runtime.boot.choice import TRICKS, choose, proven_on
from runtime.boot.context import Context


def main(argv: Sequence[str]) -> int:
    """Runs `argv[0]` as `__main__` with the other arguments. Returns 2 where there is no script."""
    if not argv:
        print("usage: python -m runtime.boot SCRIPT ARGS…", file=sys.stderr)
        return 2
    context = Context(script=argv[0], arguments=tuple(argv[1:]), began=time.monotonic())
    install(context, os.environ.get("BAKERY_BOOT", ""))
    if folder := os.environ.get("BAKERY_RECORD"):
        from runtime.boot.record import install as install_record  # noqa: PLC0415  # warm-ups only

        install_record(folder)
    run_script(context)
    return 0


def install(context: Context, choice: str) -> None:
    """Installs the chosen tricks; one that fails leaves upstream's way and one logged line."""
    chosen, unknown = choose(choice, tuple(TRICKS), proven_on(context.device, _read_proof(context)))
    if unknown:
        timeline.log(
            f"BAKERY_BOOT names no trick: {', '.join(unknown)} (there are {', '.join(TRICKS)})"
        )
    context.watch_model()
    jobs.install()
    context.chosen = tuple(chosen)
    for name in chosen:
        try:
            import_module(f"runtime.boot.tricks.{TRICKS[name]}").install(context)
        except Exception as error:  # noqa: BLE001  # whatever it is: the webui must start
            timeline.log(f"{name} is off: {error!r}")
    hooks.come_first()
    timeline.write("boot", context.began, tricks=chosen)


def _read_proof(context: Context) -> dict[str, list[str]] | None:
    """`proven.json`, which a warm-up leaves; one that cannot be read proves nothing."""
    path = os.path.join(context.harvest, "proven.json")  # noqa: PTH118
    if not os.path.exists(path):  # noqa: PTH110
        return None
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            return {kind: list(names) for kind, names in json.load(file).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        timeline.log(f"{path} proves nothing: {error!r}")
        return {}


def run_script(context: Context) -> None:
    """As `python SCRIPT ARGS…` would: the same argv, the same first entry of sys.path, `__main__`."""
    with open(context.script, "rb") as file:  # noqa: PTH123  # pathlib is not needed otherwise
        code = compile(file.read(), context.script, "exec", dont_inherit=True)
    main_module = ModuleType("__main__")
    main_module.__dict__.update(__file__=context.script, __builtins__=builtins)
    # Not runpy.run_path: it takes the module's names away from threads that outlive the script.
    sys.modules["__main__"] = main_module
    sys.argv = [context.script, *context.arguments]
    # `-m` put the working directory there; PYTHONPATH, which led to this package, comes after it.
    sys.path[0] = os.path.dirname(os.path.realpath(context.script))  # noqa: PTH120
    exec(code, main_module.__dict__)  # noqa: S102  # the script is what the base image starts
