"""The HTTP server: the part of the webui's API that a worker uses, with its answers to mistakes."""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from demo.webui import postprocessing, processing, scripts
from demo.webui.arguments import parse_arguments
from demo.webui.around import Models
from demo.webui.catalogue import Catalogue
from demo.webui.decoder import decode_latent
from demo.webui.faults import Faults
from demo.webui.hashes import HashCache
from demo.webui.img2img import EncodedImageError, read_picture
from demo.webui.loader import Loader
from demo.webui.options import Options
from demo.webui.png import encode_picture, encode_png
from demo.webui.request import EXTRAS, IMG2IMG, InvalidRequestError, parse_body, parse_json
from demo.webui.sampling import SAMPLERS, SCHEDULES
from demo.webui.state import Queue, State
from demo.webui.txt2img import NO_HIRES, HttpError, Studio, check_request, run_job

_PREVIEW_PIXELS = 256

Query = dict[str, list[str]]
Route = Callable[[Query, bytes], Any]


class Api:
    """The endpoints. Each takes the query and the body, and gives what is sent as JSON."""

    def __init__(self, studio: Studio, *, nowebui: bool) -> None:
        self._studio = studio
        self._queue = Queue()
        self.routes: dict[tuple[str, str], Route] = {
            ("POST", "/sdapi/v1/txt2img"): self._txt2img,
            ("POST", "/sdapi/v1/img2img"): self._img2img,
            ("POST", "/sdapi/v1/extra-single-image"): self._extras,
            ("GET", "/sdapi/v1/progress"): self._progress,
            ("POST", "/sdapi/v1/interrupt"): self._interrupt,
            ("POST", "/sdapi/v1/skip"): self._skip,
            ("GET", "/sdapi/v1/options"): lambda _query, _body: studio.options.everything(),
            ("POST", "/sdapi/v1/options"): self._set_options,
            ("GET", "/sdapi/v1/sd-models"): lambda _query, _body: [
                each.listing() for each in studio.catalogue.checkpoints
            ],
            ("GET", "/sdapi/v1/sd-vae"): lambda _query, _body: [
                {"model_name": name, "filename": str(path)}
                for name, path in studio.catalogue.vaes.items()
            ],
            ("GET", "/sdapi/v1/loras"): lambda _query, _body: [
                each.listing() for each in studio.catalogue.loras.values()
            ],
            ("GET", "/sdapi/v1/samplers"): _samplers,
            ("GET", "/sdapi/v1/upscalers"): lambda _query, _body: [
                {
                    "name": name,
                    "model_name": None,
                    "model_path": path,
                    "model_url": None,
                    "scale": 4,
                }
                for name, path in studio.models.upscalers().items()
            ],
            ("GET", "/sdapi/v1/face-restorers"): lambda _query, _body: [
                {"name": name, "cmd_dir": None} for name in ("CodeFormer", "GFPGAN")
            ],
            ("GET", "/sdapi/v1/schedulers"): _schedulers,
            ("GET", "/sdapi/v1/script-info"): lambda _query, _body: [
                *scripts.scripts_txt2img.describe(),
                *scripts.scripts_img2img.describe(),
            ],
            ("GET", "/sdapi/v1/memory"): _memory,
            ("POST", "/sdapi/v1/refresh-loras"): lambda _query, _body: (
                studio.catalogue.refresh_loras()
            ),
            ("POST", "/sdapi/v1/refresh-checkpoints"): self._in_turn(
                studio.catalogue.refresh_checkpoints
            ),
            ("POST", "/sdapi/v1/refresh-vae"): self._in_turn(studio.catalogue.refresh_vaes),
        }
        if not nowebui:
            self.routes["GET", "/internal/ping"] = lambda _query, _body: {}

    def _in_turn(self, action: Callable[[], None]) -> Route:
        def route(_query: Query, _body: bytes) -> None:
            with self._queue.turn():
                action()

        return route

    def _txt2img(self, _query: Query, body: bytes) -> Any:
        request = parse_body(body)
        sampler = check_request(request)
        with self._queue.turn():
            return run_job(self._studio, request, sampler)

    def _img2img(self, _query: Query, body: bytes) -> Any:
        request = parse_body(body, IMG2IMG)
        if request["init_images"] is None:
            raise HttpError(404, "Init image not found")
        mask = _picture(request["mask"]) if request["mask"] else None
        sampler = check_request(request)
        for text in request["init_images"]:
            _picture(text)
        with self._queue.turn():
            answer = run_job(self._studio, {**request, **NO_HIRES}, sampler, mask=mask)
        if not request["include_init_images"]:
            answer["parameters"] = {**request, "init_images": None, "mask": None}
        return answer

    def _extras(self, _query: Query, body: bytes) -> Any:
        request = parse_body(body, EXTRAS)
        picture = _picture(request["image"])
        with self._queue.turn():
            self._studio.state.begin("extras")
            try:
                made, told = postprocessing.run_extras(request, picture, self._studio.models)
            finally:
                self._studio.state.end()
        return {"image": encode_picture(made), "html_info": told}

    def _progress(self, query: Query, _body: bytes) -> Any:
        state = self._studio.state
        answer = state.progress()
        latent = state.current_latent
        skip = query.get("skip_current_image", ["false"])[0].lower() in ("true", "1", "on", "yes")
        if (
            state.job_count
            and latent is not None
            and not skip
            and self._studio.options.live_previews_enable
        ):
            preview = decode_latent(latent, width=_PREVIEW_PIXELS, height=_PREVIEW_PIXELS)
            answer["current_image"] = encode_png(preview)
        return answer

    def _interrupt(self, _query: Query, _body: bytes) -> Any:
        self._studio.state.interrupted = True
        return {}

    def _skip(self, _query: Query, _body: bytes) -> None:
        self._studio.state.skipped = True

    def _set_options(self, _query: Query, body: bytes) -> None:
        given = parse_json(body)
        if not isinstance(given, dict):
            mistake = {
                "loc": ["body"],
                "msg": "value is not a valid dict",
                "type": "type_error.dict",
            }
            raise InvalidRequestError([mistake])
        checkpoint = given.get("sd_model_checkpoint")
        if checkpoint is not None and self._studio.catalogue.find_checkpoint(checkpoint) is None:
            raise RuntimeError(f"model {checkpoint!r} not found")
        for key, value in given.items():
            self._studio.options.set(key, value)
        self._studio.options.save()
        if checkpoint is not None:
            with self._queue.turn():
                self._studio.loader.current()


def _picture(text: str) -> Image.Image:
    try:
        return read_picture(text)
    except EncodedImageError:
        raise HttpError(500, "Invalid encoded image") from None


def _samplers(_query: Query, _body: bytes) -> Any:
    return [
        {"name": each.name, "aliases": list(each.aliases), "options": each.options}
        for each in SAMPLERS
    ]


def _schedulers(_query: Query, _body: bytes) -> Any:
    return [
        {
            "name": each.name,
            "label": each.label,
            "aliases": list(each.aliases) if each.aliases else None,
            "default_rho": each.default_rho,
            "need_inner_model": each.need_inner_model,
        }
        for each in SCHEDULES
    ]


def _memory(_query: Query, _body: bytes) -> Any:
    """Memory of this process in bytes; there is no card."""
    used = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    return {
        "ram": {"free": total - used, "used": used, "total": total},
        "cuda": {"error": "unavailable"},
    }


def answer(api: Api, method: str, target: str, body: bytes) -> tuple[int, Any]:
    """The status and the JSON of one request, whatever happens."""
    url = urlsplit(target)
    route = api.routes.get((method, url.path))
    if route is None:
        known = any(path == url.path for _, path in api.routes)
        return (405, {"detail": "Method Not Allowed"}) if known else (404, {"detail": "Not Found"})
    try:
        return 200, route(parse_qs(url.query), body)
    except InvalidRequestError as error:
        return 422, {"detail": error.detail}
    except HttpError as error:
        return error.status, _error("HTTPException", error.detail, "")
    except Exception as error:  # noqa: BLE001  # every mistake is an answer, as in the webui
        print(f"*** API error: {method}: {url.path}", file=sys.stderr)
        traceback.print_exc()
        return 500, _error(type(error).__name__, "", str(error))


def _error(kind: str, detail: str, errors: str) -> dict[str, str]:
    return {"error": kind, "detail": detail, "body": "", "errors": errors}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api

    def _handle(self) -> None:
        began = time.monotonic()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, content = answer(self.api, self.command, self.path, body)
        data = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Process-Time", f"{time.monotonic() - began:.4f}")
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            # The client has gone. Its job was done all the same, as in the webui.
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def log_message(self, *_arguments: object) -> None:
        """The webui's server logs no requests by default."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main(arguments: list[str] | None = None) -> None:
    """Starts the server; returns never. The model is loaded beside it."""
    began = time.monotonic()
    parsed = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    faults = Faults.from_environment()
    faults.at_start()
    scripts.load_scripts(parsed.data_dir / "extensions")
    catalogue = Catalogue(parsed, HashCache(parsed.data_dir / "cache" / "hashes.json"))
    options = Options(parsed.ui_settings_file)
    if parsed.ckpt is not None and parsed.ckpt.exists():
        options.data["sd_model_checkpoint"] = catalogue.checkpoints[0].title
    loader = Loader(catalogue=catalogue, options=options, vae_path=parsed.vae_path, faults=faults)
    processing.model_hijack.embedding_db.folder = parsed.embeddings_dir
    studio = Studio(
        catalogue=catalogue,
        options=options,
        loader=loader,
        state=State(),
        faults=faults,
        models=Models(parsed.models_dir),
    )
    handler = type("Handler", (_Handler,), {"api": Api(studio, nowebui=parsed.nowebui)})
    server = _Server((parsed.server_name, parsed.port), handler)
    loader.load_in_background()
    print(f"Running on http://{parsed.server_name}:{server.server_port}", flush=True)
    print(f"Startup time: {time.monotonic() - began:.1f}s.", flush=True)
    server.serve_forever()
