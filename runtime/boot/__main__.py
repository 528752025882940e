"""`python -m runtime.boot SCRIPT ARGS…`: see `runtime.boot.start`."""

import sys

from runtime.boot.start import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
