"""Time to the first picture: the official worker's start against ours, on one install of webui v1.9.3.

    python benchmarks/cold_start.py --webui FOLDER --python INTERPRETER --hf-home FOLDER \\
        [--handler-python INTERPRETER] [--rounds 5] [--read-ahead-kib 128] [--json FILE] CHECKPOINT…

Both start the same webui with the same flags (the official worker's, and those for the CPU) and ask
for the same picture. `official`: webui and handler are started together, the handler imports
the SDK, asks `/sd-models` every 0.2 s, then posts its job (src/start.sh and src/handler.py of
runpod-workers/worker-a1111). `ours`: `runtime.webui` starts the webui under `runtime.boot`, the SDK is
imported meanwhile, the job is posted when the model is loaded. Every round runs each variant once, in
turn, with the page cache dropped (as root by /proc/sys/vm/drop_caches, else file by file with
POSIX_FADV_DONTNEED) and not. With `--comfyui`, ComfyUI's start is one more variant (`benchmarks.cold_start_comfyui`);
its picture is another, and must only be the same each time. `benchmarks.tricks` adds each trick left out, and each alone.

Harvests are recorded first, once for each checkpoint, unmeasured. The pictures of all variants of a
checkpoint must be the same, bit by bit; else the exit status is 1. Figures are ratios of medians.
The handler's interpreter needs `requests`; without the `runpod` package its import is left out of both.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks import cold_start_comfyui as comfyui  # noqa: E402
from benchmarks.cold_start_client import used_memory  # noqa: E402
from benchmarks.cold_start_runs import Run, differ, figures, pictures_of, table  # noqa: E402
from benchmarks.report import environment, write_report  # noqa: E402
from runtime.worker import WEIGHTS_MTIME, Device, Webui, Weights, Worker  # noqa: E402

OFFICIAL_FLAGS = [
    "--no-half-vae",
    "--skip-python-version-check",
    "--skip-torch-cuda-test",
    "--skip-install",
    "--disable-safe-unpickle",
    "--api",
    "--nowebui",
    "--skip-version-check",
    "--no-hashing",
    "--no-download-sd-model",
]
ATTENTION = {"sdp": ["--opt-sdp-attention"], "xformers": ["--xformers"], "none": []}
"""The official worker's flag, our manifests', and neither."""
CPU_FLAGS = ["--use-cpu", "all", "--no-half", "--precision", "full"]


class StartError(SystemExit):
    """A start that drew nothing; its text ends with the webui's last lines."""


def main() -> int:
    options = read_arguments()
    runs: list[Run] = []
    with (
        tempfile.TemporaryDirectory(prefix="cold-start-") as folder,
        read_ahead(options.webui, options.read_ahead_kib),
    ):
        for checkpoint in options.checkpoints:
            bench = Bench(options, checkpoint, Path(folder) / checkpoint.stem)
            runs += bench.run()
        described = describe(options)
    print(table(runs))
    write_report(
        options.json,
        figures=figures(runs),
        environment=described,
        runs=[asdict(run) for run in runs],
    )
    different = [each for each in {run.checkpoint for run in runs} if differ(runs, each)]
    for each in different:
        print(f"the pictures of {each} differ: {pictures_of(runs, each)}", file=sys.stderr)
    return 1 if different else 0


def read_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    options = parser.parse_args()
    if options.comfyui:
        options.variants += ",comfyui"
    return options


def make_parser(text: str | None, *, has_worker: bool = False) -> argparse.ArgumentParser:
    """The options of all that measures starts; `has_worker`: a worker file may say what to start."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--webui", type=Path, required=not has_worker, help="the webui's folder")
    parser.add_argument(
        "--python", type=Path, required=not has_worker, help="the webui's interpreter"
    )
    parser.add_argument("--handler-python", default=sys.executable)
    parser.add_argument("--comfyui", type=Path, help="ComfyUI's folder; adds its start")
    parser.add_argument(
        "--comfyui-python", type=Path, help="its interpreter", default=sys.executable
    )
    parser.add_argument("--hf-home", help="HF_HOME with the CLIP tokenizer")
    parser.add_argument("--rounds", type=int, default=5)
    # On a CPU, 512x512 in two steps takes 40 s and hides the start; a GPU draws it in less than a second.
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--size", type=int, default=64, help="side of the picture, in pixels")
    parser.add_argument("--port", type=int, default=3977)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--attention", choices=tuple(ATTENTION), default="sdp")
    parser.add_argument("--webui-args", default="", help="more flags of the webui, in every start")
    parser.add_argument("--start-timeout", type=float, default=900.0, help="of one start, s")
    parser.add_argument("--cache", default="cold,warm")
    parser.add_argument(
        "--read-ahead-kib", type=int, help="set the disk's for this run (as root), e.g. 128"
    )
    parser.add_argument(
        "--variants", default="official,all", help="official, or BAKERY_BOOT values (/ for ,)"
    )
    parser.add_argument("--json", type=Path)
    return parser


class Bench:
    """All runs with one checkpoint.

    Args:
        options: As `make_parser` reads them.
        checkpoint: A safetensors file.
        folder: A new one, for what belongs to these runs.
        worker: An image's own; left out, it is made from the options.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        checkpoint: Path,
        folder: Path,
        worker: Worker | None = None,
    ) -> None:
        self.options = options
        self.checkpoint = checkpoint.resolve()
        self.folder = folder
        self.harvest = folder / "harvest"
        folder.mkdir(parents=True)
        self.device: Device = options.device
        self.worker = worker or self._make_worker()
        (folder / "worker.json").write_text(self.worker.to_json())

    def run(self) -> Iterator[Run]:
        """Records a harvest, then gives each run as soon as it is measured."""
        print(f"{self.checkpoint.stem}: recording a harvest", file=sys.stderr)
        self.start("all", record=True)
        for cache, variant in self.turns():
            yield self.measure(cache, variant)

    def turns(self) -> Iterator[tuple[str, str]]:
        """Page cache and variant of each run, in a random order in every round, the same each time: in a regular one
        the machine's own changes of pace fall upon the same variant again and again."""
        variants = self.options.variants.split(",")
        order = random.Random(0)
        for _ in range(self.options.rounds):
            for cache in self.options.cache.split(","):
                for variant in order.sample(variants, len(variants)):
                    yield cache, variant

    def measure(self, cache: str, variant: str) -> Run:
        """One run, said in one line.

        Raises:
            StartError: it drew nothing.
        """
        drop_page_cache(self._files()) if cache == "cold" else self._warm()
        answer = self.start(variant.replace("/", ","))
        run = Run(checkpoint=self.checkpoint.stem, variant=variant, cache=cache, **answer)
        print(
            f"{run.checkpoint} {cache} {variant}: {run.first_picture_s:.2f} s, "
            f"cpu {run.webui_cpu_s:.1f} s, read {run.read_bytes / 1e6:.0f} MB",
            file=sys.stderr,
        )
        return run

    def _make_worker(self) -> Worker:
        os.utime(self.checkpoint, (WEIGHTS_MTIME, WEIGHTS_MTIME))
        with self.checkpoint.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        weights = Weights(
            role="checkpoint",
            name=self.checkpoint.stem,
            path=str(self.checkpoint),
            sha256=digest.hexdigest(),
            size_bytes=self.checkpoint.stat().st_size,
        )
        flags = [*OFFICIAL_FLAGS, *ATTENTION[self.options.attention]]
        flags += shlex.split(self.options.webui_args)
        webui = Webui(
            name="stable-diffusion-webui",
            version="1.9.3",
            revision="",
            directory=str(self.options.webui.resolve()),
            python=str(self.options.python.absolute()),
            script=str(self.options.webui.resolve() / "webui.py"),
            args=(*flags, "--port", str(self.options.port)),
            args_cpu=CPU_FLAGS,
            port=self.options.port,
        )
        return Worker(name="benchmark", family="sd15", webui=webui, weights=(weights,))

    def start(
        self, variant: str, *, record: bool = False, script: Path | None = None
    ) -> dict[str, Any]:
        """One start by a process of its own, as the worker is one; returns what it says.

        Args:
            variant: `official`, or a value of `BAKERY_BOOT`.
            record: Write the harvest that later starts use.
            script: Started in place of the webui's own, which it finds in `WEBUI_SCRIPT` (`benchmarks.gpu.attention`).

        Raises:
            StartError: it drew nothing.
        """
        way = variant if variant in ("official", "comfyui") else "ours"
        environment = {
            **os.environ,
            "BAKERY_BOOT": variant if way == "ours" else "plain",
            "BAKERY_DEVICE": self.device,
            "BAKERY_HARVEST": str(self.harvest),
            "BAKERY_WORKER_FILE": str(self.folder / "worker.json"),
            "BAKERY_TIMELINE": str(self.folder / "timeline.jsonl"),
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])
            ),
        }
        if self.options.hf_home:
            environment.update(HF_HOME=str(Path(self.options.hf_home).resolve()))
            environment.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
        if record:
            environment["BAKERY_RECORD"] = str(self.harvest)
        command = self.worker.command(self.device, boot=way == "ours")
        if script is not None:
            environment["WEBUI_SCRIPT"] = self.worker.webui.script
            environment["PROBE_FILE"] = str(self.folder / "probe.json")
            command[command.index(self.worker.webui.script)] = str(script)
        client = {
            "way": way,
            "command": command,
            "cwd": self.worker.webui.directory,
            "port": self.worker.webui.port,
            "payload": payload(self.options.steps, self.options.size),
            "record": record,
            "log": str(self.folder / "webui.log"),
            "start_timeout_s": self.options.start_timeout,
            "used_bytes": used_memory(),
        }
        if way == "comfyui":
            client.update(self._comfyui())
        handler = [self.options.handler_python, "-m", "benchmarks.cold_start_client"]
        client["began"] = time.monotonic()
        done = subprocess.run(
            [*handler, json.dumps(client)], env=environment, stdout=subprocess.PIPE, check=False
        )
        if done.returncode:
            log = (self.folder / "webui.log").read_text(errors="replace")
            raise StartError(f"{variant} did not draw; the webui's last lines:\n{log[-3000:]}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def _comfyui(self) -> dict[str, Any]:
        main = self.options.comfyui.resolve() / "main.py"
        python = str(self.options.comfyui_python.absolute())
        asked = payload(self.options.steps, self.options.size)
        return {
            "command": comfyui.command(
                [python, "-u", str(main)], self.worker.webui.port, self.folder, self.checkpoint
            ),
            "cwd": str(main.parent),
            "payload": comfyui.workflow(asked, self.checkpoint.name),
        }

    def _files(self) -> Iterator[Path]:
        yield self.checkpoint
        webui, peer = self.worker.webui, self.options.comfyui
        roots = [Path(webui.directory), Path(webui.python).parents[1]]
        if peer:
            roots += [peer, self.options.comfyui_python.absolute().parents[1]]
        for root in roots:
            yield from (path for path in root.rglob("*") if path.is_file())

    def _warm(self) -> None:
        with self.checkpoint.open("rb", buffering=0) as file:
            while file.read(16 << 20):
                pass


def payload(steps: int, size: int) -> dict[str, Any]:
    prompt = "portrait photo of an old fisherman, natural light"
    fixed = {"width": size, "height": size, "seed": 1, "sampler_name": "Euler", "cfg_scale": 7}
    # Live previews of SDXL would download a file at the first picture, which an install may lack.
    settings = {"live_previews_enable": False}
    return {"prompt": prompt, "steps": steps, "override_settings": settings, **fixed}


def drop_page_cache(files: Iterator[Path]) -> None:
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        for path in files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def describe(options: argparse.Namespace) -> dict[str, Any]:
    read_ahead = read_ahead_file(options.webui)
    return environment(
        read_ahead_kib=int(read_ahead.read_text()) if read_ahead else None,
        rounds=options.rounds,
        steps=options.steps,
        size=options.size,
        webui_python=subprocess.run(
            [options.python, "-V"], capture_output=True, text=True, check=True
        ).stdout.strip(),
    )


@contextlib.contextmanager
def read_ahead(path: Path, kib: int | None) -> Iterator[None]:
    """Sets the read-ahead of the disk with this path, and puts it back."""
    if kib is None:
        yield
        return
    file = read_ahead_file(path)
    if file is None:
        raise SystemExit(f"the disk of {path} has no read-ahead that could be set")
    before = file.read_text()
    file.write_text(str(kib))
    try:
        yield
    finally:
        file.write_text(before)


def read_ahead_file(path: Path) -> Path | None:
    """Where Linux keeps the read-ahead of the disk that holds this path; None where it has none."""
    device = path.stat().st_dev
    disk = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    for folder in (disk, disk.parent):  # a partition's is its disk's
        if (file := folder / "queue/read_ahead_kb").exists():
            return file
    return None


if __name__ == "__main__":
    sys.exit(main())
