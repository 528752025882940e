"""`bake` turns a model manifest into a container image whose workers start fast."""

__version__ = "0.1.0"
