"""A worker of an image on this machine: one job on the command line, or a page to try it (docs/serve.md)."""
