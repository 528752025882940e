"""The thin layers: the runtime's environment, the runtime, and what `bake` knows of this one image.

The first two come from Dockerfile.final, whose stages build on the slim Python image and never touch the
base; the third is plain files. All are normalised, so that the same content gives the same digest.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from bake import assets
from bake.errors import BuildError
from bake.image.engine.docker import Engine
from bake.image.oci.layers import TreeLayer, make_tree_layer

ThinTarget = Literal["environment", "runtime", "extensions"]


def build_thin_layer(
    target: ThinTarget,
    *,
    engine: Engine,
    build_args: Mapping[str, str],
    blob: Path,
    scratch: Path,
    log: Path,
    contexts: Mapping[str, Path] | None = None,
) -> TreeLayer:
    """Builds one target of Dockerfile.final into a layer on disk.

    Args:
        target: The stage.
        engine: Builds it.
        build_args: PYTHON_IMAGE is used, others are not passed on.
        blob: Where the layer is written.
        scratch: A folder for the build context and the tar that the builder writes.
        log: Takes the build's output.
        contexts: Folders in the place of stages, by their names.

    Raises:
        BuildError: the build failed.
    """
    tree = scratch / f"{target}.tar"
    image = build_args.get("PYTHON_IMAGE")
    engine.buildx(
        [
            "--file", str(assets.DOCKERFILE_FINAL),
            "--target", target,
            *(["--build-arg", f"PYTHON_IMAGE={image}"] if image else []),
            *(part for each in (contexts or {}).items() for part in ("--build-context", "=".join(map(str, each)))),
            "--output", f"type=tar,dest={tree}",
            str(_make_context(scratch / "context")),
        ],
        log=log,
        what=f"the {target} stage of Dockerfile.final",
    )  # fmt: skip
    return _pack(tree, blob, what=target)


def _make_context(folder: Path) -> Path:
    """What Dockerfile.final copies, as it lies in a checkout, and nothing else of where bake is installed."""
    shutil.copytree(
        assets.package_folder("runtime"),
        folder / "runtime",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (folder / "requirements").mkdir()
    for file in (assets.RUNTIME_LOCK, assets.RUNTIME_TRIM):
        shutil.copy(file, folder / "requirements" / file.name)
    return folder


def sdk_of(lock: Path) -> str:
    """`runpod 1.12.0`: what the lock of the runtime's environment pins.

    Raises:
        BuildError: the lock pins none.
    """
    found = re.search(r"^(runpod)==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise BuildError(
            "pins no runpod, which the worker needs", where=str(lock), hint="make locks"
        )
    return f"{found[1]} {found[2]}"


def pack_files(root: Path, *, blob: Path, scratch: Path) -> TreeLayer:
    """Makes a layer of a folder whose top is the image's root.

    Raises:
        BuildError: it holds something that no layer may hold.
    """
    tree = scratch / "files.tar"
    with tarfile.open(tree, "w") as tar:
        for path in sorted(root.rglob("*")):
            name = PurePosixPath("/") / path.relative_to(root).as_posix()
            tar.add(path, arcname=str(name), recursive=False)
    return _pack(tree, blob, what="the image's own files")


def _pack(tree: Path, blob: Path, *, what: str) -> TreeLayer:
    blob.parent.mkdir(parents=True, exist_ok=True)
    try:
        return make_tree_layer(tree, blob)
    except ValueError as error:
        raise BuildError(f"{what} cannot be made a layer: {error}") from error
