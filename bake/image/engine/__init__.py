"""Docker Engines: the one gateway, images out of it and into it."""
