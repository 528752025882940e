"""The artefacts of a release: those of BAKE_TEST_DIST (`make release`), else built now."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def find_wheel(folder: Path) -> Path:
    """The wheel, built by way of the source distribution, which so has all that a wheel needs."""
    given = os.environ.get("BAKE_TEST_DIST")
    if not given:
        subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
            check=True,
            capture_output=True,
        )
    [wheel] = Path(given or folder).glob("*.whl")
    return wheel.absolute()
