"""Weights: where they come from, what they are pinned to, where they are kept."""
