"""`BAKERY_RECORD=FOLDER` (warm-up only): writes what the next start can use, when the process ends.

`modules.pack` (see `runtime.boot.tricks.pack`) and `hashes.json` (`runtime.boot.tricks.hashes`). An image carries
them in /opt/bakery/harvest. They hold no times and no order of events, so the same base and weights give the same
files. The process should be ended by SIGTERM.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from runtime.boot.timeline import log
from runtime.boot.tricks import hashes, pack


def install(folder: str) -> None:
    """Writes at the process's end."""
    # What a warm-up compiles anew must not get into the image: it would depend on the moment.
    sys.dont_write_bytecode = True
    written: list[bool] = []

    def write() -> None:
        if not written:
            written.append(True)
            write_record(folder)

    def handle(signum: int, _frame: FrameType | None) -> None:
        write()
        os._exit(128 + signum)  # threads of the webui may still draw

    atexit.register(write)
    signal.signal(signal.SIGTERM, handle)


def write_record(folder: str) -> None:
    """Both files; one that fails is left out with a logged line."""
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    packed = [
        (name, module)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] != "runtime"
    ]
    parts: dict[str, Callable[[], bytes]] = {
        pack.FILE: lambda: pack.make_pack(packed),
        hashes.FILE: lambda: _to_json(hashes.make_file(hashes.read_known(""))),
    }
    for name, make in parts.items():
        try:
            content = make()
        except Exception as error:  # noqa: BLE001  # a start without it is only slower
            log(f"no {name}: {error!r}")
            continue
        with open(os.path.join(folder, name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(content)


def _to_json(content: dict[str, object]) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=1) + "\n").encode()
