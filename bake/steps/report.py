"""The bake report: what a bake was, in `report.json`, and the page of it (`bake.report`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bake import __version__
from bake.image.oci.model import Image
from bake.report.pins import describe_pins
from bake.report.record import REPORT_FILE, REPORT_FORMAT, keep_report
from runtime.worker import Worker

if TYPE_CHECKING:
    from bake.steps.run import Run


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
    """Writes the report into the bake's folder. Returns the JSON file's path."""
    from bake.report.page import write_page  # noqa: PLC0415  # jinja2 costs start time

    manifest, folder = run.context.manifest, run.context.folder.root
    report = {
        "format": REPORT_FORMAT,
        "bake": __version__,
        "baked_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "name": worker.name,
        "manifest": str(manifest.path),
        "build_dir": _build_dir(folder),
        "family": worker.family,
        "gpu": manifest.gpu,
        "reference": reference,
        "digest": image.digest,
        "size_bytes": image.size_bytes,
        "lock_sha256": worker.lock_sha256,
        "webui": {
            "name": worker.webui.name,
            "version": worker.webui.version,
            "revision": worker.webui.revision,
        },
        "request": manifest.warmup.payload(),
        "steps": [
            {**step.to_json(), "seconds": run.seconds.get(step.name)} for step in run.plan.steps
        ],
        "weights": [
            {"role": w.role, "name": w.name, "sha256": w.sha256, "size_bytes": w.size_bytes}
            for w in worker.weights
        ],
        "pins": describe_pins(run.lock, {w.sha256: w.size_bytes for w in worker.weights}),
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
    has_picture = warmup["harvest"] == "own"
    picture = (folder / "picture.png").read_bytes() if has_picture else None
    write_page(keep_report(folder, report, picture))
    return folder / REPORT_FILE


def _build_dir(folder: Path) -> str | None:
    """What `--build-dir` has to be given to a command about this bake; None where it is the default."""
    parent = folder.parent
    if parent == Path("build").absolute():
        return None
    here = Path.cwd()
    return str(parent.relative_to(here) if parent.is_relative_to(here) else parent)
