"""The steps of a bake, one module each: what it depends on, whether its result is there, and how it runs.

Beside them: `run` (what they work with), `worker` (what the image will know of itself), `report`.
"""
