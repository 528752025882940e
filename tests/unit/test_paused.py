"""`make test-paused` stops what the tests run, and leaves nothing stopped."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.paused import Pauser, main, processes_of
from tests.processes import stop


def test_children_of_children_are_found_and_nothing_else() -> None:
    code = "import subprocess, sys; subprocess.run(['cat'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        found = processes_of(process.pid)
        while len(found) < 2:  # it has yet to start its child
            found = processes_of(process.pid)
        assert os.getpid() not in found
        assert process.stdin is not None
        process.stdin.close()
    assert process.pid not in processes_of(process.pid)


def test_what_a_test_has_stopped_itself_is_let_alone() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        pauser = Pauser(root=process.pid, noise=random.Random(1))
        pauser.stop_some()
        assert pauser.stopped == []
        process.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, process.pid, os.WCONTINUED)
        pauser.stop_some()
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert pauser.stopped == [process.pid]
        pauser.go_on()
        os.waitid(os.P_PID, process.pid, os.WCONTINUED)
        process.kill()


def test_who_stops_a_process_that_stands_still_waits_until_it_goes_on() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        pauser = Pauser(root=process.pid, noise=random.Random(1))
        pauser.stop_some()
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        thread = threading.Thread(target=stop, args=(process.pid,))
        thread.start()
        pauser.go_on()
        os.waitid(os.P_PID, process.pid, os.WCONTINUED)
        thread.join()
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)  # and nobody will continue it
        process.kill()


def test_its_status_is_that_of_the_tests(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # it starts sooner
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    (tmp_path / "test_x.py").write_text(
        "import subprocess\ndef test_x():\n    subprocess.run(['sleep', '0.3'])\n    assert False"
    )
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        arguments = ["--pauses", "0.05", "0.1", "--runs", "0.05", "0.1", "-q", str(tmp_path)]
        assert main([*arguments, "-c", "/dev/null"]) == 1
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    said = capfd.readouterr()
    assert "1 failed" in said.out
    assert " s: for 0." in said.err, "it was stopped now and then"
