"""How often a thing is tried, and how long is waited."""

from __future__ import annotations

import pytest

from bake.retry import TRANSIENT_STATUSES, Retry


def test_attempts_are_tries_in_a_row_that_bring_nothing_the_first_one_included() -> None:
    retry = Retry(attempts=3, backoff_s=1.0)
    assert retry.next_pause_s() is not None
    assert retry.next_pause_s() is not None
    assert retry.next_pause_s() is None
    assert Retry(attempts=1, backoff_s=1.0).next_pause_s() is None
    retry.progressed()
    assert retry.next_pause_s() is not None


def test_pauses_double_up_to_a_minute_with_jitter() -> None:
    retry = Retry(attempts=100, backoff_s=1.0)
    for expected in (1, 2, 4, 8, 16, 32, 60, 60):
        pause_s = retry.next_pause_s()
        assert pause_s is not None
        assert expected / 2 <= pause_s <= expected
    for _ in range(80):
        assert (retry.next_pause_s() or 0) <= 60


@pytest.mark.parametrize(
    ("wait_s", "expected"), [(7.0, 7.0), (120.0, 120.0), (121.0, None), (float("inf"), None)]
)
def test_what_a_server_asks_for_is_waited_for_up_to_two_minutes(
    wait_s: float, expected: float | None
) -> None:
    assert Retry(attempts=3, backoff_s=1.0).next_pause_s(wait_s=wait_s) == expected


def test_a_server_that_asks_for_no_pause_gets_ours() -> None:
    assert (Retry(attempts=3, backoff_s=1.0).next_pause_s(wait_s=0.0) or 0) >= 0.5


def test_what_does_not_count_ends_too() -> None:
    retry = Retry(attempts=3, backoff_s=1.0)
    pauses = [retry.next_pause_s(counts=False) for _ in range(11)]
    assert pauses == [0.0] * 8 + [pytest.approx(0.75, abs=0.3), pytest.approx(1.5, abs=0.6), None]


def test_cloudflares_statuses_are_transient() -> None:
    assert {408, 425, 429, 500, 502, 503, 504, 520, 522, 524, 530} <= TRANSIENT_STATUSES
    assert not {400, 401, 403, 404, 501, 505, 507, 511, 519, 531} & TRANSIENT_STATUSES
