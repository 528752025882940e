"""All that remains of the bakery in a worker image: `runtime/__main__.py` is the start order."""
