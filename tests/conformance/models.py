"""What is asked with models around the checkpoint: embeddings, hypernetworks, upscalers, face restorers."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conformance.cases import BASE, HIRES, Case
from tests.conformance.pictures import UPSCALE, Row

BAKED, BY_ADDRESS = "fogword", "frostword"
_FACES: dict[str, Any] = {"restore_faces": True}


def _by(restorer: str) -> dict[str, Any]:
    return {"override_settings": {"face_restoration_model": restorer}}


def cases() -> Iterator[Case]:
    """In the worker one after another, in an order in which each could spoil the next."""
    rows: list[tuple[str, dict[str, Any]]] = [
        ("nothing", {}),
        ("a baked embedding", {"prompt": f"a fox, {BAKED}"}),
        ("a baked embedding, weighted, in another case", {"prompt": "a fox, (FogWord:1.3)"}),
        ("a baked embedding against", {"negative_prompt": f"{BAKED}, blurry"}),
        ("nothing after an embedding", {}),
        ("a hypernetwork", {"prompt": "a fox<hypernet:style:0.7>"}),
        ("another hypernetwork", {"prompt": "a fox<hypernet:other>"}),
        ("both hypernetworks", {"prompt": "<hypernet:other:1><hypernet:style:0.5>a fox"}),
        ("the first again", {"prompt": "a fox<hypernet:style:0.7>"}),
        ("tags that are switched off", {"prompt": "a fox", "disable_extra_networks": True}),
        ("nothing after a hypernetwork", {}),
        ("hires fix by a model", {**HIRES, "hr_upscaler": "tiny-esrgan"}),
        ("hires fix by R-ESRGAN", {**HIRES, "hr_upscaler": "R-ESRGAN 4x+"}),
        ("hires fix by SwinIR", {**HIRES, "hr_upscaler": "tiny-swinir"}),
    ]
    for name, changes in rows:
        yield Case(name=name, value={**BASE, **changes})
    larger: list[tuple[str, dict[str, Any]]] = [
        ("larger by a model", {"upscaler_1": "tiny-esrgan"}),
        ("larger by R-ESRGAN", {"upscaler_1": "R-ESRGAN 4x+", "upscaling_resize": 3}),
        (
            "larger by two models",
            {
                "upscaler_1": "tiny-esrgan",
                "upscaler_2": "tiny-swinir",
                "extras_upscaler_2_visibility": 0.4,
            },
        ),
    ]
    for name, changes in larger:
        yield Case(name=name, value={**UPSCALE, **changes})


def faces() -> Iterator[Case]:
    """Each takes a minute or more on a CPU, since the restorers are as large as the real ones."""
    for name, changes in (
        ("nothing", {}),
        ("by CodeFormer", _FACES),
        ("by GFPGAN", {**_FACES, **_by("GFPGAN")}),
        ("by GFPGAN again", {**_FACES, **_by("GFPGAN")}),
        ("two by GFPGAN", {**_FACES, **_by("GFPGAN"), "batch_size": 2}),
        ("nothing after faces", {}),
    ):
        yield Case(name=name, value={**BASE, **changes})
    yield Case(name="larger with GFPGAN's", value={**UPSCALE, "gfpgan_visibility": 0.8})
    by_codeformer = {"codeformer_visibility": 1, "codeformer_weight": 0.3}
    yield Case(name="larger with CodeFormer's", value={**UPSCALE, **by_codeformer})


CHANGES = {
    "a hypernetwork": "tags that are switched off",
    "both hypernetworks": "another hypernetwork",
    "hires fix by a model": "hires fix by R-ESRGAN",
    "a baked embedding against": "nothing",
}
"""Cases whose pictures must differ: else both sides might do nothing."""


def refused() -> list[Row]:
    """What is not baked, which the webui would try to fetch, or draw as words."""
    return [
        ("an upscaler", {**UPSCALE, "upscaler_1": "R-ESRGAN 4x+ Anime6B"}, "is baked"),
        ("LDSR", {**UPSCALE, "upscaler_1": "LDSR"}, "is baked"),
        ("an upscaler of hires fix", {**BASE, **HIRES, "hr_upscaler": "ScuNET"}, "is baked"),
        ("a hypernetwork", {**BASE, "prompt": "<hypernet:none:1>"}, "no hypernetwork 'none'"),
        ("an embedding", {**BASE, "embeddings": ["none"]}, "no embedding of that name is baked"),
        (
            "an embedding that no prompt says",
            {**BASE, "embeddings": [BAKED]},
            "no prompt says 'fogword'",
        ),
        ("an embedding as ComfyUI says it", {**BASE, "prompt": "embedding:x"}, "say just its name"),
    ]


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server on loopback that has the folder's files."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
