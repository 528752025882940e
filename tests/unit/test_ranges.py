"""Ranges of bytes, the journal of an unfinished download, and headers that speak of ranges."""

import hashlib
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.weights.transfer.partial import PartFile, PrefixHasher, write_all
from bake.weights.transfer.ranges import Ranges
from runtime.files.answers import ContentRange, parse_content_range

SPAN = st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda p: (p[0], p[0] + p[1]))


@given(st.lists(SPAN, max_size=30))
def test_ranges_are_a_set_of_bytes(spans: list[tuple[int, int]]) -> None:
    ranges = Ranges(spans)
    expected = {at for start, end in spans for at in range(start, end)}
    listed = ranges.as_list()
    assert {at for start, end in listed for at in range(start, end)} == expected
    assert all(listed[i][1] < listed[i + 1][0] for i in range(len(listed) - 1))
    assert ranges.total == len(expected)
    assert ranges.prefix == next(at for at in range(100) if at not in expected)
    assert ranges.end == max(expected, default=-1) + 1
    for size in (0, 1, 30, 100):
        missing = [at for at in range(size) if at not in expected]
        gap = ranges.first_gap(size)
        assert (gap is None) == (not missing)
        if gap:
            assert gap[0] == missing[0]
            assert set(range(*gap)).isdisjoint(expected)
            assert gap[1] == size or gap[1] in expected


def test_no_range_is_an_error() -> None:
    with pytest.raises(ValueError, match="no range"):
        Ranges([(3, 2)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/100", ContentRange(start=0, end=10, total=100)),
        ("bytes 5-5/*", ContentRange(start=5, end=6, total=None)),
        ("bytes */100", ContentRange(start=None, end=None, total=100)),
        ("bytes 9-0/100", None),
        ("bytes 0-100/100", None),
        ("items 0-9/100", None),
        ("", None),
    ],
)
def test_content_range(text: str, expected: ContentRange | None) -> None:
    assert parse_content_range(text) == expected


def test_a_journal_is_taken_up(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "x.part")
    part.load(size_bytes=100)
    part.reserve(100)
    part.validator = '"v"'
    part.record(0, 10)
    part.record(40, 50)
    part.checkpoint()
    again = PartFile(tmp_path / "x.part")
    again.load(size_bytes=None)
    assert again.done.as_list() == [(0, 10), (40, 50)]
    assert (again.size_bytes, again.validator) == (100, '"v"')
    other = PartFile(tmp_path / "x.part")
    other.load(size_bytes=101)
    assert other.done.total == 0
    assert not other.path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 2, "size_bytes": 100, "ranges": []}',
        '{"format": 1, "size_bytes": 100, "ranges": [[0, 200]]}',
        '{"format": 1, "size_bytes": 100, "ranges": [[5, 1]]}',
        '{"format": 1, "size_bytes": "x", "ranges": []}',
        '{"format": 1, "size_bytes": 100, "ranges": 7}',
    ],
)
def test_a_broken_journal_is_forgotten(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.part").write_bytes(b"x" * 100)
    (tmp_path / "x.json").write_text(text)
    part = PartFile(tmp_path / "x.part")
    part.load(size_bytes=100)
    assert part.done.total == 0
    assert not part.path.exists()
    assert not part.journal.exists()


def test_a_journal_without_its_file_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(
        json.dumps({"format": 1, "size_bytes": 100, "ranges": [[0, 9]]})
    )
    part = PartFile(tmp_path / "x.part")
    part.load(size_bytes=100)
    assert part.done.total == 0


def test_the_hash_follows_writers_in_any_order(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(5_000_000)
    part = PartFile(tmp_path / "x.part")
    part.load(size_bytes=len(data))
    part.reserve(len(data))
    hasher = PrefixHasher(part)
    hasher.start()
    spans = [(at, min(at + 70_000, len(data))) for at in range(0, len(data), 70_000)]
    random.Random(2).shuffle(spans)
    handle = part.open_for_writing()
    for start, end in spans:
        write_all(handle, data[start:end], start, part.path)
        part.record(start, end)
    assert hasher.result() == hashlib.sha256(data).hexdigest()


def test_a_hasher_can_be_stopped(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "x.part")
    part.load(size_bytes=10)
    hasher = PrefixHasher(part)
    hasher.start()
    hasher.stop()
    assert not hasher.is_alive()
