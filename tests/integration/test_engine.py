"""The engine on a bare machine: it builds as the bakery needs, survives a kill, and ends cleanly."""

import contextlib
import os
import shutil
import signal
import tarfile
from pathlib import Path

import pytest

from benchmarks.images import can_start_engines, prepare_engine
from tests.integration.conftest import SCRIPTS, engine_environment, run
from tests.processes import wait_until_gone


def test_it_builds_with_named_contexts_links_and_secrets(
    engine: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("from the other context")
    (tmp_path / "secret").write_text("a-secret")
    (tmp_path / "context" / "Dockerfile").write_text(
        "FROM scratch\nCOPY --link --from=other file /file\n"
    )
    built = run(
        "docker", "buildx", "build", "--secret", f"id=s,src={tmp_path / 'secret'}",
        "--build-context", f"other={tmp_path / 'other'}",
        "--output", f"type=tar,dest={tmp_path / 'out.tar'}", tmp_path / "context",
        env=engine,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    with tarfile.open(tmp_path / "out.tar") as tar:
        extracted = tar.extractfile("file")
        assert extracted is not None
        assert extracted.read() == b"from the other context"
    assert b"a-secret" not in (tmp_path / "out.tar").read_bytes()


def test_an_unreachable_engine_and_no_apt_is_one_clear_message(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "id", "cat", "readlink", "timeout"):
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    ended = run(tmp_path / "bash", SCRIPTS / "start", env={"PATH": str(tmp_path)})
    assert ended.returncode == 3
    assert "install one (the packages docker-ce and docker-buildx-plugin)" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def commands() -> list[bytes]:
    """The command lines of all processes of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(path.read_bytes())
    return found


@pytest.mark.skipif(not can_start_engines(), reason="a private engine needs root on Debian")
def test_a_private_engine_survives_a_kill_and_ends_cleanly(
    engine: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One of the test's own, beside that of the other tests."""
    # A short name: the kernel takes 107 bytes for the path of a socket, and containerd's lie deep.
    folder = tmp_path_factory.mktemp("own")
    own = {**engine, **prepare_engine(folder)}
    try:
        started = run(SCRIPTS / "start", env=own, timeout_s=1200)
        assert started.returncode == 0, started.stderr
        killed = int((folder / "docker.pid").read_text())
        os.kill(killed, signal.SIGKILL)
        wait_until_gone(killed)
        restarted = run(SCRIPTS / "start", env=own)
        assert restarted.returncode == 0, restarted.stderr
        reached = engine_environment(own)
        assert reached["DOCKER_HOST"] == f"unix://{folder}/docker.sock"
        assert run("docker", "version", env=reached).returncode == 0
    finally:
        stopped = run(SCRIPTS / "stop", env=own)
    assert stopped.returncode == 0, stopped.stderr
    assert not [each for each in commands() if str(folder).encode() in each]
    assert str(folder) not in Path("/proc/mounts").read_text()


def test_an_engine_that_answers_is_used_and_left_alone(
    engine: dict[str, str], tmp_path: Path
) -> None:
    others = {**engine, "ENGINE_DIR": str(tmp_path / "engine")}
    started = run(SCRIPTS / "start", env=others)
    assert (started.returncode, "using the engine that answers" in started.stderr) == (0, True)
    assert run(SCRIPTS / "stop", env=others).returncode == 0
    assert run("docker", "version", env=engine).returncode == 0
