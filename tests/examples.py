"""How many random cases a property is held against where each costs a request."""

import os

EXAMPLES = int(os.environ.get("BAKE_TEST_EXAMPLES") or 200)
"""The same ones in each run. 2,000 were seen for each property: `make test EXAMPLES=2000`, before a release and after a
change of what is tried."""
