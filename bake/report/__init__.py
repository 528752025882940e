"""The report of a bake: what is kept of it (`record`), what differs between two (`difference`), and the pages."""
