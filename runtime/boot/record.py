"""`BAKERY_RECORD=FOLDER` (warm-up only): writes what the next start can use, when the process ends.

`modules.pack` (see `runtime.boot.tricks.pack`), `read-ahead.json` (`runtime.boot.tricks.pages`) and `hashes.json`
(`runtime.boot.tricks.hashes`). An image carries them in /opt/bakery/harvest. They hold no times and no
order of events, so the same base and weights give the same files; only the page ranges of libraries
over 64 MiB may differ by a block. The process should be ended by SIGTERM.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from runtime.boot.context import Context
from runtime.boot.timeline import log
from runtime.boot.tricks import hashes, pack, pages


def install(context: Context, folder: str) -> None:
    """Begins to note what is opened, and writes at the process's end."""
    # What a warm-up compiles anew must not get into the image: it would depend on the moment.
    sys.dont_write_bytecode = True
    opened: set[str] = set()
    started = time.time()

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        # Only what is read: the timeline, say, is written, and may be as old as this start.
        if event == "open" and isinstance(arguments[0], str) and not arguments[2] & os.O_ACCMODE:
            opened.add(arguments[0])

    sys.addaudithook(note)
    written: list[bool] = []

    def write() -> None:
        if not written:
            written.append(True)
            write_record(context, folder, opened=opened, started=started)

    atexit.register(write)
    signal.signal(signal.SIGTERM, _writing_handler(write))


def _writing_handler(write: Callable[[], None]) -> Callable[..., None]:
    def handle(signum: int, _frame: object) -> None:
        write()
        os._exit(128 + signum)  # threads of the webui may still draw

    return handle


def write_record(context: Context, folder: str, *, opened: set[str], started: float) -> None:
    """The three files; a part that fails is left out with a logged line."""
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    # The address space first, before this function itself maps and touches anything.
    packed = {
        name: module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] != "runtime"
    }
    known = hashes.read_known("")
    weights = [os.path.realpath(each) for each in known]
    if (checkpoint := context.option("--ckpt")) is not None:
        weights.append(os.path.realpath(checkpoint))
    in_pack = [
        getattr(module.__spec__, "cached", None)
        for module in packed.values()
        if getattr(module, "__spec__", None)
    ]
    parts: dict[str, Callable[[], bytes]] = {
        pages.FILE: lambda: _to_json(
            pages.make_list(opened, leave_out=[*weights, *filter(None, in_pack)], before=started)
        ),
        pack.FILE: lambda: pack.make_pack(packed.items()),
        hashes.FILE: lambda: _to_json(hashes.make_file(known)),
    }
    for name, make in parts.items():
        try:
            content = make()
        except Exception as error:  # noqa: BLE001  # a start without it is only slower
            log(f"no {name}: {error!r}")
            continue
        with open(os.path.join(folder, name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(content)


def _to_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=1) + "\n").encode()
