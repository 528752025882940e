"""For all tests: random examples are the same in each run, no clock judges them, and which may run side by side."""

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "suite",
    derandomize=True,
    database=None,
    deadline=None,
    # They measure time, which on a busy machine says nothing of the test.
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps in one process of pytest-xdist what shares an engine, or a module's fixtures; the engine's come first.

    They take as long as all others together, and wait for the engine more than they compute.
    """
    for item in items:
        needs_engine = "engine" in getattr(item, "fixturenames", ())
        item.add_marker(
            pytest.mark.xdist_group("engine" if needs_engine else item.nodeid.split("::")[0])
        )
    items.sort(key=lambda item: next(item.iter_markers("xdist_group")).args[0] != "engine")
