"""The command line as a user runs it: exit codes, and never a traceback."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bake.cli.failures import say_failure
from bake.secrets import mask_secrets
from tests.unit.conftest import Ended

ROOT = Path(__file__).parents[2]


def test_it_is_a_module_that_runs() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bake", "check", "no-such.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: no-such.yaml: there is no such manifest")


def test_a_plan_waits_for_nothing_that_only_a_whole_bake_needs() -> None:
    """Of the bill of materials, the report's page and pictures: they are a fifth of the time to load."""
    code = "import sys, bake.cli.commands.image; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "docker" in loaded
    assert not {"PIL", "cyclonedx", "jinja2", "picklescan", "cryptography"} & set(loaded)


@pytest.mark.parametrize(
    ("args", "code", "shown"),
    [
        (["--help"], 0, "Usage: bake"),
        (["--version"], 0, "0.1.0"),
        (["schema"], 0, '"checkpoint"'),
        (["check", "manifests/jib-mix-illustrious-realistic.yaml"], 0, "ok"),
        (["check", "no-such.yaml"], 2, "there is no such manifest"),
        (
            ["check", "manifests"],
            2,
            "manifests: this is a folder\n  → name a manifest in it: manifests/NAME.yaml",
        ),
        (
            ["check", "manifests/demo.lock.json"],
            2,
            "this is a lock\n  → its manifest: manifests/demo.yaml",
        ),
        (["store", "gc", "--keep", "50"], 2, "--keep: 50 is no size; expected 500M, 50G or 1T"),
        (
            ["push", "manifests/demo.yaml", "--build-dir", "no-such"],
            5,
            "no-such/demo: there is no baked image here\n  → bake image manifests/demo.yaml",
        ),
        (["nonsense"], 2, "No such command 'nonsense'."),
        (["lok"], 2, "No such command 'lok'; did you mean lock?"),
        (["cehck"], 2, "No such command 'cehck'; did you mean check?"),
        (["check"], 2, "Missing argument"),
    ],
)
def test_exit_codes_and_messages(
    run_bake: Callable[..., Ended], args: list[str], code: int, shown: str
) -> None:
    ended = run_bake(*args)
    assert ended.returncode == code, ended.stderr
    assert shown in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_that_cannot_be_written_is_a_fault_of_the_machine(
    run_bake: Callable[..., Ended],
) -> None:
    ended = run_bake("fetch", "manifests/demo.yaml", BAKE_STORE="/dev/null/store")
    assert ended.returncode == 3, ended.stderr
    assert "error: /dev/null/store/leases: cannot be used: Not a directory" in ended.stderr
    assert (
        "→ give bake a folder that it can write, on a disk of this machine: BAKE_STORE"
        in ended.stderr
    )
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("args", "variables"),
    [
        (["--debug", "check", "no-such.yaml"], {}),
        (["check", "no-such.yaml", "--debug"], {}),
        (["check", "no-such.yaml"], {"BAKE_DEBUG": "1"}),
    ],
)
def test_debug_shows_where_an_error_comes_from(
    run_bake: Callable[..., Ended], args: list[str], variables: dict[str, str]
) -> None:
    ended = run_bake(*args, **variables)
    assert ended.returncode == 2
    assert "FileNotFoundError" in ended.stderr, "the cause"
    assert "in load_manifest" in ended.stderr, "where it was raised"
    assert "error: no-such.yaml: there is no such manifest" in ended.stderr


def explode(_path: Path) -> None:
    try:
        raise ValueError("Authorization: Bearer a-secret-of-mine, hf_" + "a" * 34)
    except ValueError as error:
        raise KeyError("https://user:pw@host/x?token=abc&more=d") from error


@pytest.mark.parametrize("args", [[], ["--debug"]])
def test_a_fault_of_ours_is_a_message_and_masked_where_it_is_shown(
    run_bake: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    monkeypatch.setattr("bake.cli.commands.check.load_manifest", explode)
    ended = run_bake("check", "x.yaml", *args, SOME_TOKEN="a-secret-of-mine")
    assert ended.returncode == 1, ended.stderr
    assert "error: a fault of bake itself, not of what it was asked for: KeyError" in ended.stderr
    assert "run it again with --debug" in ended.stderr
    assert ("Traceback" in ended.stderr) == bool(args)
    for secret in ("a-secret-of-mine", "user:pw", "token=abc", "hf_a"):
        assert secret not in ended.stderr
    if args:
        assert "https://***@host/x?***" in ended.stderr


def test_masked_are_own_tokens_also_from_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file\n")
    environ = {"CIVITAI_TOKEN_FILE": str(tmp_path / "token"), "API_KEY": "short", "HOME": "/root"}
    text = "from-a-file, short, /root, rpa_" + "A" * 40
    assert mask_secrets(text, environ) == "***, short, /root, ***"


@pytest.mark.parametrize("command", ["push", "inspect", "verify", "sign"])
def test_an_empty_name_is_not_this_folder(run_bake: Callable[..., Ended], command: str) -> None:
    """Of a variable that is not set; in a build folder it would have been the bake that lies there."""
    ended = run_bake(command, "")
    assert ended.returncode != 0
    assert "no image is named: the text is empty" in ended.stderr


@pytest.mark.parametrize(
    "number",
    [errno.ENOLCK, errno.EIO, errno.ESTALE, errno.EEXIST, errno.EMFILE, errno.EOPNOTSUPP],
)
def test_what_a_disk_fails_with_is_no_fault_of_ours(
    capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """A failing disk, a network's file system without locks, a file where a folder is to be."""
    error = OSError(number, os.strerror(number), "/store/locks/1")
    assert say_failure(error, debug=False) == 3
    said = capsys.readouterr().err
    assert f"error: /store/locks/1: cannot be used: {os.strerror(number)}" in said
    assert "on a disk of this machine" in said
    assert say_failure(OSError(errno.EPIPE, "Broken pipe"), debug=False) == 1
