"""`requirements/install`: what it asks of uv and pip, and what a run leaves that did not end."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "requirements" / "install"


class Programs:
    """A pip and a uv that note how they are called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("bin", "environment"):
            (folder / name).mkdir()
        (folder / "lock.txt").write_text("click==1\n")
        self.write("pip", 0)
        self.write("uv", 0)

    def write(self, name: str, status: int, config: str = "") -> None:
        program = self.folder / "bin" / name
        program.write_text(
            f'#!/bin/sh\n[ "$1" = config ] && {{ echo "{config}"; exit 0; }}\n'
            f'echo {name} "$@" >>{self.folder}/calls\nexit {status}\n'
        )
        program.chmod(0o755)

    def install(self) -> tuple[int, list[str]]:
        calls = self.folder / "calls"
        calls.write_text("")
        command = [str(SCRIPT), "bin", "environment", "lock.txt"]
        ended = subprocess.run(command, cwd=self.folder, check=False)
        return ended.returncode, calls.read_text().splitlines()


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def test_uv_does_it_and_pip_where_it_fails_or_has_an_index_of_its_own(programs: Programs) -> None:
    assert [call.split()[0] for call in programs.install()[1]] == ["uv"]
    programs.write("uv", 1)
    assert [call.split()[0] for call in programs.install()[1]] == ["uv", "pip"]
    programs.write("pip", 0, config="global.index-url='https://pypi.example/simple'")
    assert [call.split()[0] for call in programs.install()[1]] == ["pip"]


def test_what_a_killed_run_left_half_made_is_installed_anew(programs: Programs) -> None:
    """uv and pip believe a package's folder, however little is in it (seen with uv killed in mid-copy)."""
    for name, word in (("uv", "--reinstall"), ("pip", "--force-reinstall")):
        programs.write("uv", 1)
        programs.write("pip", 1)
        status, calls = programs.install()
        assert status != 0
        assert not any("reinstall" in call for call in calls)
        programs.write(name, 0)
        status, calls = programs.install()
        assert status == 0
        assert word in calls[-1]
        status, calls = programs.install()
        assert status == 0
        assert not any("reinstall" in call for call in calls)
