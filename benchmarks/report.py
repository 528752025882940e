"""What every benchmark writes with `--json FILE`: figures, the machine they are from, and all runs."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def need_programs(**packages: str) -> None:
    """Ends the benchmark before it has done anything where a program is missing.

    Args:
        packages: Debian's package of each program, by the program's name.
    """
    missing = {name: package for name, package in packages.items() if not shutil.which(name)}
    if missing:
        names, wanted = ", ".join(sorted(missing)), " ".join(sorted(set(missing.values())))
        raise SystemExit(f"{names}: not installed; on Debian: apt-get install {wanted}")


def environment(**details: Any) -> dict[str, Any]:
    """The machine, how busy it is, and what the benchmark adds (its parameters, versions)."""
    return {
        "machine": f"{platform.machine()}, Linux {platform.release()}",
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        **details,
    }


def write_report(
    path: Path | None, *, figures: Mapping[str, float], environment: Mapping[str, Any], runs: Any
) -> None:
    """Writes `{"figures": {name: number}, "environment": {…}, "runs": …}`, whole; nothing without a path."""
    if path is None:
        return
    report = {"figures": dict(figures), "environment": dict(environment), "runs": runs}
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)
