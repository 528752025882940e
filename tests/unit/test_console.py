"""What `bake` says: readable lines for people, one JSON object a line for machines."""

import json
import re

import pytest

from bake.console import Console, format_bytes
from bake.errors import BakeError, PushError, SourceError


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (7 << 30, "7.0 GiB"), (3 << 40, "3.0 TiB")],
)
def test_format_bytes(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


def test_a_step_says_its_reason_its_time_and_its_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    with console.step("base", "Dockerfile.base changed"):
        pass
    with pytest.raises(SourceError), console.step("fetch"):
        raise SourceError("no")
    console.skip("lock", "it fits the manifest")
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0] == "▶ base (Dockerfile.base changed)"
    assert re.match(r"✓ base \d+\.\d", lines[1])
    assert re.match(r"✗ fetch failed after \d+\.\d", lines[3])
    assert lines[4] == "∙ lock: it fits the manifest"


def test_machines_get_one_json_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    with console.step("fetch"), console.progress("x.safetensors", 10) as progress:
        progress.advance(10)
    console.warn("careful")
    shown = capsys.readouterr()
    events = [json.loads(line) for line in shown.out.splitlines()]
    assert [each["event"] for each in events] == [
        "step.began", "transfer.began", "transfer.ended", "step.ended", "warning",
    ]  # fmt: skip
    assert shown.err == ""


def test_quiet_still_warns(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.say("not shown")
    console.warn("shown")
    assert capsys.readouterr().err == "warning: shown\n"


def test_an_error_says_where_what_and_what_next() -> None:
    error = PushError("the registry refused", where="ghcr.io/you/x", hint="docker login ghcr.io")
    assert str(error) == "ghcr.io/you/x: the registry refused\n  → docker login ghcr.io"
    assert error.exit_code == 7


def test_every_error_has_an_exit_code_of_its_own() -> None:
    codes = sorted(each.exit_code for each in BakeError.__subclasses__())
    assert codes == [2, 3, 4, 5, 6, 7]
