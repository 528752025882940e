"""The base image: Dockerfile.base, or whatever a manifest names in its place.

Nothing here knows which webui a base holds. A Dockerfile that declares CUDA_ARCHITECTURE is told the
card's; one that has the stages of `bake.image.build.wheel` gets its xformers wheel from the cache.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bake import assets
from bake.console import Console
from bake.errors import BuildError, ManifestError
from bake.flock import locked
from bake.image.build.dockerfile import Dockerfile, hash_context, parse_dockerfile
from bake.image.build.wheel import (
    BUILD_STAGE,
    STAGE,
    WheelPlan,
    plan_wheel,
    provide_wheel,
)
from bake.image.engine.docker import Engine
from bake.manifest.gpus import find_gpu
from bake.manifest.model import Manifest
from bake.plan.code import sources_of
from bake.plan.state import Document, key_of
from bake.settings import Settings

BASE_REPOSITORY = "bakery.local/base"
"""Built bases are tagged with their keys; no registry has this name."""
_ARCHITECTURE = "CUDA_ARCHITECTURE"
# PYTHON_IMAGE is Dockerfile.final's too; the others are BuildKit's own.
_ALWAYS_KNOWN = {"PYTHON_IMAGE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"}


@dataclass(frozen=True, kw_only=True)
class BasePlan:
    """How a manifest's base image is come by."""

    document: Document
    """Everything that the image depends on, as far as it is known before a build."""
    build_args: Mapping[str, str]
    image: str | None = None
    """A ready image, pulled where the engine lacks it; else the next two are set."""
    dockerfile: Path | None = None
    context: Path | None = None
    wheel: WheelPlan | None = None
    wheels: Path = Path()
    """Where wheels are kept."""

    @property
    def tag(self) -> str:
        """The name that the engine keeps a built image under."""
        return f"{BASE_REPOSITORY}:{key_of(self.document)[:16]}"


def plan_base(
    manifest: Manifest,
    *,
    build_args: Mapping[str, str],
    settings: Settings,
) -> BasePlan:
    """Decides how the base is made; reads files, runs nothing.

    Args:
        manifest: Its `base` and `gpu` count.
        build_args: From the command line; they win over the manifest's.
        settings: Where wheels are kept, and a ready-made one.

    Raises:
        ManifestError: the Dockerfile is missing, an argument is unknown to it, or the card is not named.
    """
    args = {**manifest.base.args, **build_args}
    if manifest.base.image:
        return BasePlan(
            document={"image": manifest.base.image}, build_args=args, image=manifest.base.image
        )
    path, context = _locate(manifest)
    dockerfile = parse_dockerfile(_read(path, manifest))
    if _ARCHITECTURE in dockerfile.arguments and _ARCHITECTURE not in args:
        if manifest.gpu is None:
            raise ManifestError(
                f"{path.name} compiles for one card, and `gpu` is not given",
                where=str(manifest.path),
                hint="name the card, such as `gpu: rtx-6000-ada`",
            )
        args[_ARCHITECTURE] = find_gpu(manifest.gpu).cuda_architecture
    _check_names(args, dockerfile, path)
    wheel = _plan_wheel(dockerfile, context, args, settings)
    document = {
        "dockerfile": hashlib.sha256(path.read_bytes()).hexdigest(),
        "context": hash_context(context, path),
        **{f"argument {name}": value for name, value in sorted(args.items())},
        **sources_of(__name__, "bake.image.engine.buildx"),
    }
    if wheel is not None:
        document["xformers wheel"] = wheel.key
    return BasePlan(
        document=document,
        build_args=args,
        dockerfile=path,
        context=context,
        wheel=wheel,
        wheels=settings.cache / "wheels",
    )


def build_base(plan: BasePlan, *, engine: Engine, console: Console, log: Path) -> str:
    """Pulls or builds the base image. Returns its id.

    Args:
        plan: What `plan_base` decided.
        engine: Builds, and keeps the image under `plan.tag`.
        console: Says what is compiled or reused.
        log: Takes the builder's output.

    Raises:
        BuildError: it cannot be pulled or does not build; with the end of the output.
    """
    if plan.image is not None:
        return engine.pull(plan.image)

    def say() -> None:
        console.say(f"base: another bake builds {plan.tag}; waiting for it")

    with locked(plan.wheels.parent / "locks" / plan.tag.rpartition(":")[2], on_wait=say):
        # The tag is the key: another manifest's bake has made the same image, and may have begun to use it.
        if (built := engine.image_id(plan.tag)) is not None:
            return built
        return _build(plan, engine=engine, console=console, log=log)


def _build(plan: BasePlan, *, engine: Engine, console: Console, log: Path) -> str:
    """Compiles the wheel if there is one to compile, then builds the image."""
    options = ["--file", str(plan.dockerfile), "--provenance", "false"]
    for name, value in sorted(plan.build_args.items()):
        options += ["--build-arg", f"{name}={value}"]
    lent: list[str] = []
    if plan.wheel is not None:
        wheel = provide_wheel(
            plan.wheel,
            cache=plan.wheels,
            engine=engine,
            build=[*options, str(plan.context)],
            log=log,
            console=console,
        )
        # In the place of both stages, or the builder would still ask a registry for the compiler's image.
        for stage in (STAGE, BUILD_STAGE):
            lent += ["--build-context", f"{stage}={wheel}"]
    engine.buildx(
        [*options, *lent, "--tag", plan.tag, "--load", str(plan.context)],
        log=log,
        what="the base image",
    )
    built = engine.image_id(plan.tag)
    if built is None:
        raise BuildError(
            f"the build ended well, but the engine has no {plan.tag}",
            where=str(log),
            hint="unset BUILDX_BUILDER: the engine's own builder shares its images",
        )
    return built


def _locate(manifest: Manifest) -> tuple[Path, Path]:
    """The Dockerfile and its context; a manifest's own are relative to it."""
    base, folder = manifest.base, manifest.path.absolute().parent
    if base.dockerfile is None:
        return assets.DOCKERFILE_BASE, assets.LOCKS
    path = (folder / base.dockerfile).resolve()
    context = (folder / base.context).resolve() if base.context else path.parent
    if not context.is_dir():
        raise ManifestError(
            f"`base.context`: there is no folder {context}", where=str(manifest.path)
        )
    return path, context


def _read(path: Path, manifest: Manifest) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"the base's Dockerfile {path} cannot be read",
            where=str(manifest.path),
            hint="`base.dockerfile` is relative to the manifest",
        ) from error


def _check_names(args: Mapping[str, str], dockerfile: Dockerfile, path: Path) -> None:
    known = {*dockerfile.arguments, *_ALWAYS_KNOWN, *(name.lower() for name in _ALWAYS_KNOWN)}
    for name in args:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(dockerfile.arguments), n=1)
            declared = f"{path} has {', '.join(sorted(dockerfile.arguments))}"
            raise ManifestError(
                f"the build argument {name} is not one of {path.name}",
                hint=f"did you mean {near[0]}?" if near else declared,
            )


def _plan_wheel(
    dockerfile: Dockerfile, context: Path, args: Mapping[str, str], settings: Settings
) -> WheelPlan | None:
    if dockerfile.stage(STAGE) is None:
        return None
    locks = {
        name: (context / name).read_text(encoding="utf-8") if (context / name).is_file() else ""
        for name in ("torch.txt", "xformers.txt")
    }
    return plan_wheel(dockerfile, build_args=args, locks=locks, brought=settings.xformers_wheel)
