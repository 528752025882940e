"""What the image benchmarks share: a base, models, our way and Docker's way of putting them together."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy

from bake.console import Console
from bake.image.final.assemble import ImageConfig, assemble
from bake.image.oci.layers import make_tree_layer
from bake.image.oci.model import Descriptor, FileContent
from bake.image.oci.reference import parse_reference
from bake.image.oci.streamed import StreamedFile, StreamedLayer
from bake.image.registry.client import RegistryClient
from bake.image.registry.credentials import Credentials
from bake.image.registry.push import push_image, push_stream
from bake.image.source import read_from_registry

ROOT = Path(__file__).parents[1]
MODEL = PurePosixPath("/models/model.safetensors")
DOCKERFILE = """\
FROM {base}
COPY model.safetensors /model.safetensors
COPY src /src
CMD ["/src/start.sh"]
"""
"""The official worker's layout (runpod-workers/worker-a1111): base, the model, the code."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One run of one contestant."""

    seconds: float
    wire_bytes: int
    """Bodies sent to the registry."""
    written_mib: float
    """What our process, or the engine's daemons, wrote to disk; the registry's own writes aside."""
    peak_mib: float
    """Of our process; 0 for Docker, whose memory is its daemon's."""


def docker(*arguments: str) -> str:
    """Runs the docker command; ends the benchmark where it fails."""
    ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"docker {arguments[0]} failed: {ended.stderr[-2000:]}")
    return ended.stdout.strip()


def has_containerd_store() -> bool:
    """Whether the engine that DOCKER_HOST names keeps images in containerd, not in Docker's classic store."""
    return "io.containerd.snapshotter" in docker("info", "--format", "{{json .DriverStatus}}")


def can_start_engines() -> bool:
    """Only root on Debian or Ubuntu can have a private engine beside the one that is there."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def prepare_engine(folder: Path, *, containerd_store: bool = True) -> dict[str, str]:
    """The environment in which demo/engine's scripts are about a private engine of their own in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = ROOT / ".engine" / "root"
    if unpacked.is_dir():  # spares a download
        target = str(folder / "root")
        # Links need no space, but the same disk.
        linked = subprocess.run(["cp", "-al", unpacked, target], capture_output=True, check=False)
        if linked.returncode:
            shutil.rmtree(target, ignore_errors=True)
            subprocess.run(["cp", "-a", unpacked, target], check=True)
        (folder / "unpacked").touch()
    settings = {
        **os.environ,
        "ENGINE_DIR": str(folder),
        "ENGINE_CONTAINERD_STORE": json.dumps(containerd_store),
        "ENGINE_PRIVATE": "1",
    }
    settings.pop("ENGINE_REGISTRY_PORT", None)  # that is the other engine's
    return settings


@contextmanager
def private_engine(folder: Path, *, containerd_store: bool) -> Iterator[str]:
    """A new engine that has nothing yet, in `folder`; gives its DOCKER_HOST and ends with the block.

    Raises:
        RuntimeError: It did not start; with the script's last words.
    """
    settings = prepare_engine(folder, containerd_store=containerd_store)
    scripts = ROOT / "demo" / "engine"
    started = subprocess.run(
        [scripts / "start"], env=settings, capture_output=True, text=True, check=False
    )
    if started.returncode:
        raise RuntimeError(f"no private engine: {started.stderr[-2000:]}")
    try:
        yield f"unix://{folder}/docker.sock"
    finally:
        subprocess.run([scripts / "stop"], env=settings, capture_output=True, check=False)


def write_weights(path: Path, size_bytes: int) -> str:
    """Random fp16 weights: gzip takes 8% off them, and is as slow as with real ones. Returns the SHA256.

    Random *bytes* would not do: gzip stores them as they are, and is quick.
    """
    hashed = hashlib.sha256()
    noise = numpy.random.default_rng()
    with path.open("wb") as file:
        left = size_bytes
        while left:
            count = min(left, 8 << 20) // 2
            piece = (noise.standard_normal(count, numpy.float32) * 0.02).astype("<f2").tobytes()
            hashed.update(piece)
            file.write(piece)
            left -= len(piece)
        # else the contestants would pay for writing the file that they are given
        os.fsync(file.fileno())
    return hashed.hexdigest()


def make_base(reference: str, size_bytes: int, folder: Path) -> None:
    """Imports a base of `size_bytes` with a shell in it, and pushes it."""
    tree = folder / "base.tar"
    with tarfile.open(tree, "w") as tar:
        needed = {"/bin/dash"}
        listed = subprocess.run(["ldd", "/bin/dash"], capture_output=True, text=True, check=True)
        needed |= {word for word in listed.stdout.split() if word.startswith("/")}
        for path in sorted(needed):
            tar.add(os.path.realpath(path), arcname=path)
        entry = tarfile.TarInfo("opt/base")
        entry.size = size_bytes
        tar.addfile(entry, io.BytesIO(os.urandom(size_bytes)))
    docker("import", str(tree), reference)
    docker("push", "--quiet", reference)
    tree.unlink()


def push_ours(base: str, target: str, model: Path, sha256: str, code: str, work: Path) -> Cost:
    """Our way, in a process of its own: from a file of the store to the registry."""
    before = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.images", base, target, str(model), sha256, code, str(work)]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    told = json.loads(ended.stdout)
    return Cost(seconds=time.monotonic() - before, **told)


def push_with_docker(base: str, target: str, model: Path, code: str, work: Path) -> Cost:
    """Docker's way: `docker build`, `docker push`."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "src").mkdir(exist_ok=True)
    (work / "src" / "start.sh").write_text(f"#!/bin/sh\necho {code}\n")
    (work / "Dockerfile").write_text(DOCKERFILE.format(base=base))
    link = work / "model.safetensors"
    link.unlink(missing_ok=True)
    link.hardlink_to(model)
    old = layer_sizes(target)
    written = written_by_daemons()
    began = time.monotonic()
    docker("build", "--quiet", "--provenance=false", "--tag", target, str(work))
    docker("push", "--quiet", target)
    seconds = time.monotonic() - began
    new = layer_sizes(target)
    return Cost(
        seconds=seconds,
        wire_bytes=sum(size for digest, size in new.items() if digest not in old),
        written_mib=(written_by_daemons() - written) / 2**20,
        peak_mib=0,
    )


def layer_sizes(reference: str) -> dict[str, int]:
    """The layers of an image in its registry; none where there is no such image."""
    target = parse_reference(reference)
    with RegistryClient(target.host, credentials=Credentials()) as client:
        if client.manifest_digest(target) is None:
            return {}
        manifest = json.loads(client.get_manifest(target)[0])
    return {layer["digest"]: layer["size"] for layer in manifest["layers"]}


def written_by_daemons() -> int:
    """Bytes that dockerd and its containerd have written to disk; 0 where they are not to be seen."""
    total = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            program = (path / "exe").readlink().name
            environment = os.environ.get("DOCKER_HOST", "").removeprefix("unix://")
            own = str(Path(environment).parent) in (path / "cmdline").read_text()
            if program in ("dockerd", "containerd") and own:
                total += _written((path / "io").read_text())
        except OSError:
            continue
    return total


def _written(text: str) -> int:
    return int(
        next(line for line in text.splitlines() if line.startswith("write_bytes")).split()[1]
    )


def test_registry() -> str:
    """HOST:PORT of the registry beside the engine."""
    registry = os.environ.get("BAKE_TEST_REGISTRY")
    if registry is None:
        raise SystemExit(
            'BAKE_TEST_REGISTRY is not set: run demo/engine/start, then eval "$(demo/engine/env)"'
        )
    return registry


def machine() -> str:
    """For tables: what it was measured on."""
    version = docker("version", "--format", "{{.Server.Version}}")
    driver = docker("info", "--format", "{{.Driver}}")
    return f"{os.cpu_count()} cores, {platform.release()}, Engine {version} ({driver})"


def show(title: str, rows: Sequence[tuple[str, Cost]]) -> None:
    """Prints a table for people."""
    print(f"\n{title}")
    for name, cost in rows:
        print(
            f"  {name:<28}{cost.seconds:>8.2f} s{cost.wire_bytes / 2**20:>10.2f} MiB on the wire"
            f"{cost.written_mib:>10.1f} MiB written{cost.peak_mib:>8.0f} MiB memory"
        )


def _assemble_and_push(arguments: Sequence[str]) -> None:
    base, target, model, sha256, code, work = arguments
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    file = StreamedFile(
        path=MODEL,
        size_bytes=Path(model).stat().st_size,
        sha256=sha256,
        open_at=FileContent(path=Path(model)).chunks,
        is_proven=True,
    )
    stream = StreamedLayer(files=[file])
    with tarfile.open(folder / "thin.tar", "w") as tar:
        data = f"#!/bin/sh\necho {code}\n".encode()
        entry = tarfile.TarInfo("src/start.sh")
        entry.size, entry.mode = len(data), 0o755
        tar.addfile(entry, io.BytesIO(data))
    thin = make_tree_layer(folder / "thin.tar", folder / "thin.tar.gz")
    reference = parse_reference(base)
    with RegistryClient(reference.host, credentials=Credentials()) as client:
        found = read_from_registry(client, reference)
        known = folder / f"{sha256}.json"
        if known.exists():  # as a bake knows the layers of its last image
            weights, sent = Descriptor.from_json(json.loads(known.read_text())), 0
        else:
            weights = push_stream(stream, target, console=Console(quiet=True), client=client)
            sent = weights.size_bytes
            known.write_text(json.dumps(weights.as_json()))
        image = assemble(
            found,
            layers=[stream.as_layer(weights), thin.as_layer("the code")],
            config=ImageConfig(entrypoint=["/bin/dash", "/src/start.sh"]),
        )
        report = push_image(image, target, console=Console(quiet=True), client=client)
    told = {
        "wire_bytes": report.sent_bytes + sent,
        "written_mib": _written(Path("/proc/self/io").read_text()) / 2**20,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(told))


def as_json(rows: Sequence[tuple[str, Cost]]) -> list[dict[str, object]]:
    """For `--json`."""
    return [{"name": name, **asdict(cost)} for name, cost in rows]


if __name__ == "__main__":
    _assemble_and_push(sys.argv[1:])
