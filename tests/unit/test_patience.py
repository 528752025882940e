"""How long a download pauses after a failure."""

import pytest

from bake.weights.transfer.patience import Patience
from runtime.files.answers import RetryableError
from runtime.files.errors import WeightsError
from runtime.retry import Retry

FAILURE = WeightsError("quota", "too many requests")


@pytest.mark.parametrize(("asked_s", "least_s"), [(7.0, 7.0), (0.0, 0.5), (None, 0.5)])
def test_a_server_is_never_asked_again_at_once(asked_s: float | None, least_s: float) -> None:
    patience = Patience(retry=Retry())
    pauses = [patience.note(RetryableError(FAILURE, wait_s=asked_s), 0) for _ in range(3)]
    assert pauses[0] > 0
    assert all(pause >= least_s for pause in pauses[1:])


def test_who_asks_for_more_than_two_minutes_is_not_waited_for() -> None:
    with pytest.raises(WeightsError, match="too many requests"):
        Patience(retry=Retry()).note(RetryableError(FAILURE, wait_s=121.0), 0)
