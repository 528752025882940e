"""Prompts as word numbers. Words that the model has not learnt are left out."""

from __future__ import annotations

import itertools
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


def tokenise(text: str, vocabulary: Sequence[str], *, backtrack: int = 0) -> list[int]:
    """Word numbers of a prompt, beginning with the start token, at most MAX_TOKENS.

    Of a longer one, what follows the last comma is left out too, if that is at most `backtrack` words.
    """
    numbers = {word: number for number, word in enumerate(vocabulary)}
    parts = [
        [numbers[each] for each in words_of(part) if each in numbers] for part in text.split(",")
    ]
    known = [number for part in parts for number in part]
    room = MAX_TOKENS - 1
    if len(known) > room:
        ends = list(itertools.accumulate(map(len, parts)))
        last = max((end for end in ends if end <= room), default=0)
        room = last if last and room - last <= backtrack else room
    return [numbers[START], *known[:room]]
