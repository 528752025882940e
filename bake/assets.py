"""The files that images are made of: Dockerfiles, locks and the runtime's source."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
"""The checkout: they lie beside the package."""
PACKAGES = ("bake", "runtime")


def package_folder(package: str) -> Path:
    """Where the source of one of our packages lies, also where it is installed."""
    return Path(__file__).parents[1] / package
