"""As tests/unit/test_registry_answers.py, with every status and many random answers for each operation."""

from __future__ import annotations

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
def test_every_status_for_good(operation: Operation) -> None:
    answer_for_good(operation, range(100, 600))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_many_random_answers(operation: Operation) -> None:
    answer_at_random(operation, EXAMPLES)
