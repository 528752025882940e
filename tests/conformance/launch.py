"""Starts the webui for the check: `python launch.py OPEN_CLIP_FOLDER SOCKET SCRIPT ARGUMENTS…`, in its interpreter.

Upstream's script runs as it is, after OpenCLIP has learnt the small checkpoint's text model. If SOCKET is not `-`,
each connection to it gets a fork of the process once the model is loaded, which has drawn nothing yet: it reads one
request (a line of JSON), answers as the API would (`status`, `body`), and ends. A start takes ten seconds, a fork a
few milliseconds. `OMP_NUM_THREADS` must be 1: OpenMP's threads do not survive a fork.
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
    open_clip_folder, path, script, *arguments = sys.argv[1:]
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).resolve().parent)
    import open_clip  # noqa: PLC0415  # the webui's environment has it

    open_clip.add_model_config(open_clip_folder)
    if path != "-":
        threading.Thread(target=serve, args=(path,), daemon=True).start()
    runpy.run_path(script, run_name="__main__")


def seed_noise() -> None:
    """A picture's encoder and GFPGAN draw from torch's own generator, which has no right state: it holds what was left.

    So both sides begin them with the same seeds, the worker's by `runtime.boot.jobs`.
    """
    restorer = sys.modules["modules.gfpgan_model"].FaceRestorerGFPGAN
    restore = restorer.restore_with_helper

    def restore_seeded(self: Any, picture: Any, restore_face: Any) -> Any:
        import torch  # noqa: PLC0415  # the webui's

        seeds = [0]

        def first_seeded(face: Any) -> Any:
            if seeds:
                torch.manual_seed(seeds.pop())
            return restore_face(face)

        return restore(self, picture, first_seeded)

    restorer.restore_with_helper = restore_seeded
    processing = sys.modules["modules.processing"]
    kind = processing.StableDiffusionProcessingImg2Img
    upstream = kind.init

    def init(self: Any, prompts: Any, seeds: Any, subseeds: Any) -> None:
        processing.torch.manual_seed(seeds[0])
        upstream(self, prompts, seeds, subseeds)

    kind.init = init


def serve(path: str) -> None:
    api = wait_until_loaded()
    seed_noise()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen()
    Path(path + ".new").rename(path)
    while True:
        connection, _ = listener.accept()
        child = os.fork()
        if child == 0:
            try:
                answer(api, connection)
            finally:
                os._exit(0)
        connection.close()
        threading.Thread(target=os.waitpid, args=(child, 0), daemon=True).start()


def wait_until_loaded() -> Any:
    """The API's object, once the model is loaded and the server listens: extensions are set up just before."""
    port = int(sys.argv[sys.argv.index("--port") + 1])
    while True:
        time.sleep(0.2)
        models, api = sys.modules.get("modules.sd_models"), sys.modules.get("modules.api.api")
        model = getattr(getattr(models, "model_data", None), "sd_model", None)
        # The last thing that a load sets.
        if api is None or getattr(model, "cond_stage_model_empty_prompt", None) is None:
            continue
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                continue
        for each in gc.get_objects():
            if type(each) is getattr(api, "Api", None):
                return each


def answer(api: Any, connection: socket.socket) -> None:
    body: dict[str, Any]
    with connection.makefile("rwb") as stream:
        asked = json.loads(stream.readline())
        asked["payload"].pop("bakery_embedding", None)  # only makes it another request
        try:
            from modules.api import models  # noqa: PLC0415

            kind, function = {
                "txt2img": (models.StableDiffusionTxt2ImgProcessingAPI, api.text2imgapi),
                "img2img": (models.StableDiffusionImg2ImgProcessingAPI, api.img2imgapi),
                "extra-single-image": (
                    models.ExtrasSingleImageRequest,
                    api.extras_single_image_api,
                ),
            }[asked["endpoint"]]
            result = function(kind(**asked["payload"])).dict()
            status, body = 200, {**result, "images": result.get("images") or [result.get("image")]}
            body = {key: body.get(key) for key in ("images", "info", "html_info")}
        except BaseException as error:  # whatever it is: it is the answer
            traceback.print_exc()
            invalid = type(error).__name__ == "ValidationError"
            status = getattr(error, "status_code", 422 if invalid else 500)
            body = {"error": type(error).__name__, "detail": str(error)}
        stream.write(json.dumps({"status": status, "body": body}).encode() + b"\n")
        stream.flush()


if __name__ == "__main__":
    main()
