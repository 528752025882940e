"""A real registry: the private engine's, or the upstream image's in whatever engine answers; images for it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import requests

from bake.console import Console
from bake.image.final.assemble import ImageConfig, assemble
from bake.image.oci.layers import PlacedFile, make_weights_layer
from bake.image.oci.model import (
    GZIP_LAYER,
    BytesContent,
    Descriptor,
    Image,
    Layer,
    canonical_json,
    make_manifest,
    sha256_digest,
)
from bake.image.oci.reference import parse_reference
from bake.image.registry.client import RegistryClient
from bake.image.registry.credentials import Credentials
from bake.image.registry.push import PushReport, push_image
from bake.image.registry.transport import RegistryOptions
from runtime.retry import Retry
from tests.integration.conftest import run
from tests.integration.demo_case import wait_until

IMAGE = "registry:2.8.3"
QUICK = RegistryOptions(retry=Retry(attempts=4, backoff_s=0.005), parallel=2)
CONSOLE = Console(quiet=True)


@contextmanager
def running_registry(engine: Mapping[str, str]) -> Iterator[str]:
    """host:port of a registry on loopback.

    Args:
        engine: The environment in which `docker` reaches an engine.
    """
    if "BAKE_TEST_REGISTRY" in engine:
        yield engine["BAKE_TEST_REGISTRY"]
        return
    started = run(
        "docker", "run", "--detach", "--publish", "127.0.0.1::5000", IMAGE, env=engine
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    container = started.stdout.strip()
    try:
        host = run("docker", "port", container, "5000/tcp", env=engine).stdout.split()[0]
        wait_until(lambda: _answers(host))
        yield host
    finally:
        run("docker", "rm", "--force", "--volumes", container, env=engine)


def _answers(host: str) -> bool:
    try:
        return requests.get(f"http://{host}/v2/", timeout=60).ok
    except requests.RequestException:
        return False


def make_base_image(seed: int = 1) -> Image:
    tree = random.Random(seed).randbytes(2000)
    base_layer = Layer(
        descriptor=Descriptor(
            media_type=GZIP_LAYER, digest=sha256_digest(tree), size_bytes=len(tree)
        ),
        diff_id=sha256_digest(tree),
        kind="base",
        content=BytesContent(data=tree),
    )
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"diff_ids": [base_layer.diff_id]},
    }
    config_json = canonical_json(config)
    return Image(
        name="base",
        manifest_json=make_manifest(config_json, [base_layer.descriptor]),
        config_json=config_json,
        layers=(base_layer,),
    )


def make_image(folder: Path, *, seed: int = 1, size_bytes: int = 300_000) -> Image:
    """An image of a small base and one weights layer."""
    noise = random.Random(seed + 100)
    source = folder / f"weights-{seed}"
    source.write_bytes(noise.randbytes(size_bytes))
    placed = PlacedFile(
        path=PurePosixPath("/models/weights.safetensors"),
        source=source,
        size_bytes=size_bytes,
        sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
    )
    return assemble(
        make_base_image(seed),
        layers=[make_weights_layer([placed]).as_layer()],
        config=ImageConfig(entrypoint=["/worker"]),
    )


def push(
    image: Image,
    reference: str,
    *,
    options: RegistryOptions = QUICK,
    credentials: Credentials | None = None,
) -> PushReport:
    host = parse_reference(reference).host
    client = RegistryClient(host, options=options, credentials=credentials or Credentials())
    return push_image(image, reference, console=CONSOLE, client=client)


def fetch_and_compare(image: Image, reference: str) -> None:
    """Every byte of the image as the real registry has it."""
    target = parse_reference(reference)
    with RegistryClient(target.host, options=QUICK, credentials=Credentials()) as client:
        assert client.get_manifest(target) == (image.manifest_json, image.digest)
        for layer in image.layers:
            content = b"".join(client.blob_content(target.repository, layer.digest).chunks())
            assert sha256_digest(content) == layer.digest
        assert client.get_small_blob(target.repository, image.config_digest) == image.config_json


def tag_digest(reference: str) -> str | None:
    target = parse_reference(reference)
    with RegistryClient(target.host, options=QUICK, credentials=Credentials()) as client:
        return client.manifest_digest(target)
