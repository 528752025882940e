"""A builder's machine: one build folder, one store, one manifest, and `bake` as a process."""

import base64
import functools
import io
import json
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from tests.integration.conftest import ROOT, RUN, run

BAKE = Path(sys.executable).with_name("bake")
"""Of the environment that runs the tests."""
REPOSITORY = f"bakery-test-{RUN}"
Events = list[dict[str, Any]]
_KILLED = """
import os, sys, threading
from bake.cli import main
from bake.console import Console

_, step, number, *arguments = sys.argv
sys.argv = ["bake", *arguments]
said = Console.event

def event(console, name, **fields):
    said(console, name, **fields)
    if (name, fields.get("step")) == ("step.began", step):
        threading.Timer(0.02, os.kill, (os.getpid(), int(number))).start()

Console.event = event
main()
"""
"""Who sends the signal stands still when the bake does: a test that waits for the step may come after its end."""


@dataclass(frozen=True, kw_only=True)
class Bakery:
    """One build folder, one store, one manifest: a builder's machine."""

    manifest: Path
    build: Path
    environment: Mapping[str, str] = field(repr=False)

    def command(self, *arguments: str) -> list[str]:
        return [str(BAKE), *arguments, str(self.manifest), "--build-dir", str(self.build)]

    def bake(self, *arguments: str) -> Events:
        ended = run(
            *self.command("image", "--json", *arguments), env=self.environment, timeout_s=900
        )
        assert ended.returncode == 0, ended.stderr + ended.stdout[-3000:]
        return [json.loads(line) for line in ended.stdout.splitlines()]

    def fails(self, *arguments: str) -> tuple[int, str]:
        """The exit status of a bake that must fail, and what it says."""
        ended = run(*self.command("image", *arguments), env=self.environment, timeout_s=900)
        assert ended.returncode != 0, ended.stdout
        return ended.returncode, ended.stderr

    def kill_in_step(self, step: str, number: signal.Signals, *arguments: str) -> int:
        """A bake that gets a signal a moment after `step` has begun. Returns its status."""
        # A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
        python = [
            "env",
            "--default-signal=INT",
            sys.executable,
            "-c",
            _KILLED,
            step,
            str(int(number)),
        ]
        command = self.command("image", "--json", *arguments)[1:]
        ended = run(*python, *command, env=self.environment, timeout_s=900)
        assert ended.returncode != 0, f"the step {step} never began: {ended.stdout}"
        return ended.returncode

    def copy(self, folder: Path) -> "Bakery":
        """Another builder's machine that has done the same so far; the store is shared."""
        manifest = folder / self.manifest.name
        for name in (self.manifest, self.manifest.with_suffix(".lock.json")):
            shutil.copy2(name, folder)
        copy_build(self.build / "demo", folder / "build" / "demo")
        return Bakery(manifest=manifest, build=folder / "build", environment=self.environment)

    def containers(self) -> str:
        listed = run(
            "docker", "ps", "--all", "--quiet", "--filter", f"label=bakery.run={self.build}/demo",
            env=self.environment,
        )  # fmt: skip
        assert listed.returncode == 0, listed.stderr
        return listed.stdout


@functools.cache
def weights_server() -> str:
    """Serves the demo's weights over HTTP until the tests end; it answers 200 to a Range."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(ROOT / "demo" / "weights"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def make_bakery(
    folder: Path, engine: Mapping[str, str], slim_image: str, *, name: str = REPOSITORY
) -> Bakery:
    """The demo with one file from the repository and one over HTTP; `name` is that of its images."""
    text = (ROOT / "manifests" / "demo.yaml").read_text()
    lora = "file:../demo/weights/outline.safetensors"
    assert lora in text
    text = text.replace(lora, f"{weights_server()}/outline.safetensors")
    text = text.replace("../demo/", f"{ROOT}/demo/")
    assert "/bakery-demo" in text
    text = text.replace("/bakery-demo", f"/{name}")
    manifest = folder / "demo.yaml"
    manifest.write_text(text)
    return Bakery(
        manifest=manifest,
        build=folder / "build",
        environment={
            **engine,
            "BAKE_STORE": str(folder / "store"),
            "BAKE_BUILD_ARGS": f"PYTHON_IMAGE={slim_image}",
        },
    )


@contextmanager
def making_bakery(
    folder: Path, engine: Mapping[str, str], slim_image: str, *, name: str = REPOSITORY
) -> Iterator[Bakery]:
    """As `make_bakery`; its images are removed at the end."""
    yield make_bakery(folder, engine, slim_image, name=name)
    remove_images(engine, f"127.0.0.1:5005/{name}")


def copy_build(source: Path, target: Path) -> None:
    """A build folder at another place, with that place's name in its records."""
    shutil.copytree(source, target)
    for path in target.rglob("*.json"):
        path.write_text(path.read_text().replace(str(source), str(target)))


def remove_images(engine: Mapping[str, str], repository: str) -> None:
    """Takes a repository's images out of the engine, by their names: another's may be of the same bytes."""
    shown = "{{.Repository}}:{{.Tag}}"
    listed = run("docker", "images", "--format", shown, repository, env=engine)
    for image in listed.stdout.split():
        run("docker", "image", "rm", "--force", image, env=engine)


def began(events: Events) -> list[str]:
    return [event["step"] for event in events if event["event"] == "step.began"]


def digest_of(events: Events) -> str:
    return str(next(event["digest"] for event in events if event["event"] == "image"))


def draw(bakery: Bakery, reference: str, prompt: str, folder: Path) -> bytes:
    """The picture that a container with no network answers with."""
    folder.mkdir()
    job = json.dumps({"input": {"prompt": prompt, "seed": 1}})
    ended = run(
        "docker", "run", "--rm", "--network", "none", "--volume", f"{folder}:/out",
        "--env", "BAKERY_TEST_OUTPUT=/out/output.json", reference, "--test_input", job,
        env=bakery.environment,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    output = json.loads((folder / "output.json").read_text())
    return base64.b64decode(output["images"][0])


def dominant(png: bytes, *, at: tuple[float, float]) -> tuple[int, int, int]:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    x, y = int(image.width * at[0]), int(image.height * at[1])
    box = image.crop((x - 8, y - 8, x + 8, y + 8)).resize((1, 1))
    pixel = box.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel[0], pixel[1], pixel[2]
