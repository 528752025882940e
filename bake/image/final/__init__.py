"""Putting the worker image together, and what it says of itself."""
