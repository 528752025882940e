"""The webui's process and its HTTP API. Standard library only: the warm-up runs it in the base image."""
