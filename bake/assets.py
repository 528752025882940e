"""The files beside the code that images are made of: Dockerfiles, locks and the runtime's source."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
"""The checkout: they lie beside the package."""
