"""For all tests: random examples are the same in each run, no clock judges them, and what runs side by side."""

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With pytest-xdist: all that needs the engine in one process, for it shares images; else by modules.

    The former comes first, since it takes longest.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    groups = {item: _group_of(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    if config.getoption("numprocesses", None):
        items.sort(key=lambda item: groups[item] != "engine")


def _group_of(item: pytest.Item) -> str:
    needs_engine = "engine" in getattr(item, "fixturenames", ())
    return "engine" if needs_engine else item.path.stem
