"""Random and hostile requests: what JSON can hold under the names that a request has."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from runtime.job.fields import FIELDS, LORA_FIELDS, OVERRIDES, SYNONYMS

_NASTY_TEXT = st.sampled_from(
    [
        "",
        "\x00",
        "\ud800",
        "💥" * 50,
        "<lora:detail:1>",
        "<lora:../../etc/passwd:1>",
        "<lora:a",
        "{{{{(((([[[[",
        "%s%n%x",
        "'; DROP TABLE jobs; --",
        "../../../etc/passwd",
        "DPM++ 2M Karras",
        "__proto__",
        "A" * 20_000,
        "\u202e\u0000\ufeff",
        "NaN",
        "1e999",
        "https://169.254.169.254/x",
        "file:///etc/passwd",
    ]
)
_NUMBERS = st.one_of(
    st.integers(min_value=-(10**30), max_value=10**30),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0, -1, 10**400, 2**31, 2**63, 2**64, 1e308, -0.0]),
)
_TEXT = st.one_of(st.text(max_size=30), _NASTY_TEXT)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_TEXT, inner, max_size=4)),
    max_leaves=8,
)
_NAMES = st.one_of(
    st.sampled_from([each.name for each in FIELDS]), st.sampled_from(list(SYNONYMS)), _TEXT
)
_LORAS = st.lists(
    st.dictionaries(
        st.one_of(st.sampled_from([each.name for each in LORA_FIELDS]), _TEXT), VALUES, max_size=4
    ),
    max_size=10,
)
_OVERRIDES = st.dictionaries(st.one_of(st.sampled_from(list(OVERRIDES)), _TEXT), VALUES, max_size=4)


def _deep(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


_FIELDS = st.one_of(
    st.dictionaries(_NAMES, VALUES, max_size=8),
    st.fixed_dictionaries({"loras": st.one_of(_LORAS, VALUES)}),
    st.fixed_dictionaries({"override_settings": _OVERRIDES, "prompt": _TEXT}),
    st.builds(lambda name, depth: {name: _deep(depth)}, _NAMES, st.integers(10, 400)),
    st.builds(lambda name, count: {name: ["x"] * count}, _NAMES, st.integers(1000, 5000)),
)
INPUTS: st.SearchStrategy[Any] = st.one_of(_FIELDS, VALUES)
"""What may stand in a job's `input`."""
