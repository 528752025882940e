"""The worker's start, where RunPod's Hub looks for it. The image itself starts `python -m runtime`, which is the same."""

import sys

from runtime.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
