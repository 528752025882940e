"""What the image will know of itself, from manifest, lock and the base's contract."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from bake.errors import ManifestError
from bake.lock import Pin
from bake.manifest.roles import ROLES, folder_of
from bake.steps.run import Run
from runtime.worker import Extension, Webui, Weights, Worker


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
        extensions=tuple(_extensions(run, webui)),
    )


def _path_of(pin: Pin, webui: Webui) -> str:
    folder = folder_of(webui, pin.role)
    if not folder:
        raise ManifestError(
            f"the base does not say where it looks for it: it has no label bakery.path.{ROLES[pin.role].label}",
            where=pin.key,
            hint="take a newer base image, or add the label to its Dockerfile (docs/architecture.md#the-base-contract)",
        )
    is_inside = pin.role == "extension_model" and pin.place.parts[0] == "extensions"
    return str((_data_folder(webui) if is_inside else PurePosixPath(folder)) / pin.place)


def _extensions(run: Run, webui: Webui) -> Iterator[Extension]:
    scripts = {each.folder: each.scripts for each in run.context.manifest.extensions}
    for pin in run.lock.extensions:
        yield Extension(
            name=pin.name,
            path=str(_data_folder(webui) / "extensions" / pin.name),
            commit=pin.commit,
            scripts=scripts[pin.name],
        )


def _data_folder(webui: Webui) -> PurePosixPath:
    """Where the webui looks for extensions, by its own rule (modules/paths_internal.py)."""
    folder, words = webui.directory, list(webui.args)
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--data-dir":
            folder = value if equals else words[number + 1]
    return PurePosixPath(webui.directory) / folder
