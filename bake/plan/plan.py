"""What a bake would do, decided from key documents alone: nothing here runs or writes anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bake.plan.step import Harvest, Situation, Step, StepKind, StepName


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All steps of a bake, in the order in which they run."""

    steps: tuple[Step, ...]
    streamed: tuple[str, ...] = ()
    """Keys of the pins that go from their source to the registry."""

    def step(self, name: StepName) -> Step:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)

    @property
    def harvest(self) -> Harvest:
        """What the image gets of a warm-up; a document without weights is of none with these."""
        document = self.step("warmup").document
        if "reused" in document:
            return "reused"
        return "none" if document.get("harvest") == "none" else "own"


def plan_bake(kinds: Sequence[StepKind], situation: Situation) -> Plan:
    """Decides for every step whether it runs, and why; `kinds` stand in the order in which they run."""
    steps: dict[StepName, Step] = {}
    for kind in kinds:
        document = kind.document(situation, steps)
        if document is not None:
            steps[kind.name] = kind.decide(kind.name, document, situation, steps)
    return Plan(steps=tuple(steps.values()), streamed=situation.streamed)
