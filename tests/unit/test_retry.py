"""How often a thing is tried, and how long is waited."""

from __future__ import annotations

import pytest

from bake.errors import PushError
from bake.image.registry.transport import Pauser, Transient
from runtime.files.answers import RetryableError, pause_after
from runtime.files.errors import WeightsError
from runtime.retry import TRANSIENT_STATUSES, Retry


@pytest.mark.parametrize("attempts", [1, 2, 7])
def test_attempts_are_tries_in_all_the_first_one_included(attempts: int) -> None:
    retry = Retry(attempts=attempts)
    pauses = [retry.pause_s(tries) for tries in range(1, attempts + 2)]
    assert [pause is None for pause in pauses] == [False] * (attempts - 1) + [True, True]


def test_the_first_pause_is_short_and_the_others_double() -> None:
    retry = Retry(attempts=100)
    for tries, longest_s in enumerate((0.1, 1, 2, 4, 8, 16, 32), start=1):
        pause_s = retry.pause_s(tries)
        assert pause_s is not None
        assert longest_s / 2 <= pause_s <= longest_s
    assert retry.pause_s(99, left_s=600) is None
    assert 4 <= (Retry(first_s=8).pause_s(1) or 0) <= 8


@pytest.mark.parametrize(
    ("asked_s", "expected"), [(7.0, 7.0), (120.0, 120.0), (121.0, None), (float("inf"), None)]
)
def test_what_a_server_asks_for_is_waited_for_up_to_two_minutes(
    asked_s: float, expected: float | None
) -> None:
    assert Retry().pause_s(1, asked_s=asked_s) == expected


def test_a_server_that_asks_for_no_pause_gets_ours() -> None:
    assert (Retry().pause_s(2, asked_s=0.0) or 0) >= 0.5


def test_a_try_that_would_begin_too_late_is_none() -> None:
    assert Retry().pause_s(1, asked_s=7, left_s=6.9) is None
    assert Retry().pause_s(1, asked_s=7, left_s=7) == 7
    assert Retry().pause_s(1, left_s=-1) is None


def test_a_rule_is_only_ever_lowered() -> None:
    assert Retry(attempts=4).at_most(2) == Retry(attempts=2)
    assert Retry(attempts=4).at_most(9) == Retry(attempts=4)
    assert Retry(attempts=4).at_most(None) == Retry(attempts=4)


def test_a_failure_of_a_source_may_lower_it() -> None:
    failure = RetryableError(WeightsError("missing", "it is not there"), attempts=2)
    assert pause_after(failure, 1, Retry()) > 0
    with pytest.raises(WeightsError, match="it is not there"):
        pause_after(failure, 2, Retry())


def test_what_does_not_count_at_a_registry_ends_too() -> None:
    waited: list[float] = []
    pause = Pauser("host", Retry(attempts=3), wait=waited.append)
    for _ in range(10):
        pause(Transient("a new token", counts=False))
    with pytest.raises(PushError, match="a new token, 3 times in a row"):
        pause(Transient("a new token", counts=False))
    assert waited == [0.0] * 8 + [pytest.approx(0.075, abs=0.03), pytest.approx(0.75, abs=0.3)]
    pause.progressed()
    pause(Transient("a new token", counts=False))
    assert len(waited) == 11


def test_cloudflares_statuses_are_transient() -> None:
    assert {408, 425, 429, 500, 502, 503, 504, 520, 522, 524, 530} <= TRANSIENT_STATUSES
    assert not {400, 401, 403, 404, 501, 505, 507, 511, 519, 531} & TRANSIENT_STATUSES
