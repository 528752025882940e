"""All of a worker's processes are stopped for longer than every deadline, and go on (RunPod's FlashBoot)."""

import os
import signal
import time
from pathlib import Path

from tests.integration.test_runtime_platform import SLOW, begun, is_png, start
from tests.integration.worker import SMALL, RunningWorker
from tests.processes import stop
from tests.standins.runpod import Platform

DEADLINES = {
    "BAKERY_START_TIMEOUT_S": "29",
    "BAKERY_JOB_TIMEOUT_S": "29",
    "BAKERY_HANG_TIMEOUT_S": "22",
    "BAKERY_INTERRUPT_TIMEOUT_S": "5",
    "BAKERY_PROGRESS_S": "0.2",
    "DEMO_FAULT": "slow=50",
}
"""Long enough for a webui that stands still alone for a while, on a busy machine."""
FROZEN_S = 30.0


def freeze(worker: RunningWorker) -> None:
    """Stops the worker, waits, and lets it go on; the webui first, as a host that thaws has no order."""
    tree = [worker.pid, worker.webui_pid()]
    for pid in tree:
        stop(pid)
    time.sleep(FROZEN_S)
    for pid in reversed(tree):
        os.kill(pid, signal.SIGCONT)


def test_a_job_and_an_idle_worker_outlive_a_freeze(tmp_path: Path) -> None:
    with Platform() as platform, start("runtime", platform, tmp_path, **DEADLINES) as worker:
        job = begun(platform, {**SLOW, "steps": 100})
        webui = worker.webui_pid()
        freeze(worker)
        assert is_png(platform.wait(job))
        assert job.output["bakery"]["attempts"] == 1
        freeze(worker)  # idle
        assert is_png(platform.wait(platform.submit(SMALL)))
        assert worker.webui_pid() == webui
        assert "killed" not in worker.log
        thawed = [each["frozen_s"] for each in worker.entries(phase="thaw")]
        assert len(thawed) >= 2
        assert sum(thawed) >= 2 * FROZEN_S - 5
        worker.terminate()
        assert worker.wait() == 0


def test_a_freeze_during_the_start_moves_its_deadline(tmp_path: Path) -> None:
    environment = {**DEADLINES, "DEMO_FAULT": ""}
    with Platform() as platform, start("runtime", platform, tmp_path, **environment) as worker:
        timeline, end = worker.folder / "timeline", time.monotonic() + 120
        while not timeline.exists():
            assert worker.exit_code is None, worker.log
            assert time.monotonic() < end, worker.log
            time.sleep(0.01)
        freeze(worker)
        assert is_png(platform.wait(platform.submit(SMALL)))
        assert not worker.entries(level="ERROR")
