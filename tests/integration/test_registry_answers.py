"""As tests/unit/test_registry_answers.py, with many more statuses and random answers for each operation."""

from __future__ import annotations

import random

import pytest

from bake.image.registry.answers import Operation
from tests.examples import EXAMPLES
from tests.unit.test_registry_answers import (
    OPERATIONS,
    answer_at_random,
    answer_for_good,
    no_waiting,  # noqa: F401  # a fixture
)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_many_statuses_for_good(operation: Operation) -> None:
    """What each means is looked up, and tested for all of them without a push."""
    every = range(100, 600)
    answer_for_good(
        operation, random.Random(operation).sample(every, min(len(every), EXAMPLES // 5))
    )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_many_random_answers(operation: Operation) -> None:
    answer_at_random(operation, EXAMPLES)
