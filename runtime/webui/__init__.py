"""The webui as the runtime sees it: its process and its API."""
