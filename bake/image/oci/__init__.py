"""Images as data: descriptors, layers, layouts and references."""
