"""Headers beside the reference implementation: what it reads is read alike, what it refuses is refused."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from runtime.files.errors import WeightsError
from runtime.files.safetensors import DTYPE_BITS, MAX_HEADER_BYTES, Header, parse_header

ODD_TYPES = ["u8", "F8_E3M4", "C128", "I4", "F128", "", "F32 "]
EXAMPLES = settings(max_examples=60)
"""tests/integration/test_safetensors_at_length.py takes 300 of each."""


def file_of(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def ours(content: bytes) -> Header | None:
    try:
        return parse_header(io.BytesIO(content), len(content), "x")
    except WeightsError:
        return None


def theirs(content: bytes, folder: Path) -> dict[str, tuple[str, list[int]]] | None:
    """Types and shapes, and the metadata's entries as type `meta`; None if the file is refused."""
    path = folder / "reference.safetensors"
    path.write_bytes(content)
    try:
        with safe_open(path, "np") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  # no mapping
            found = {f"t:{key}": (s.get_dtype(), s.get_shape()) for key, s in slices.items()}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError):  # a mapping of an empty file is a ValueError
        return None
    return {**found, **{f"m:{key}": (value, []) for key, value in metadata.items()}}


def compare(content: bytes, folder: Path) -> bool:
    """Whether both read it; fails where they do not agree."""
    reference, header = theirs(content, folder), ours(content)
    assert (reference is None) == (header is None), content[:2000]
    if header is None:
        return False
    read = {f"t:{key}": (each.dtype, list(each.shape)) for key, each in header.tensors.items()} | {
        f"m:{key}": (value, []) for key, value in header.metadata.items()
    }
    assert read == reference
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("safetensors")


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[tuple[str, dict[str, object]]], int]:
    """Entries that cover a file without a hole, in any order, and the bytes of their data."""
    entries: list[tuple[str, dict[str, object]]] = []
    at = 0
    for _ in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
        shape = draw(st.lists(st.integers(0, 5), max_size=3))
        bits = DTYPE_BITS[dtype]
        for each in shape:
            bits *= each
        size = bits // 8
        key = draw(st.sampled_from(["a", "b", "é", "\U0001f600", "dtype", "", "a.weight"]))
        entries.append(
            (key, {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}),
        )
        at += size
    return draw(st.permutations(entries)), at


def render(pairs: list[tuple[str, object]]) -> str:
    """JSON in which a key may stand twice."""
    return "{" + ",".join(f"{json.dumps(key)}:{_value(value)}" for key, value in pairs) + "}"


def _value(value: object) -> str:
    return value.text if isinstance(value, Raw) else json.dumps(value)


class Raw:
    """JSON, or nearly."""

    def __init__(self, text: str) -> None:
        self.text = text


ODD_VALUES = st.sampled_from(
    [
        *("null", "[]", "{}", "true", "-0", "-1", "1.0", "1e2", "1e400", "NaN", "-Infinity", "01"),
        *('"x"', r'"\ud800"', r'"\ud83d\ude00"', r'"\udc00\ud800"', '"\t"', "18446744073709551615"),
        *(
            "18446744073709551616",
            "1" + "0" * 308,
            "1" + "0" * 309,
            '{"U8":null}',
            '["U8",[1],[0,1]]',
        ),
        *("[" * 124 + "]" * 124, "[" * 125 + "]" * 125, "[" * 126 + "]" * 126, '{"a":1,"a":2}'),
        *("[[4]]", "[4.0]", '["4"]', "[0,9223372036854775808,4]", "[9223372036854775808,4,0]"),
        *(
            "[0,1,2]",
            "[4,0]",
            '{"a":"1","a":"2"}',
            '{"a":null}',
            '{"\\ud800":"x"}',
            '[["\\ud800"]]',
        ),
    ]
).map(Raw)


@st.composite
def odd_headers(draw: st.DrawFn) -> bytes:
    """Nearly valid headers: every part of one may be another, missing, or there twice."""
    entries, size = draw(layouts())
    pairs: list[tuple[str, object]] = []
    for key, entry in entries:
        fields: list[tuple[str, object]] = list(entry.items())
        for _ in range(draw(st.integers(0, 2))):
            kind = draw(st.sampled_from(["replace", "drop", "again", "extra", "type", "list"]))
            at = draw(st.integers(0, len(fields))) if fields else 0
            if kind == "extra" or at == len(fields):
                fields.insert(at, (draw(st.sampled_from(["x", "dtyp", "é"])), draw(ODD_VALUES)))
            elif kind == "replace":
                fields[at] = (fields[at][0], draw(ODD_VALUES))
            elif kind == "drop":
                fields.pop(at)
            elif kind == "again":
                fields.append(fields[at])
            elif kind == "type":
                fields[at] = ("dtype", draw(st.sampled_from([*ODD_TYPES, *DTYPE_BITS])))
        if draw(st.integers(0, 9)) == 0:
            pairs.append((key, Raw("[" + ",".join(_value(each) for _, each in fields) + "]")))
        else:
            pairs.append((key, Raw(render(fields))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        value = draw(
            st.one_of(st.dictionaries(st.text(max_size=2), st.text(max_size=2)), ODD_VALUES)
        )
        pairs.insert(draw(st.integers(0, len(pairs))), ("__metadata__", value))
    if pairs and draw(st.integers(0, 4)) == 0:
        pairs.append(draw(st.sampled_from(pairs)))
    before, after = (draw(st.sampled_from(["", "", "", " ", "\n\t", "\0", "x"])) for _ in range(2))
    text = (before + render(pairs) + after).encode(errors="surrogatepass")
    data = bytes(size + draw(st.sampled_from([0, 0, 0, 0, 1, -1])) if size else 0)
    return file_of(text, data)


BY_THE_BOOK: dict[str, Any] = {
    "layout": layouts(),
    "metadata": st.dictionaries(st.text(max_size=3), st.text(max_size=3)),
}
NEARLY_RIGHT: dict[str, Any] = {"content": odd_headers()}
CHANGED: dict[str, Any] = {
    "layout": layouts(),
    "edits": st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3
    ),
}


@EXAMPLES
@given(**BY_THE_BOOK)
def test_what_is_written_by_the_book(
    folder: Path, layout: tuple[list[tuple[str, dict[str, object]]], int], metadata: dict[str, str]
) -> None:
    entries, size = layout
    header = json.dumps({"__metadata__": metadata, **dict(entries)}).encode()
    compare(file_of(header, bytes(size)), folder)


@EXAMPLES
@given(**NEARLY_RIGHT)
def test_what_is_nearly_right(folder: Path, content: bytes) -> None:
    compare(content, folder)


@EXAMPLES
@given(**CHANGED)
def test_bytes_that_are_changed(
    folder: Path,
    layout: tuple[list[tuple[str, dict[str, object]]], int],
    edits: list[tuple[int, int]],
) -> None:
    entries, size = layout
    header = json.dumps({"__metadata__": None, **dict(entries)}).encode()
    content = bytearray(file_of(header, bytes(size)))
    for at, byte in edits:
        content[at % len(content)] = byte
    compare(bytes(content), folder)


ENTRY = b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}'


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_type_of_the_reference_is_known(folder: Path, dtype: str) -> None:
    shape = [192 // DTYPE_BITS[dtype]]
    header = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, 24]}}
    assert compare(file_of(json.dumps(header).encode(), bytes(24)), folder)


@pytest.mark.parametrize("size", [20 << 20, MAX_HEADER_BYTES, MAX_HEADER_BYTES + 1])
def test_long_headers(folder: Path, size: int) -> None:
    assert compare(file_of(ENTRY.ljust(size), b"1234"), folder) == (size <= MAX_HEADER_BYTES)


@pytest.mark.parametrize(
    "header",
    [
        ENTRY.replace(b"{", b'{"__metadata__": null, ', 1),
        b" \n" + ENTRY,
        ENTRY.decode().encode("utf-16-le"),
        b"\xef\xbb\xbf" + ENTRY,
        b"{}",
        b"",
        b"[]",
        b"{" + b'"a":{' * 9000,
        b'{"a":["U8",[4],[0,4]],"a":["U8",[9],[7,0]],"a":["U8",[4],[0,4]]}',
    ],
)
def test_headers_of_other_forms(folder: Path, header: bytes) -> None:
    for data in (b"", b"1234"):
        compare(file_of(header, data), folder)
