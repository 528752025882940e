"""A plugin of pytest for `tests.mutate`: what was kept before a mutant was put in its place is forgotten.

mutmut runs all tests once and forks for each mutant; a function with a cache would answer from then.
"""

import sys


def pytest_sessionstart() -> None:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in {"bake", "runtime"}:
            for value in vars(module).values():
                if callable(clear := getattr(value, "cache_clear", None)):
                    clear()
