"""Registries over HTTP: who we are to them, what they lack, and sending it."""
