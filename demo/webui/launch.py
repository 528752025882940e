"""Starts the stand-in webui: `python launch.py --port 3000 --nowebui --ckpt FILE …`."""

import os
import sys
from pathlib import Path

# One thread, set before numpy is loaded: the order of sums, and so a picture's bytes, would depend on their number.
for _library in ("OPENBLAS", "MKL", "OMP", "BLIS"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"

# The folder above `demo`: the repository's root, or the image's.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from demo.webui.server import main  # noqa: E402  # after the path and the environment are set

if __name__ == "__main__":
    main()
