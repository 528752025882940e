"""All that remains of the bakery in a worker image: see `runtime.entry` for the start order."""
