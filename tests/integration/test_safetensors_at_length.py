"""The random headers of tests/unit/test_safetensors.py, five times as many."""

from typing import Any

from hypothesis import given, settings

from tests.unit import test_safetensors as unit
from tests.unit.test_safetensors import folder  # noqa: F401  # a fixture


def at_length(test: Any, strategies: dict[str, Any]) -> Any:
    return settings(max_examples=300)(given(**strategies)(test.hypothesis.inner_test))


test_what_is_written_by_the_book = at_length(
    unit.test_what_is_written_by_the_book, unit.BY_THE_BOOK
)
test_what_is_nearly_right = at_length(unit.test_what_is_nearly_right, unit.NEARLY_RIGHT)
test_bytes_that_are_changed = at_length(unit.test_bytes_that_are_changed, unit.CHANGED)
