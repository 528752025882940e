"""What the runtime costs beside the webui: time per job, throughput, memory over many jobs.

Both ways in one run, turn by turn: the webui's API called directly, and the same request as a job through the
SDK's `run_job` and our handler. The webui is one that answers at once with a stored picture of
a photograph's size, so that the difference is not lost in the noise of drawing.

    make runtime-venvs
    .venv-runtime/bin/python -m benchmarks.overhead [--jobs 300] [--memory-jobs 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import functools
import gc
import io
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import environment, write_report
from runtime.webui.process import WebuiProcess
from runtime.worker import Webui, Weights, Worker

PORT = 7899
NAMES: dict[str, Any] = {
    "progress": {"progress": 0.0, "eta_relative": 0.0, "state": {}},
    "options": {},
    "samplers": [{"name": "Euler"}],
    "schedulers": [{"name": "karras", "label": "Karras"}],
    "upscalers": [],
    "latent-upscale-modes": [],
    "prompt-styles": [],
}


def make_picture(side: int) -> str:
    """A PNG with the size of a photograph's: smooth colours with fine noise, about 1.5 bytes a pixel."""
    from PIL import Image  # noqa: PLC0415  # the parent needs no pictures

    noise = random.Random(side)
    rows = bytearray()
    for y in range(side):
        for x in range(side):
            level = (x * 255 // side + y * 255 // side) // 2
            rows += bytes((level + noise.randrange(12)) % 256 for _ in range(3))
    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), bytes(rows)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def serve(port: int) -> None:
    """The webui that answers at once."""
    info = {"sd_model_name": "base", "all_seeds": [1], "infotexts": ["p\nSteps: 20, Seed: 1"]}
    answers = {
        side: json.dumps(
            {"images": [make_picture(side)], "parameters": {}, "info": json.dumps(info)}
        ).encode()
        for side in (512, 1024)
    }

    class Requests(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2].split("?")[0]
            self._send(json.dumps(NAMES[name]).encode())

        def do_POST(self) -> None:
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(answers[512 if payload.get("width", 512) < 1024 else 1024])

        def _send(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Requests).serve_forever()


def make_worker(folder: str) -> Worker:
    webui = Webui(
        name="instant",
        version="0",
        revision="0",
        directory=folder,
        python=sys.executable,
        script=str(Path(__file__).absolute()),
        args=("--serve", str(PORT)),
        port=PORT,
        lora_dir=folder,
    )
    base = Weights(role="checkpoint", name="base", path="x", sha256="0" * 64, size_bytes=1)
    return Worker(name="bench", family="demo", webui=webui, weights=(base,))


def make_job(side: int, **more: Any) -> dict[str, Any]:
    value = {"prompt": "p", "width": side, "height": side, "sampler_name": "Euler Karras"}
    return {"id": "job", "input": {**value, **more}}


def make_input(side: int) -> str:
    """A picture to draw over, with as much noise as a photograph's: about 1.7 bytes a pixel as PNG."""
    from PIL import Image  # noqa: PLC0415  # as above

    out = io.BytesIO()
    bands = [Image.effect_noise((side, side), 4) for _ in range(3)]
    Image.merge("RGB", bands).save(out, "PNG", compress_level=1)
    return base64.b64encode(out.getvalue()).decode()


async def compare(
    direct: Callable[[], Any], job: Callable[[], Coroutine[Any, Any, Any]], count: int
) -> tuple[list[float], list[float], float]:
    """Seconds of each way, turn by turn, and the processor's seconds that a job takes more (median).

    The latter does not depend on what else the machine does.
    """
    direct_s, job_s, extra_cpu_s = [], [], []
    for _ in range(count + 10):
        began, began_cpu = time.perf_counter(), time.process_time()
        await asyncio.to_thread(direct)
        between, between_cpu = time.perf_counter(), time.process_time()
        await job()
        job_s.append(time.perf_counter() - between)
        direct_s.append(between - began)
        extra_cpu_s.append(time.process_time() - between_cpu - (between_cpu - began_cpu))
    return direct_s[10:], job_s[10:], statistics.median(extra_cpu_s[10:])


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def measure(
    worker: Worker, webui: WebuiProcess, options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The figures (ms, MB, ratios; `sdk` is a version), and by size every job's extra milliseconds."""
    from runpod import __version__ as sdk_version  # noqa: PLC0415  # only the parent has the SDK to import
    from runpod.serverless.modules.rp_job import run_job  # noqa: PLC0415

    from runtime.job.bucket import Bucket  # noqa: PLC0415
    from runtime.job.fields import limits_of  # noqa: PLC0415
    from runtime.job.handler import Handler  # noqa: PLC0415
    from runtime.job.lora import LoraStore  # noqa: PLC0415
    from runtime.log import Counters  # noqa: PLC0415
    from runtime.settings import Settings  # noqa: PLC0415
    from runtime.webui.generate import Generator  # noqa: PLC0415
    from runtime.webui.keeper import Keeper  # noqa: PLC0415

    settings = Settings()
    counters = Counters()
    keeper = Keeper(webui, settings, counters)
    handler = Handler(
        settings=settings,
        worker=worker,
        keeper=keeper,
        generator=Generator(keeper, settings, counters),
        loras=LoraStore(settings, worker, {}),
        bucket=Bucket(settings),
        limits=limits_of({}, {}),
        counters=counters,
        report=lambda *_: None,
        on_refresh=lambda: None,
    )

    async def run(side: int, **more: Any) -> None:
        result = await run_job(handler, make_job(side, **more))
        assert "output" in result, result

    async def fill_memory(name: str, **more: Any) -> None:
        for number in range(1, options.memory_jobs + 1):
            await run(512, **more)
            if number in (100, options.memory_jobs):
                figures[f"{name}resident_mb_after_{number}"] = resident_bytes() / 1e6
        after = figures[f"{name}resident_mb_after_{options.memory_jobs}"]
        figures[f"{name}memory_growth_ratio"] = after / figures[f"{name}resident_mb_after_100"]

    figures: dict[str, Any] = {}
    runs: dict[str, list[float]] = {}
    given: dict[str, Any] = {"init_images": [make_input(512)]}
    for side, name, more in ((512, "512", {}), (1024, "1024", {}), (512, "img2img_512", given)):
        payload = {"prompt": "p", "width": side, "height": side, **more}
        endpoint = "img2img" if more else "txt2img"
        direct_call = functools.partial(webui.client.draw, payload, endpoint=endpoint, timeout_s=60)
        direct, through, cpu_s = await compare(
            direct_call, functools.partial(run, side, **more), options.jobs
        )
        extra = [(b - a) * 1000 for a, b in zip(direct, through, strict=True)]
        runs[f"extra_ms_{name}"] = [round(each, 3) for each in extra]
        quarters = statistics.quantiles(extra, n=4)
        figures[f"direct_ms_{name}"] = statistics.median(direct) * 1000
        figures[f"overhead_ms_{name}"] = statistics.median(extra)
        figures[f"overhead_cpu_ms_{name}"] = cpu_s * 1000
        figures[f"overhead_spread_ms_{name}"] = quarters[2] - quarters[0]
        figures[f"jobs_per_s_{name}"] = len(through) / sum(through)
    await fill_memory("")
    await fill_memory("pictures_", init_images=[make_input(2048)])
    figures["sdk"] = sdk_version
    return figures, runs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--memory-jobs", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options, _ = parser.parse_known_args()
    if options.serve:
        serve(options.serve)
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "ERROR")
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w", encoding="utf-8") as silent,
    ):
        worker = make_worker(folder)
        inherited = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        webui = WebuiProcess(
            worker.command("cpu", boot=False),
            cwd=folder,
            port=PORT,
            environment=inherited,
            timeline=Path(folder) / "timeline",
        )
        webui.start()
        stdout, sys.stdout = sys.stdout, silent  # the log's lines are written, to nowhere
        try:
            webui.wait_until_loaded(120)
            figures, runs = asyncio.run(measure(worker, webui, options))
        finally:
            sys.stdout = stdout
            webui.stop()
    sdk = figures.pop("sdk")
    print(f"SDK {sdk}, {options.jobs} jobs of each size, {options.memory_jobs} jobs for memory\n")
    print("| figure | value |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:.3g} |")
    write_report(
        options.json,
        figures=figures,
        environment=environment(sdk=sdk, jobs=options.jobs, memory_jobs=options.memory_jobs),
        runs=runs,
    )


if __name__ == "__main__":
    main()
