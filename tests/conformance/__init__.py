"""`make webui-check`: the worker over a real webui, each answer held against a webui that has just started.

Run by hand, on a machine that has webui v1.9.3; docs/verification.md has the last run. The checkpoints are made
here (`benchmarks/make_checkpoints.py`), the LoRAs too; nothing is downloaded.
"""
