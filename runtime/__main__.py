"""`python -m runtime`: the start of a worker, in order.

1. the webui's process, before anything heavy is imported: it needs longest;
2. in its shadow the SDK's import (about two seconds);
3. wait for the loaded model, by a deadline, with an eye on the process;
4. take jobs, from the platform's queue or over HTTP, until the platform, a signal or a broken webui ends the worker.

Ends with 0 after a wanted end, 1 for a failed local test or a broken webui, 2 for wrong settings, 3 if the
webui did not start, 143 for a SIGTERM before it had.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from runtime.clock import clock
from runtime.errors import SettingsError
from runtime.job.fields import limits_of
from runtime.job.names import check_allowed
from runtime.log import Counters, log
from runtime.settings import Settings
from runtime.webui.client import WebuiError
from runtime.webui.keeper import Keeper
from runtime.webui.process import WebuiProcess, WebuiProcessError
from runtime.worker import Device, Worker

_SDK_DEFAULTS = {
    # Its own default, DEBUG, logs every job and its whole output.
    "RUNPOD_LOG_LEVEL": "INFO",
    # Its checks of the machine come after the webui has loaded the model on the card. They would run nvidia-smi and
    # a program on the card, and end a worker whose host's disk is 90% full or that does not reach 8.8.8.8.
    "RUNPOD_SKIP_GPU_CHECK": "true",
    "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
}


def main() -> int:
    """Runs the worker; returns its exit code."""
    counters = Counters()
    what = "the worker was frozen; deadlines move"
    clock.watch(lambda frozen_s: log("WARN", "thaw", what, frozen_s=frozen_s))
    try:
        settings = Settings.from_environment()
        worker = Worker.load(Path(settings.worker_file))
        limits = limits_of(worker.limits, settings.limits)
    except (SettingsError, ValueError, OSError) as error:
        log("ERROR", "start", str(error))
        return 2
    device = choose_device(settings.device)
    webui = WebuiProcess(
        worker.command(device),
        cwd=worker.webui.directory,
        port=worker.webui.port,
        environment={**os.environ, "BAKERY_DEVICE": device},
        timeline=Path(settings.timeline),
        log_file=Path(settings.webui_log),
    )
    keeper = Keeper(webui, settings, counters)
    # Until the SDK takes jobs there is nothing to finish; the webui is stopped all the same.
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    try:
        began = time.monotonic()
        keeper.start()
        for name, value in _SDK_DEFAULTS.items():
            os.environ.setdefault(name, value)
        # The one imports the SDK, the other an HTTP server.
        if settings.server == "http":
            from runtime.http_server import HttpServer as Server  # noqa: PLC0415
        else:
            from runtime.serve import Server  # type: ignore[assignment]  # noqa: PLC0415

        server = Server(worker, settings, limits=limits, keeper=keeper, counters=counters)
        imports = {"name": "SDK", "began": began, "ended": time.monotonic()}

        def load() -> None:
            timeline = keeper.wait_until_loaded()
            check_allowed(keeper.client, settings.allowed_overrides)
            log("INFO", "start", "model loaded", start_s=_age_s(), timeline=[*timeline, imports])

        return server.run(load)
    except WebuiProcessError as error:
        log("ERROR", "start", str(error), last_lines=error.last_lines)
        return 3
    except (SettingsError, WebuiError) as error:
        log("ERROR", "start", str(error))
        return 2 if isinstance(error, SettingsError) else 3
    finally:
        keeper.stop()
        counters.write()


def choose_device(setting: str) -> Device:
    """`auto` is CUDA where the container has an NVIDIA device."""
    if setting == "auto":
        has_gpu = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
        return "cuda" if has_gpu else "cpu"
    return "cuda" if setting == "cuda" else "cpu"


def _age_s() -> float:
    """Seconds since this process began."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"), 3)


if __name__ == "__main__":
    sys.exit(main())
