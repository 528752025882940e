"""How long a download pauses after a failure."""

from types import SimpleNamespace

import pytest

from bake.weights.transfer import patience
from bake.weights.transfer.patience import Pace, Patience
from runtime.files.answers import RetryableError
from runtime.files.errors import WeightsError
from runtime.retry import Retry

FAILURE = WeightsError("quota", "too many requests")


@pytest.mark.parametrize(("asked_s", "least_s"), [(7.0, 7.0), (0.0, 0.5), (None, 0.5)])
def test_a_server_is_never_asked_again_at_once(asked_s: float | None, least_s: float) -> None:
    patient = Patience(retry=Retry())
    pauses = [patient.note(RetryableError(FAILURE, wait_s=asked_s), 0) for _ in range(3)]
    assert pauses[0] > 0
    assert all(pause >= least_s for pause in pauses[1:])


def test_who_asks_for_more_than_two_minutes_is_not_waited_for() -> None:
    with pytest.raises(WeightsError, match="too many requests"):
        Patience(retry=Retry()).note(RetryableError(FAILURE, wait_s=121.0), 0)


def paced(monkeypatch: pytest.MonkeyPatch, *arrivals: tuple[float, int]) -> None:
    """Counts bytes that came at these seconds, with a time-out of 30 s."""
    times = iter((0.0, *(at for at, _ in arrivals)))
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: next(times)))
    pace = Pace(30.0)
    for _, size_bytes in arrivals:
        pace.count(size_bytes, "https://example.com/x")


def test_a_trickle_is_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RetryableError) as caught:
        paced(monkeypatch, *((at, 10) for at in range(1, 40)))
    assert "example.com" in str(caught.value.failure)
    paced(monkeypatch, *((at, 2000) for at in range(1, 100)))


def test_a_machine_that_stood_still_blames_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    paced(monkeypatch, (1.0, 10), (300.0, 10), (301.0, 10))
    with pytest.raises(RetryableError):  # and what is slow afterwards is slow
        paced(monkeypatch, (1.0, 10), (300.0, 10), *((at, 10) for at in range(301, 340)))
