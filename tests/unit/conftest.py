"""Set before any test module is imported."""

import os

# One thread, as demo/webui/launch.py sets it: more of them make the demo's small products slow on a busy
# machine, and change their sums.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
