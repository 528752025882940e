"""Prompts as word numbers. Words that the model has not learnt are left out."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_TOKENS = 24
PADDING, START = "<padding>", "<start>"

_WORD = re.compile(r"[a-z]+")
_SAME = {
    "grey": "gray",
    "disc": "circle",
    "disk": "circle",
    "ball": "circle",
    "dot": "circle",
    "box": "square",
    "backdrop": "background",
    "big": "large",
    "huge": "large",
    "tiny": "small",
    "little": "small",
    "violet": "purple",
    "turquoise": "cyan",
    "teal": "cyan",
    "centre": "center",
    "middle": "center",
    "upper": "top",
    "lower": "bottom",
    "bright": "light",
    "pale": "light",
    "deep": "dark",
    "donut": "ring",
    "plus": "cross",
    "above": "top",
    "below": "bottom",
}


def words_of(text: str) -> list[str]:
    """The words of a prompt, synonyms replaced; punctuation, weights and numbers are dropped."""
    return [_SAME.get(word, word) for word in _WORD.findall(text.lower())]


def tokenise(text: str, vocabulary: Sequence[str]) -> list[int]:
    """Word numbers of a prompt, beginning with the start token, at most MAX_TOKENS."""
    numbers = {word: number for number, word in enumerate(vocabulary)}
    known = [numbers[word] for word in words_of(text) if word in numbers]
    return [numbers[START], *known][:MAX_TOKENS]
