"""For all tests: random examples are the same in each run, no clock judges them, and which run side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

hypothesis.settings.register_profile(
    "suite",
    derandomize=True,
    database=None,
    deadline=None,
    # They measure time, which on a busy machine says nothing of the test.
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("suite")

SHARE_AN_ENGINE = {
    *("test_bake", "test_bake_models", "test_engine", "test_extensions", "test_install"),
    *("test_load", "test_no_store", "test_prune", "test_registry", "test_registry_auth"),
    *("test_report_page", "test_road", "test_sign", "test_streamed_weights", "test_try"),
    *("test_warmup", "test_zstd"),
}
"""Modules of which one at a time may run: a prune of one would take the base of another."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what shares an engine first: it waits more than it computes, and lasts as long as the rest."""
    for item in items:
        if "engine" in getattr(item, "fixturenames", ()) and item.path.stem not in SHARE_AN_ENGINE:
            raise pytest.UsageError(f"{item.path.stem} belongs into SHARE_AN_ENGINE")
    items.sort(key=lambda item: item.path.stem not in SHARE_AN_ENGINE)


class _ByModule(LoadScopeScheduling):
    """A module's tests run in one process, and so do those of all modules that share an engine."""

    def _split_scope(self, nodeid: str) -> str:
        module = Path(nodeid.split("::", maxsplit=1)[0])
        return "engine" if module.stem in SHARE_AN_ENGINE else str(module)


@pytest.hookimpl(optionalhook=True)  # without `--numprocesses` there is no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _ByModule(config, log)
