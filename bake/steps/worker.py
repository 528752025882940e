"""What the image will know of itself, from manifest, lock and the base's contract."""

from __future__ import annotations

import hashlib

from bake.errors import ManifestError
from bake.lock import Pin
from bake.manifest.roles import ROLES, folder_of
from bake.steps.run import Run
from runtime.worker import Webui, Weights, Worker


def describe_worker(run: Run, webui: Webui) -> Worker:
    """What the image will know of itself.

    Raises:
        ManifestError: two weights files would lie at the same path, or the base has no folder for one.
    """
    manifest, store = run.context.manifest, run.context.store
    streamed = run.plan.streamed
    weights = tuple(
        Weights(
            role=pin.role,
            name=pin.name,
            path=_path_of(pin, webui),
            sha256=pin.sha256,
            # A pin without a size is not streamed.
            size_bytes=pin.size_bytes or 0 if pin.key in streamed else store.size_of(pin.sha256),
        )
        for pin in run.lock.pins
    )
    paths = [each.path for each in weights]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise ManifestError(
            f"two files would have the same place in the image: {', '.join(twice)}",
            where=str(manifest.path),
            hint="give one of them another name",
        )
    return Worker(
        name=manifest.name,
        family=manifest.family,
        webui=webui,
        weights=weights,
        args=manifest.webui.args,
        limits=manifest.limits,
        lock_sha256=hashlib.sha256(run.lock.to_json().encode()).hexdigest(),
    )


def _path_of(pin: Pin, webui: Webui) -> str:
    folder = folder_of(webui, pin.role)
    if not folder:
        raise ManifestError(
            f"the base does not say where it looks for it: it has no label bakery.path.{ROLES[pin.role].label}",
            where=pin.key,
            hint="take a newer base image, or add the label to its Dockerfile (docs/architecture.md)",
        )
    return f"{folder}/{pin.place}"
