"""The bake report: `report.json` for machines and `report.html`, one page with the picture, for people."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bake import __version__
from bake.console import format_bytes
from bake.files import write_atomically
from bake.image.oci.model import Image
from runtime.worker import Worker

if TYPE_CHECKING:
    from bake.steps.run import Run

REPORT_FORMAT = 1


def write_report(
    run: Run,
    worker: Worker,
    image: Image,
    *,
    reference: str,
    warmup: Mapping[str, Any],
    verdict: Mapping[str, Any],
    pushed: Mapping[str, Any] | None,
) -> Path:
    """Writes both files into the bake's folder. Returns the JSON one's path."""
    folder = run.context.folder.root
    report = {
        "format": REPORT_FORMAT,
        "bake": __version__,
        "name": worker.name,
        "reference": reference,
        "digest": image.digest,
        "size_bytes": image.size_bytes,
        "lock_sha256": worker.lock_sha256,
        "webui": {"name": worker.webui.name, "version": worker.webui.version},
        "steps": [
            {**step.to_json(), "seconds": run.seconds.get(step.name)} for step in run.plan.steps
        ],
        "weights": [
            {"role": w.role, "name": w.name, "sha256": w.sha256, "size_bytes": w.size_bytes}
            for w in worker.weights
        ],
        "layers": [
            {
                "digest": layer.digest,
                "size_bytes": layer.size_bytes,
                "kind": layer.kind,
                "what": layer.comment,
            }
            for layer in image.layers
        ],
        "warmup": dict(warmup),
        "verify": dict(verdict),
        "push": dict(pushed) if pushed else None,
    }
    path = folder / "report.json"
    write_atomically(path, json.dumps(report, sort_keys=True, indent=1) + "\n")
    picture = (folder / "picture.png").read_bytes() if warmup["harvest"] == "own" else None
    write_atomically(folder / "report.html", render_html(report, picture))
    return path


def render_html(report: Mapping[str, Any], picture: bytes | None) -> str:
    """One page without scripts or outside files; without a picture where none was drawn."""
    steps = _table(
        ("step", "ran", "seconds", "why"),
        [
            (s["step"], "yes" if s["runs"] else "no", _seconds(s["seconds"]), s["why"])
            for s in report["steps"]
        ],
    )
    layers = _table(
        ("layer", "size", "digest"),
        [
            (layer["what"] or layer["kind"], format_bytes(layer["size_bytes"]), layer["digest"])
            for layer in report["layers"]
        ],
    )
    facts = _table(
        ("", ""),
        [
            ("reference", report["reference"]),
            ("digest", report["digest"]),
            ("size", format_bytes(report["size_bytes"])),
            ("webui", f"{report['webui']['name']} {report['webui']['version']}"),
            *_warmup_facts(report["warmup"]),
        ],
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(report['name'])}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(report['name'])}</h1>"
        f"{_image(picture) if picture else ''}"
        f"{facts}<h2>Steps</h2>{steps}<h2>Layers</h2>{layers}</html>\n"
    )


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "td,th{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top;word-break:break-all}"
    "img{max-width:24rem;border:1px solid #ccc}"
)


_NO_WARMUP = {
    "reused": "none with these weights; modules and read-ahead of an earlier one",
    "none": "none: the worker starts slower",
}


def _warmup_facts(warmup: Mapping[str, Any]) -> list[tuple[str, str]]:
    if warmup["harvest"] != "own":
        return [("warm-up", _NO_WARMUP[warmup["harvest"]])]
    return [
        ("warm-up device", warmup["device"]),
        ("model loaded after", _seconds(warmup["loaded_s"])),
        ("picture drawn in", _seconds(warmup["drawn_s"])),
    ]


def _image(picture: bytes) -> str:
    encoded = base64.b64encode(picture).decode()
    return f'<img alt="the warm-up picture" src="data:image/png;base64,{encoded}">'


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    titles = "".join(f"<th>{html.escape(each)}</th>" for each in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{titles}</tr>{body}</table>"
