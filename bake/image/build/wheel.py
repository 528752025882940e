"""The xformers wheel: compiled once for a card, kept, and lent to every base build that it fits.

Compiling takes three quarters of an hour on two cores, so the wheel's key holds just what its code
depends on, and lies outside of any builder's cache.
"""

from __future__ import annotations

import hashlib
import re
import runpy
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bake import assets
from bake.console import Console, format_bytes
from bake.errors import BuildError, ManifestError
from bake.image.build.dockerfile import Dockerfile
from bake.image.engine.docker import Engine
from bake.plan.state import Document, key_of

STAGE = "xformers"
"""The stage whose tree is the wheel, and the named context that takes its place."""
BUILD_STAGE = "xformers-build"
_NO_INFLUENCE = {"MAX_JOBS"}


@dataclass(frozen=True, kw_only=True)
class WheelPlan:
    """A wheel that a base needs."""

    document: Document
    architecture: str
    """As TORCH_CUDA_ARCH_LIST has it, such as 8.9."""
    brought: Path | None = None
    """A ready-made wheel, used as it is."""

    @property
    def key(self) -> str:
        """Names the wheel in the cache."""
        return key_of(self.document)


def plan_wheel(
    dockerfile: Dockerfile,
    *,
    build_args: Mapping[str, str],
    locks: Mapping[str, str],
    brought: Path | None = None,
) -> WheelPlan | None:
    """Says which wheel a base needs; None where its Dockerfile compiles none.

    Args:
        dockerfile: The base's.
        build_args: What overrides the Dockerfile's defaults.
        locks: The texts of `torch.txt` and `xformers.txt`.
        brought: A ready-made wheel (BAKE_XFORMERS_WHEEL).

    Raises:
        ManifestError: the ready-made wheel is missing, of another version, or for another card.
    """
    stage = dockerfile.stage(BUILD_STAGE)
    if stage is None or dockerfile.stage(STAGE) is None:
        return None
    arguments = {
        name: build_args.get(name, default)
        for name, default in dockerfile.arguments_of(BUILD_STAGE).items()
        if name not in _NO_INFLUENCE
    }
    version = _pinned(locks["xformers.txt"], "xformers")
    document = {
        "xformers": version,
        "torch": _pinned(locks["torch.txt"], "torch"),
        "PYTHON_IMAGE": build_args.get(
            "PYTHON_IMAGE", dockerfile.arguments.get("PYTHON_IMAGE", "")
        ),
        **arguments,
        "stage": hashlib.sha256(stage.text.encode()).hexdigest(),
    }
    architecture = arguments.get("CUDA_ARCHITECTURE", "")
    if brought is not None:
        _check_brought(brought, version=version, architecture=architecture)
        digest = hashlib.sha256(brought.read_bytes()).hexdigest()
        document = {"ready-made wheel": digest, "CUDA_ARCHITECTURE": architecture}
    return WheelPlan(document=document, architecture=architecture, brought=brought)


def find_wheel(folder: Path) -> Path | None:
    """The one xformers wheel of a folder."""
    wheels = sorted(folder.glob("xformers-*.whl"))
    return wheels[0] if len(wheels) == 1 else None


def provide_wheel(
    plan: WheelPlan,
    *,
    cache: Path,
    engine: Engine,
    build: list[str],
    log: Path,
    console: Console,
) -> Path:
    """The folder that holds the planned wheel and nothing that is not of it; compiles it where need be.

    Args:
        plan: Which wheel.
        cache: Where wheels are kept, each in a folder of its key's name.
        engine: Compiles.
        build: The arguments of the base's build up to and without the context, and the context, last.
        log: Takes the compiler's output.
        console: Says where the wheel came from.

    Raises:
        BuildError: it does not compile, or not for the card.
    """
    folder = cache / plan.key
    found = find_wheel(folder)
    if found is not None:
        console.say(f"xformers for {plan.architecture}: {found}")
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=cache))
    try:
        if plan.brought is not None:
            shutil.copy2(plan.brought, partial / plan.brought.name)
        else:
            console.say(
                f"compiling xformers for {plan.architecture}: about 100 core minutes, once; "
                f"kept in {folder} (docs/base.md#the-xformers-wheel says how to bring a ready-made one)"
            )
            _compile(engine, build, partial, log)
        wheel = find_wheel(partial)
        if wheel is None:
            raise BuildError(f"the stage {STAGE} left no xformers wheel", where=str(log))
        _require_architecture(wheel, plan.architecture)
        shutil.rmtree(folder, ignore_errors=True)
        partial.chmod(0o755)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    console.say(f"xformers: {wheel.name}, {format_bytes((folder / wheel.name).stat().st_size)}")
    return folder


def _compile(engine: Engine, build: list[str], into: Path, log: Path) -> None:
    *options, context = build
    engine.buildx(
        [*options, "--target", STAGE, "--output", f"type=local,dest={into}", context],
        log=log,
        what="the xformers wheel",
    )


def wheel_architectures(wheel: Path) -> dict[str, int]:
    """The card architectures that a wheel holds machine code for, each with its number of cubins.

    Read from the headers of the fat binaries in its extensions, as `cuobjdump --list-elf` does; PTX,
    which any later card could compile, is not counted.

    Raises:
        zipfile.BadZipFile: it is no ZIP archive.
    """
    # A script of the base's build context, no module: the build must find it there.
    counts: dict[str, int] = runpy.run_path(str(assets.SLIM))["list_architectures"]([wheel])
    return counts


def _require_architecture(wheel: Path, architecture: str) -> None:
    found = wheel_architectures(wheel)
    if architecture not in found:
        held = ", ".join(found) or "no card at all"
        raise BuildError(
            f"the wheel has machine code for {held}, the image is for {architecture}",
            where=str(wheel),
            hint="compile it with TORCH_CUDA_ARCH_LIST set to the card's architecture",
        )


def _check_brought(wheel: Path, *, version: str, architecture: str) -> None:
    if not wheel.is_file():
        raise ManifestError("there is no such wheel", where=f"BAKE_XFORMERS_WHEEL={wheel}")
    named = re.match(
        r"xformers-([^-+]+)(?:\+[^-]+)?-cp310-cp310-\w*linux\w*_x86_64\.whl$", wheel.name
    )
    if not named or named[1] != version:
        raise ManifestError(
            f"expected xformers {version} for CPython 3.10 on Linux x86_64",
            where=f"BAKE_XFORMERS_WHEEL={wheel}",
            hint="a wheel's file name says what it is for; keep it as pip wrote it",
        )
    try:
        _require_architecture(wheel, architecture)
    except BuildError as error:
        raise ManifestError(error.what, where=error.where, hint=error.hint) from error
    except zipfile.BadZipFile as error:
        raise ManifestError("this is no wheel: not a ZIP archive", where=str(wheel)) from error


def _pinned(lock: str, package: str) -> str:
    found = re.search(rf"^{package}==([^\s\\]+)", lock, re.MULTILINE)
    if found is None:
        raise ManifestError(
            f"does not pin {package}", where="requirements", hint="run `make locks` again"
        )
    return found[1]
