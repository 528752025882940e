"""The gateway for subprocesses."""

import sys
from pathlib import Path

import pytest

from bake.console import Console
from bake.process import CommandError, last_lines, run_command

QUIET = Console(quiet=True)


def test_output_goes_to_the_log_with_the_command(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "x.log"
    run_command(
        [sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"],
        log=log,
        console=QUIET,
    )
    text = log.read_text()
    assert text.startswith("+ ")
    assert "out\n" in text
    assert "err\n" in text


def test_a_failure_has_the_status_and_the_last_lines(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        run_command(
            [sys.executable, "-c", "print('why'); raise SystemExit(3)"],
            log=tmp_path / "x.log",
            console=QUIET,
        )
    assert caught.value.status == 3
    assert caught.value.last_lines[-1] == "why"


def test_the_environment_is_ours_alone(tmp_path: Path) -> None:
    run_command(
        [sys.executable, "-c", "import os; print(os.environ.get('HOME'), os.environ['ONLY'])"],
        log=tmp_path / "x.log",
        console=QUIET,
        environment={"ONLY": "this"},
    )
    assert last_lines(tmp_path / "x.log")[-1] == "None this"


def test_last_lines_leave_out_empty_ones(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text("a\n\nb\r\n\n")
    assert last_lines(tmp_path / "x.log") == ["a", "b"]


def test_secrets_in_what_a_command_printed_are_not_in_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build's pip names its index, and buildx the signed address that a registry sent it to."""
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-mine")
    said = (
        "ERROR: https://me:pw@pypi.example/simple is not there",
        "https://r2.example/blobs/1?X-Amz-Signature=0123abcd: timeout",
        "a-secret-of-mine",
    )
    with pytest.raises(CommandError) as caught:
        run_command(
            [sys.executable, "-c", f"print({chr(10).join(said)!r}); raise SystemExit(1)"],
            log=tmp_path / "x.log",
            console=QUIET,
        )
    assert list(caught.value.last_lines[-3:]) == [
        "ERROR: https://***@pypi.example/simple is not there",
        "https://r2.example/blobs/1?*** timeout",
        "***",
    ]
