"""Reports as bakes write them, for the tests of their pages."""

import copy
import io
from pathlib import Path
from typing import Any

from PIL import Image

from bake.report.record import REPORT_FORMAT, Reported

HOSTILE = "</style><script>alert(1)</script><img src=x onerror=\"alert('2')\">&amp;{{ 7*7 }}"
"""Would do something wherever a value is not escaped."""


def make_report(**changes: Any) -> dict[str, Any]:
    """One of a small image; `changes` replace entries."""
    layers = [
        ("base", "", 60_000_000),
        ("weights", "/models/Stable-diffusion/shapes.safetensors", 4_112_016),
        ("thin", "the runtime's environment", 68_000_000),
        ("thin", "the runtime", 358_063),
        ("documents", "bill of materials and provenance", 10_084),
    ]
    report: dict[str, Any] = {
        "format": REPORT_FORMAT,
        "bake": "0.1.0",
        "baked_at": "2026-11-27T16:40:12Z",
        "name": "demo",
        "manifest": "manifests/demo.yaml",
        "build_dir": None,
        "family": "demo",
        "gpu": None,
        "reference": "127.0.0.1:5005/bakery-demo:3c46f7000384",
        "digest": "sha256:" + "3c46" * 16,
        "size_bytes": sum(size for _, _, size in layers),
        "lock_sha256": "d" * 64,
        "webui": {"name": "demo", "version": "v1.9.3-demo", "revision": "demo"},
        "request": {
            "prompt": "a red circle", "width": 512, "height": 512, "steps": 8, "seed": 1,
        },
        "steps": [
            {"step": "fetch", "runs": False, "why": "the store holds every file", "bytes": None, "key": "1", "seconds": None},
            {"step": "warmup", "runs": True, "why": "it has not been done yet", "bytes": None, "key": "2", "seconds": 8.596},
            {"step": "verify", "runs": True, "why": "it has not been done yet", "bytes": None, "key": "3", "seconds": 125.434},
        ],
        "weights": [],
        "pins": [
            {
                "key": "checkpoint",
                "role": "checkpoint",
                "name": "shapes",
                "file_name": "shapes.safetensors",
                "title": "Shapes, v2",
                "source": "civitai:7",
                "page": "https://civitai.com/models/5?modelVersionId=7",
                "sha256": "a" * 64,
                "size_bytes": 4_112_016,
                "base_model": "SD 1.5",
                "published_at": "2026-10-01T00:00:00Z",
                "trigger_words": ["shape"],
                "licence": "cc-by-nc-4.0",
                "warnings": ["its licence cc-by-nc-4.0 forbids commercial use"],
            }
        ],
        "layers": [
            {"kind": kind, "what": what, "size_bytes": size, "digest": "sha256:" + f"{number:x}" * 64}
            for number, (kind, what, size) in enumerate(layers, 1)
        ],
        "warmup": {
            "harvest": "own",
            "device": "cpu",
            "loaded_s": 2.726,
            "drawn_s": 0.313,
            "tricks": ["gc"],
            "timeline": [
                {"name": "boot", "began": 1000.5, "ended": 1001.2, "tricks": ["gc"]},
                {"name": "jobs", "began": 0.0, "ended": 0.0},
                {"name": "model", "began": 1002.0, "ended": 1002.4},
            ],
        },
        "verify": {
            "verdict": "good",
            "checks": [
                {"name": "size", "severity": "ok", "message": "0.13 GB", "remedy": ""},
                {"name": "base", "severity": "warning", "message": "not read", "remedy": "bake verify"},
            ],
            "worker_seconds": 13.5,
            "worker_start": {"start_s": 3.944, "timeline": [{"name": "model", "began": 3.7, "ended": 4.0}, {"name": "SDK", "began": 5.0, "ended": 6.5}]},
            "worker_timings": {"generate_s": 0.2941, "total_s": 0.31},
        },
        "push": None,
    }  # fmt: skip
    return {**report, **changes}


def make_png(colour: str) -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return file.getvalue()


def make_reported(data: dict[str, Any] | None = None, *, picture: bytes | None = None) -> Reported:
    return Reported(folder=Path("build/demo"), data=data or make_report(), picture=picture)


def make_hostile(value: Any) -> Any:
    """The same document with every text replaced that a stranger may have written."""
    kept = {
        "format",
        "digest",
        "kind",
        "severity",
        "harvest",
        "step",
        "sha256",
        "baked_at",
        "device",
    }

    def spoil(key: str, each: Any) -> Any:
        if isinstance(each, dict):
            return {name: spoil(name, inner) for name, inner in each.items()}
        if isinstance(each, list):
            return [spoil(key, inner) for inner in each]
        if key == "page":
            return "javascript:alert(3)"
        return f"{each}{HOSTILE}" if isinstance(each, str) and key not in kept else each

    return spoil("", copy.deepcopy(value))
