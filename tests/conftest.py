"""For all tests: random examples are the same in each run, no clock judges them, which run side by side, in any order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

# Some thousand interpreters are started, of which each would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

hypothesis.settings.register_profile(
    "suite",
    derandomize=True,
    database=None,
    deadline=None,
    # They measure time, which on a busy machine says nothing of the test.
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("suite")

TOGETHER = {
    **dict.fromkeys(("test_bake", "test_report_page", "test_try"), "one bake"),
    **dict.fromkeys(("test_load", "test_zstd"), "a second engine"),
}
"""Modules that share what takes long to make, and so a process."""
LONGEST = (
    *("one bake", "a second engine", "test_no_store", "test_road", "test_extensions"),
    *("test_runtime_platform", "test_warmup", "test_bake_models", "test_install"),
    *("test_runtime_frozen", "test_bucket", "test_weights_random_answers", "test_runtime_state"),
    *("test_registry_answers", "test_deploy", "test_serve_pictures", "test_registry"),
    *("test_gpu_check",),
)
"""What lasts longest, first: begun at the end it would keep one process busy while the others have nothing to do."""


def _scope_of(module: Path) -> str:
    return TOGETHER.get(module.stem, module.stem)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts first what lasts longest, and last the many short modules, which leave no process without work."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}

    def rank(item: pytest.Item) -> int:
        is_unit = item.path.parent.name == "unit"
        return len(ranks) + 1 if is_unit else ranks.get(_scope_of(item.path), len(ranks))

    items.sort(key=rank)


class _ByModule(LoadScopeScheduling):
    """A module's tests run in one process, and so do those of modules that share something."""

    def _split_scope(self, nodeid: str) -> str:
        module = Path(nodeid.split("::", maxsplit=1)[0])
        return str(module.with_name(_scope_of(module)))


@pytest.hookimpl(optionalhook=True)  # without `--numprocesses` there is no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _ByModule(config, log)


def _state_of_the_process() -> dict[str, Any]:
    """What a module may change and must put back: the next one in the process finds it."""
    try:
        loop: object = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    return {
        "the working directory": Path.cwd(),
        "the environment": {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        "a signal's handler": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)],
        "a running event loop": loop,
        "the root logger": (logging.root.level, list(logging.root.handlers)),
        "sys.path": list(sys.path),
    }


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Names the module that leaves something to those after it, instead of those that fail for it."""
    before, modules = _state_of_the_process(), dict(sys.modules)
    yield
    after = _state_of_the_process()
    left = [name for name, value in before.items() if after[name] != value]
    left += [
        f"another {name}" for name, each in modules.items() if sys.modules.get(name) is not each
    ]
    assert not left, f"{request.node.nodeid} leaves behind: {', '.join(left)}"
