"""`python -m bake`."""

from bake.cli import main

main()
