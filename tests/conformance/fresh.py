"""A webui that has just started, again and again: `python fresh.py SOCKET SCRIPT ARGUMENTS…`, in its interpreter.

Upstream's script runs as it is. Once its model is loaded, each connection to SOCKET gets a fork of the process,
which has drawn nothing yet: it reads one request (JSON), answers as the API would (`status`, `body`), and ends.
A start takes ten seconds, a fork a few milliseconds. `OMP_NUM_THREADS` must be 1: threads do not survive a fork.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    path, script, *arguments = sys.argv[1:]
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).resolve().parent))
    threading.Thread(target=serve, args=(path,), daemon=True).start()
    runpy.run_path(script, run_name="__main__")


def serve(path: str) -> None:
    api = wait_until_loaded()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            try:
                answer(api, connection)
            finally:
                os._exit(0)
        connection.close()
        # Ended children of earlier requests.
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def wait_until_loaded() -> Any:
    while True:
        time.sleep(0.2)
        models, api = sys.modules.get("modules.sd_models"), sys.modules.get("modules.api.api")
        data = getattr(models, "model_data", None)
        model = getattr(data, "sd_model", None)
        # The last thing that a load sets.
        if api is None or getattr(model, "cond_stage_model_empty_prompt", None) is None:
            continue
        kind = getattr(api, "Api", None)
        for each in gc.get_objects():
            if kind is not None and type(each) is kind:
                time.sleep(1.0)
                return each


def answer(api: Any, connection: socket.socket) -> None:
    with connection.makefile("rwb") as stream:
        payload = json.loads(stream.readline())
        try:
            from modules.api import models  # type: ignore[import-not-found]  # noqa: PLC0415  # the webui's

            request = models.StableDiffusionTxt2ImgProcessingAPI(**payload)
            result = api.text2imgapi(request)
            status, body = 200, {"images": result.images, "info": result.info}
        except BaseException as error:
            traceback.print_exc()
            status = getattr(
                error, "status_code", 422 if type(error).__name__ == "ValidationError" else 500
            )
            body = {"error": type(error).__name__, "detail": str(error)}
        stream.write(json.dumps({"status": status, "body": body}).encode() + b"\n")
        stream.flush()


if __name__ == "__main__":
    main()
