"""What `benchmarks/tricks.py` says of measured starts."""

import pytest

from benchmarks import tricks
from benchmarks.cold_start_runs import Run


def run(variant: str, seconds: float, cpu_s: float = 1.0) -> Run:
    return Run(
        checkpoint="tiny",
        variant=variant,
        cache="warm",
        first_picture_s=seconds,
        webui_cpu_s=cpu_s,
        read_bytes=0,
        picture="a",
    )


def test_gains_are_the_medians_of_each_rounds_own_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tricks, "TRICKS", {"gc": "collector", "ui": "ui"})
    runs = []
    for noise in (1.0, 2.0, 1.5):  # a machine that was slower in some rounds
        runs += [run("plain", 10 * noise), run("all", 8 * noise)]
        runs += [run("gc", 9 * noise), run("all/-gc", 9 * noise)]
        runs += [run("ui", 10 * noise), run("all/-ui", 8.1 * noise)]
    found = tricks.gains(runs)
    assert found["tiny_warm_gc_alone_first_picture_s"] == pytest.approx(0.1)
    assert found["tiny_warm_gc_left_out_first_picture_s"] == pytest.approx(0.1111)
    assert found["tiny_warm_ui_left_out_first_picture_s"] == pytest.approx(0.0123)
    rows = tricks.table(runs).splitlines()
    assert rows[2] == "| tiny | warm | gc | +10.0%, +0.0% | +11.1%, +0.0% | yes |"
    assert rows[3] == "| tiny | warm | ui | +0.0%, +0.0% | +1.2%, +0.0% | no |"


@pytest.mark.parametrize(
    ("shares", "earned"),
    [([0.05], True), ([0.02], False), ([0.1, 0.04, -0.2, -0.1, 0.05], False)],
)
def test_what_is_within_the_noise_earns_nothing(shares: list[float], earned: bool) -> None:
    compared = {"left_out_first_picture_s": shares, "left_out_webui_cpu_s": [0.0]}
    assert tricks.earns(compared) is earned
