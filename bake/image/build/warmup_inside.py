"""The warm-up's half inside the base container: start the webui as a worker will, draw, stop.

Run by the webui's own interpreter, so this needs the standard library and the runtime only. Reads
`/warmup/request.json`; leaves `response.json`, or `failure.json` and exit status 1, and `webui.log`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.webui.client import WebuiError
from runtime.webui.process import WebuiProcess, WebuiProcessError
from runtime.worker import WEIGHTS_MTIME, WORKER_FILE, Device, Worker

_RECORD_GRACE_S = 60.0
"""Boot writes its record when the webui is told to end; tens of megabytes on a busy machine."""
FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("/warmup")


def main() -> int:
    """Returns the exit status."""
    request = json.loads((FOLDER / "request.json").read_text(encoding="utf-8"))
    worker = Worker.load()
    device: Device = request["device"]
    webui = WebuiProcess(
        worker.command(device),
        cwd=worker.webui.directory,
        port=worker.webui.port,
        environment={**os.environ, "BAKERY_RECORD": str(FOLDER / "record")},
        log_file=FOLDER / "webui.log",
    )
    began = time.monotonic()
    try:
        _settle_folders(worker)
        webui.start()
        webui.wait_until_loaded(request["start_timeout_s"])
        loaded = time.monotonic()
        answer = webui.client.txt2img(request["payload"], timeout_s=request["draw_timeout_s"])
        drawn = time.monotonic()
        settings = webui.client.options()
        # It writes what it has set; the rest is added when it has ended.
        webui.client.call("POST", "/sdapi/v1/options", {})
    except (WebuiProcessError, WebuiError) as error:
        _write("failure.json", {"reason": str(error), "last_lines": webui.last_lines(15)})
        return 1
    finally:
        _settle_folders(worker)
        webui.stop(grace_s=_RECORD_GRACE_S)
    complete_config(Path(worker.webui.config_file), settings)
    _write(
        "response.json",
        {
            "image": answer["images"][0],
            "info": answer["info"],
            "loaded_s": round(loaded - began, 3),
            "drawn_s": round(drawn - loaded, 3),
        },
    )
    return 0


def complete_config(path: Path, settings: dict[str, Any]) -> None:
    """Adds the settings that the webui's config.json lacks: a request's override of such a one leaks into the next.

    The webui would write them too, if each were set, but would load the weights again for some of them.
    """
    kept = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps({**settings, **kept}, indent=4, ensure_ascii=False), encoding="utf-8"
    )


def _settle_folders(worker: Worker) -> None:
    """Gives folders the time that they have in the image, where layers above the base name them again.

    Boot's record is good for folders of the same time only, and the webui writes into some of them.
    """
    kept = [each.path for each in worker.weights] + [*worker.webui.harvest_paths, WORKER_FILE]
    for folder in {parent for path in kept for parent in PurePosixPath(path).parents}:
        if Path(folder).is_dir():
            os.utime(folder, (WEIGHTS_MTIME, WEIGHTS_MTIME))


def _write(name: str, content: dict[str, Any]) -> None:
    (FOLDER / name).write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
