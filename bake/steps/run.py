"""One bake: what it is asked for, what it works with, and how a step runs once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from bake.console import Console
from bake.flock import locked
from bake.image.build.base import BasePlan
from bake.image.engine.docker import Engine
from bake.image.kept import Kept
from bake.lock import Lock
from bake.manifest.model import Manifest
from bake.plan.plan import Plan
from bake.plan.state import BuildFolder
from bake.plan.step import Options, StepName
from bake.settings import Settings
from bake.weights.store import Store


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a bake is asked for, and where it works."""

    manifest: Manifest
    options: Options
    settings: Settings
    console: Console
    folder: BuildFolder

    @property
    def store(self) -> Store:
        """The store of this machine."""
        return Store(self.settings.store)

    @property
    def kept(self) -> Kept:
        """What this machine has learnt of layers and base images."""
        return Kept(self.settings.kept)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A bake that has its lock, its engine and its plan."""

    context: Context
    lock: Lock
    engine: Engine
    base: BasePlan
    plan: Plan
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each step took that ran."""

    def step(
        self,
        name: StepName,
        action: Callable[[], Mapping[str, Any]],
        *,
        draws: bool = False,
    ) -> Mapping[str, Any]:
        """Runs one step unless the plan knows its result; returns the result.

        One that `draws` waits until no other bake of this machine does: two models at once may be more than
        its memory or card holds, and the times of a start would be those of a busy machine.
        """
        step, folder = self.plan.step(name), self.context.folder
        if not step.runs:
            self.context.console.skip(name, step.why)
            record = folder.record(name)
            return record.result if record else {}
        # Forgotten first: a result that is being replaced must not be taken for the recorded one.
        folder.forget(name)
        waiting = self._alone(name) if draws else nullcontext()
        with waiting, self.context.console.step(name, step.why) as timing:
            result = action()
        self.seconds[name] = timing.seconds
        folder.write_record(name, step.document, result)
        return result

    @contextmanager
    def _alone(self, name: StepName) -> Iterator[None]:
        def say() -> None:
            self.context.console.say(f"{name}: another bake draws; waiting for it")

        with locked(self.context.settings.cache / "locks" / "drawing", on_wait=say):
            yield
