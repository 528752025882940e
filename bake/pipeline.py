"""A bake, from manifest to worker image. `bake_image` reads like the picture in docs/architecture.md."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bake.files import write_atomically
from bake.image.build.base import plan_base
from bake.image.build.contract import read_contract
from bake.image.engine.docker import Engine
from bake.image.oci.model import Image
from bake.lock import Lock, load_lock, lock_path, read_lock
from bake.plan.plan import Plan, plan_bake
from bake.plan.step import Situation, StepKind
from bake.steps.assemble import ASSEMBLE, assemble_image, saved_image
from bake.steps.base import BASE, make_base
from bake.steps.extensions import EXTENSIONS, make_extensions
from bake.steps.fetch import FETCH, fetch_weights
from bake.steps.load import LOAD, load_into_engine
from bake.steps.push import PUSH, check_login, push_to_registry
from bake.steps.report import write_report
from bake.steps.run import Context, Run
from bake.steps.stream import STREAM, stream_weights
from bake.steps.thin import ENVIRONMENT, RUNTIME, make_thin_layer
from bake.steps.verify import VERIFY, verify_assembled
from bake.steps.warmup import WARMUP, warm_up_base
from bake.steps.worker import describe_worker
from bake.weights.resolve import resolve_lock

STEPS: tuple[StepKind, ...] = (
    FETCH,
    BASE,
    EXTENSIONS,
    WARMUP,
    ENVIRONMENT,
    RUNTIME,
    STREAM,
    ASSEMBLE,
    LOAD,
    VERIFY,
    PUSH,
)
"""All that a bake may consist of, in the order in which `bake_image` runs it."""


@dataclass(frozen=True, kw_only=True)
class Baked:
    """A finished bake."""

    image: Image
    reference: str
    report: Path
    picture: Path | None
    """None where no picture was drawn with these weights."""
    pushed: str | None
    """The digest that the registry has it under, another one where layers were packed anew; None: not pushed."""


def bake_image(context: Context, *, locked: bool = False) -> Baked:
    """Bakes, verifies and, where asked, pushes the image of a manifest.

    Args:
        context: What to bake and where.
        locked: The lock must be there and fit; it is never written.

    Raises:
        BakeError: any step failed; nothing half-made is left behind.
    """
    check_login(context)
    with begin_run(context, locked=locked) as run:
        fetch_weights(run)
        base = make_base(run)
        worker = describe_worker(run, read_contract(run.engine.labels(base), where=base))
        extensions = make_extensions(run, worker, base)
        warmed = warm_up_base(run, worker, base, extensions=extensions)
        environment = make_thin_layer(run, "environment")
        runtime = make_thin_layer(run, "runtime")
        streamed = stream_weights(run, worker)
        image = assemble_image(
            run,
            worker,
            base,
            environment=environment,
            runtime=runtime,
            extensions=extensions,
            streamed=streamed,
        )
        reference = load_into_engine(run, image)
        verdict = verify_assembled(run, worker, image, reference, streamed=streamed)
        pushed = push_to_registry(run, image) if context.options.push else None
        report = write_report(
            run,
            worker,
            image,
            reference=reference,
            warmup=warmed,
            verdict=verdict,
            pushed=pushed,
        )
    return Baked(
        image=image,
        reference=reference,
        report=report,
        picture=context.folder.root / "picture.png" if run.plan.harvest == "own" else None,
        pushed=str(pushed["digest"]) if pushed else None,
    )


@contextmanager
def begin_run(context: Context, *, locked: bool) -> Iterator[Run]:
    """A run that is alone in its folder: pinned, planned, and without what a killed one left."""
    with context.folder.locked(context.console):
        lock = pin_sources(context, locked=locked)
        with Engine(context.console) as engine, context.store.lease(sha256s(lock)):
            left = engine.remove_leftovers(context.folder.identity)
            if left:
                context.console.say(f"removed {left} container(s) of a bake that was killed")
            yield plan_run(context, lock, engine)


def warm_up_only(context: Context, *, locked: bool = False) -> Path:
    """Does what a bake does up to the warm-up. Returns the picture's path."""
    with begin_run(context, locked=locked) as run:
        fetch_weights(run)
        base = make_base(run)
        worker = describe_worker(run, read_contract(run.engine.labels(base), where=base))
        extensions = make_extensions(run, worker, base)
        warm_up_base(run, worker, base, extensions=extensions)
    return context.folder.root / "picture.png"


def plan_only(context: Context) -> Plan:
    """Decides what a bake would do; changes nothing, and may be asked beside a running bake.

    Raises:
        ManifestError: the manifest is not locked, or the lock does not fit.
    """
    lock = load_lock(context.manifest)
    with Engine(context.console) as engine:
        return plan_run(context, lock, engine).plan


def sha256s(lock: Lock) -> list[str]:
    """The digests of everything that a lock names."""
    stored = [sha256 for each in lock.extensions for sha256 in each.stored]
    return [*(pin.sha256 for pin in lock.pins), *stored]


def pin_sources(context: Context, *, locked: bool) -> Lock:
    """The manifest's lock; written beside it where it is missing, unless `locked`."""
    path = lock_path(context.manifest.path)
    if locked or path.exists():
        lock = load_lock(context.manifest)
        context.console.skip("lock", f"{path} fits the manifest")
        return lock
    with context.console.step("lock", f"{path} does not exist"):
        lock = resolve_lock(
            context.manifest,
            previous=read_lock(path),
            settings=context.settings,
            store=context.store,
            console=context.console,
        )
        write_atomically(path, lock.to_json())
    return lock


def plan_run(context: Context, lock: Lock, engine: Engine) -> Run:
    """Looks at what is there, and decides which steps run."""
    base = plan_base(
        context.manifest, build_args=context.options.build_args, settings=context.settings
    )
    folder, saved = context.folder, saved_image(context.folder)
    kinds = {kind.name: kind for kind in STEPS}
    situation = Situation(
        manifest=context.manifest,
        lock=lock,
        options=context.options,
        base=base.document,
        record=folder.record,
        exists=lambda name, result: kinds[name].exists(folder, engine, result),
        missing_pins=[pin for pin in lock.pins if not context.store.has(pin.sha256)],
        missing_extensions=[
            pin for pin in lock.extensions if not all(map(context.store.has, pin.stored))
        ],
        layers=saved.layers if saved else (),
    )
    plan = plan_bake(STEPS, situation)
    return Run(context=context, lock=lock, engine=engine, base=base, plan=plan)
