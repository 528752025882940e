"""What benchmarks have in common."""

from pathlib import Path

import pytest

from benchmarks.report import need_programs


def test_a_program_that_is_missing_ends_a_benchmark_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curl = tmp_path / "curl"
    curl.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    need_programs(curl="curl")
    with pytest.raises(SystemExit) as ended:
        need_programs(aria2c="aria2", curl="curl", sha256sum="coreutils")
    said = "aria2c, sha256sum: not installed; on Debian: apt-get install aria2 coreutils"
    assert ended.value.code == said
