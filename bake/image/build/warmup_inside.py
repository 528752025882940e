"""The warm-up's half inside the base container: start the webui as a worker will, draw, stop; twice.

With every trick of the start, recording, and as upstream starts: where the two pictures are the same bit by
bit, `record/proven.json` says of this kind of device that the tricks may be used. A start with them that
fails leaves them off in the image, and the record to the plain start.

Run by the webui's own interpreter, so this needs the standard library and the runtime only. Reads
`/warmup/request.json`; leaves `response.json`, or `failure.json` and exit status 1, and `webui.log`.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.webui.client import WebuiClient, WebuiError
from runtime.webui.process import WebuiProcess, WebuiProcessError
from runtime.worker import WEIGHTS_MTIME, WORKER_FILE, Device, Worker

_RECORD_GRACE_S = 60.0
"""Boot writes its record when the webui is told to end; tens of megabytes on a busy machine."""
FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("/warmup")


class _FailedError(Exception):
    """A start that drew nothing."""

    def __init__(self, reason: str, last_lines: Sequence[str]) -> None:
        super().__init__(reason)
        self.last_lines = list(last_lines)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One start and its picture."""

    tricks: list[str]
    image: str
    """The PNG in base64."""
    info: str
    settings: dict[str, Any]
    loaded_s: float
    drawn_s: float
    scripts: list[Any] = field(default_factory=list)
    """Of the webui's always-on scripts: title, whether for img2img, count of arguments; empty without extensions."""
    last_lines: list[str] = field(default_factory=list)


def main() -> int:
    """Returns the exit status."""
    request = json.loads((FOLDER / "request.json").read_text(encoding="utf-8"))
    worker = Worker.load()
    ours, unproven = None, ""
    try:
        ours = _draw(worker, request, boot=_tricks(worker, request["payload"]), record=True)
    except _FailedError as error:
        unproven = f"the start with them failed: {error}"
    try:
        plain = _draw(worker, request, boot="plain", record=ours is None)
    except _FailedError as error:
        _write("failure.json", {"reason": str(error), "last_lines": error.last_lines})
        return 1
    if ours is not None and not is_same_picture(ours.image, plain.image):
        unproven = "they draw another picture than upstream's plain start"
    elif ours is not None and ours.scripts != plain.scripts:
        unproven = "the webui offers other scripts with them than in upstream's plain start"
    proven = [] if ours is None or unproven else ours.tricks
    (FOLDER / "record").mkdir(exist_ok=True)
    _write("record/proven.json", {request["device"]: proven})
    if reason := _wrong_scripts(worker, plain):
        _write("failure.json", {"reason": reason, "last_lines": plain.last_lines})
        return 1
    result = dataclasses.asdict(ours or plain)
    del result["scripts"], result["last_lines"]
    complete_config(Path(worker.webui.config_file), result.pop("settings"))
    _write("response.json", {**result, "tricks": proven, "unproven": unproven})
    return 0


def _tricks(worker: Worker, payload: Mapping[str, Any]) -> str:
    """Those that may be proven.

    Extensions hang on parts of the pages that `ui` does not build (ADetailer on a button), and one may import what
    `lazy` leaves to its first use: that is proven only where the picture is drawn with all scripts that requests may name.
    """
    if not worker.extensions:
        return "all"
    titles = {title.lower() for each in worker.extensions for title in each.scripts}
    drawn = {name.lower() for name in payload.get("alwayson_scripts", {})}
    return "all,-ui" if titles <= drawn else "all,-ui,-lazy"


def _draw(worker: Worker, request: dict[str, Any], *, boot: str, record: bool) -> Drawn:
    """Starts the webui as a worker does, draws, and ends it."""
    device: Device = request["device"]
    environment = {**os.environ, "BAKERY_DEVICE": device, "BAKERY_BOOT": boot}
    if record:
        environment["BAKERY_RECORD"] = str(FOLDER / "record")
    webui = WebuiProcess(
        worker.command(device),
        cwd=worker.webui.directory,
        port=worker.webui.port,
        environment=environment,
        timeline=None if record else FOLDER / "timeline-plain.jsonl",
        log_file=FOLDER / "webui.log",
    )
    began = time.monotonic()
    try:
        _settle_folders(worker)
        webui.start()
        webui.wait_until_loaded(request["start_timeout_s"])
        loaded = time.monotonic()
        answer = webui.client.draw(request["payload"], timeout_s=request["draw_timeout_s"])
        drawn = time.monotonic()
        settings = webui.client.options()
        scripts = _list_scripts(webui.client) if worker.extensions else []
        # It writes what it has set; the rest is added when it has ended.
        webui.client.call("POST", "/sdapi/v1/options", {})
    except (WebuiProcessError, WebuiError) as error:
        raise _FailedError(str(error), webui.last_lines(15)) from error
    finally:
        _settle_folders(worker)
        webui.stop(grace_s=_RECORD_GRACE_S)
    started = next(each for each in webui.timeline() if each.get("name") == "boot")
    return Drawn(
        tricks=started["tricks"],
        image=answer["images"][0],
        info=answer["info"],
        settings=settings,
        scripts=scripts,
        last_lines=webui.last_lines(15),
        loaded_s=round(loaded - began, 3),
        drawn_s=round(drawn - loaded, 3),
    )


def _list_scripts(client: WebuiClient) -> list[Any]:
    return [
        [str(each["name"]).lower(), each["is_img2img"], len(each["args"])]
        for each in client.get("script-info")
        if each["is_alwayson"]
    ]


def _wrong_scripts(worker: Worker, plain: Drawn) -> str:
    """What of the extensions does not work, in the start that is upstream's own; empty where all does."""
    known = {name for name, *_ in plain.scripts}
    titles = [title for each in worker.extensions for title in each.scripts]
    if lacking := [title for title in titles if title.lower() not in known]:
        return f"no extension has the script {', '.join(lacking)}, or it cannot be loaded"
    failed = json.loads(plain.info).get("bakery", {}).get("scripts", ())
    told = [f"{', '.join(e['names'])} failed in {e['method']}: {e['reason']}" for e in failed]
    return f"a script failed: {'; '.join(told)}" if told and worker.extensions else ""


def is_same_picture(one: str, other: str) -> bool:
    """Bit by bit. Not the PNG's text: with `hashes` it names a hash that upstream leaves out."""
    return _image_data(base64.b64decode(one)) == _image_data(base64.b64decode(other))


def _image_data(png: bytes) -> list[bytes]:
    """The chunks that make the picture."""
    chunks, at = [], 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        if kind not in {b"tEXt", b"zTXt", b"iTXt", b"eXIf"}:
            chunks.append(kind + png[at + 8 : at + 8 + length])
        at += 12 + length
    return chunks


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
    kept += [f"{each.path}/scripts" for each in worker.extensions]
    for folder in {parent for path in kept for parent in PurePosixPath(path).parents}:
        if Path(folder).is_dir():
            os.utime(folder, (WEIGHTS_MTIME, WEIGHTS_MTIME))


def _write(name: str, content: dict[str, Any]) -> None:
    (FOLDER / name).write_text(json.dumps(content, sort_keys=True), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
