"""One value of a request against its field: types, bounds on both sides, and words that stay short."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.errors import SettingsError
from runtime.job.fields import BY_NAME, Field, Kind, field_like, limits_of
from runtime.job.values import check_text, cut, describe, read_value, suggest

LIMITS = {"side": 2048, "prompt_chars": 5}


def field(kind: Kind, **more: Any) -> Field:
    return Field(name="x", kind=kind, meaning="m", section="picture", **more)


def refused(of: Field, item: object) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # its whole text is looked at
        read_value(of, item, LIMITS)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        ("integer", 20, 20), ("integer", 20.0, 20), ("integer", "-3", -3), ("number", 7, 7), ("number", "1e1", 10.0),
        ("boolean", True, True), ("boolean", "ON", True), ("boolean", "No", False), ("boolean", 0.0, False),
        ("string", "a", "a"), ("string", 5, "5"), ("name", 1.5, "1.5"), ("identifier", "a", "a"),
        ("identifier", 7, "7"), ("strings", ["a", 5], ["a", "5"]), ("object", {"a": 1}, {"a": 1}),
        ("list", [1], [1]), ("entries", ["a", {}], ["a", {}]), ("image", "AA==", "AA=="), ("images", ["AA=="], ["AA=="]),
    ],
)  # fmt: skip
def test_what_pydantic_takes_is_taken(kind: Kind, given: object, value: object) -> None:
    read = read_value(field(kind), given, LIMITS)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("integer", 20.5, "must be a whole number, not 20.5"),
        ("integer", "x", "must be a whole number, not the string 'x'"),
        ("integer", False, "must be a whole number, not false"),
        ("number", None, "must be a number, not null"),
        ("number", float("inf"), "must be a number, not inf"),
        ("boolean", 2, "must be true or false, not 2"),
        ("boolean", [], "must be true or false, not a list"),
        ("string", {}, "must be a string, not an object"),
        ("name", True, "must be a string, not true"),
        ("string", 10**1001, "must be a string, not a number beyond 10^20"),
        ("identifier", 1.5, "must be a string or a whole number, not 1.5"),
        ("identifier", True, "must be a string or a whole number, not true"),
        ("strings", ["a", None], "must be a list of strings, not a list"),
        ("strings", "a", "must be a list of strings, not the string 'a'"),
        ("object", [], "must be an object, not a list"),
        ("list", {}, "must be a list, not an object"),
        ("entries", 5, "must be a list of objects or names, not 5"),
        ("image", 5, "must be a picture: base64, a data URL or an https address, not 5"),
        ("images", "AA==", "must be a list of pictures: base64, data URLs or https addresses, not a string"),
        ("images", [5], "must be a list of pictures: base64, data URLs or https addresses, not a list"),
    ],
)  # fmt: skip
def test_what_would_change_a_value_is_refused(kind: Kind, given: object, message: str) -> None:
    assert refused(field(kind), given) == message


def test_bounds_hold_on_both_sides() -> None:
    number = field("number", minimum=-1, maximum=2)
    assert [read_value(number, each, LIMITS) for each in (-1, 2)] == [-1, 2]
    assert refused(number, -1.5) == "must be at least -1, not -1.5"
    assert refused(number, 2.5) == "must be at most 2, not 2.5"
    side = field("integer", minimum=8, limit="side", multiple_of=8, maximum=5)
    assert [read_value(side, each, LIMITS) for each in (8, 2048)] == [8, 2048]
    assert refused(side, 2056) == "must be at most 2048, not 2056"
    assert refused(side, 12) == "must be a multiple of 8, not 12"
    text = field("string", limit="prompt_chars")
    assert read_value(text, "abcde", LIMITS) == "abcde"
    assert refused(text, "abcdef") == "has 6 characters, at most 5 are allowed"
    many = field("strings", maximum=2)
    assert read_value(many, ["a", "b"], LIMITS) == ["a", "b"]
    assert refused(many, ["a"] * 3) == "has 3 entries, at most 2 are allowed"


def test_choices_and_forms_are_said_in_words() -> None:
    choice = field("string", choices=("png", "jpeg"))
    assert read_value(choice, "png", LIMITS) == "png"
    assert refused(choice, "jpg") == "must be one of png, jpeg (did you mean 'jpeg'?)"
    assert refused(choice, "tiff") == "must be one of png, jpeg"
    formed = field("string", form=("[0-9]{2}", "two digits"))
    assert read_value(formed, "12", LIMITS) == "12"
    for wrong in ("1", "123", "12\n"):
        assert refused(formed, wrong) == "must be two digits"


def test_a_field_that_does_nothing_takes_what_asks_for_nothing() -> None:
    nothing = field("integer", only=(0, None))
    assert read_value(nothing, None, LIMITS) is None
    assert read_value(nothing, "0", LIMITS) == 0
    refusals: tuple[object, ...] = (1, "x", [], True)
    for wrong in refusals:
        assert refused(nothing, wrong) == "is not possible in a worker: m"
    assert refused(field("integer", only=(0,)), None) == "is not possible in a worker: m"


def test_text_must_be_unicode_without_a_null() -> None:
    for text in ("", "ä🦊\n", 5, None, ["\x00"]):
        check_text(text)
    with pytest.raises(ValueError, match=r"^contains a null character$"):
        check_text("a\x00")
    with pytest.raises(ValueError, match=r"^is not valid Unicode \(half of a surrogate pair\)$"):
        check_text("\udc00")
    assert refused(field("strings"), ["a", "\x00"]) == "contains a null character"
    assert refused(field("images"), ["\ud800"]) == "is not valid Unicode (half of a surrogate pair)"


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (None, "null"), (True, "true"), (False, "false"), (0, "0"), (10**20, str(10**20)), (10**20 + 1, "a number beyond 10^20"),
        (-(10**20), str(-(10**20))), (-(10**20) - 1, "a number beyond 10^20"), (1e300, "1e+300"), (1.5, "1.5"),
        ("a'b", 'the string "a\'b"'), ("x" * 61, f"the string '{'x' * 60}'"), ([1], "a list"), ({}, "an object"),
    ],
)  # fmt: skip
def test_a_value_in_a_message_is_short(item: object, words: str) -> None:
    assert describe(item) == words


def test_a_name_in_a_message_is_cut_and_cannot_steer_a_terminal() -> None:
    assert cut("x" * 60) == cut("x" * 61) == "x" * 60
    assert cut("a\x1b[2J\n\ud800é") == "a?[2J??é"
    assert cut(5) == "5"


def test_the_nearest_name_is_suggested_whatever_its_case() -> None:
    known = ["Euler a", "DPM++ 2M", "Euler"]
    assert suggest("euler A", known) == " (did you mean 'Euler a'?)"
    assert suggest("heun", known) == ""
    assert suggest("Eu", ["Euler"]) == ""
    assert suggest("x" * 100 + "tail", ["x" * 100]) == f" (did you mean '{'x' * 100}'?)"
    assert suggest("", []) == ""


def test_a_setting_of_the_operator_s_is_of_its_present_values_type() -> None:
    for present, kind in (
        (True, "boolean"),
        (1, "number"),
        (1.5, "number"),
        ("x", "string"),
        (None, "string"),
    ):
        assert field_like("a", present).kind == kind
    listed = field_like("a", [])
    assert (listed.kind, listed.name, listed.section) == ("strings", "a", "model")
    assert listed.meaning == "added by the operator"


def test_a_field_without_use_has_no_bounds() -> None:
    width = BY_NAME["width"]
    assert read_value(width.unbounded(), 10**6 + 1, LIMITS) == 10**6 + 1
    assert width.unbounded().nullable
    assert (width.minimum, width.limit, width.multiple_of, width.nullable) == (8, "side", 8, False)


def test_limits_are_the_lower_ones() -> None:
    assert limits_of({}, {})["side"] == 2048
    assert limits_of({"side": 4096}, {})["side"] == 4096
    assert limits_of({"side": 512}, {"side": 1024})["side"] == 512
    assert limits_of({}, {"side": 64})["side"] == 64
    with pytest.raises(SettingsError) as caught:
        limits_of({"b": 1, "a": 1, "side": 1}, {})
    assert str(caught.value) == "worker.json has unknown limits: a, b"
