"""Engines with either store take our images, only new layers travel, and other tools agree on them."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import os
import random
import struct
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from bake.console import Console
from bake.errors import BuildError
from bake.image.engine import load
from bake.image.engine import probe as engine_probe
from bake.image.engine.archive import Archive, list_present
from bake.image.engine.docker import Engine
from bake.image.engine.load import load_image
from bake.image.engine.probe import probe_engine
from bake.image.final.assemble import ImageConfig, assemble
from bake.image.kept import Kept
from bake.image.layout import write_layout
from bake.image.oci.layers import PlacedFile, make_tree_layer, make_weights_layer
from bake.image.oci.model import Image, Layer
from bake.image.oci.reference import parse_reference
from bake.image.registry.client import RegistryClient
from bake.image.registry.credentials import Credentials
from bake.image.registry.push import push_image
from bake.image.registry.transport import RegistryOptions
from bake.image.saved import load_saved_image, save_image
from bake.image.source import read_from_engine, read_from_registry
from bake.image.verify.image import verify_image
from bake.image.verify.secrets import SecretScanner
from bake.image.verify.worker import read_worker, verify_worker
from bake.lock import Lock
from bake.plan.state import BuildFolder
from bake.plan.step import pinned_weights
from benchmarks.images import can_start_engines
from runtime.retry import Retry
from runtime.worker import WORKER_FILE, Webui, Weights, Worker
from tests.integration.bakery_case import BAKE
from tests.integration.conftest import RUN, need_program, run
from tests.unit.test_verify import make_lock

CONSOLE = Console(quiet=True)
CONTENT = b"these are the weights\n" * 1000
PATH = "/models/a.safetensors"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f"img-load-{RUN}"


@dataclass(frozen=True, kw_only=True)
class Running:
    """An engine, entered, with a small base image in it."""

    engine: Engine
    environment: Mapping[str, str]
    base: str
    has_containerd_store: bool

    def docker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run("docker", *arguments, env=self.environment)

    def output(self, image: str, *command: str) -> str:
        ended = self.docker("run", "--rm", "--network", "none", image, *command)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


ENGINES = ["given", "classic"] if can_start_engines() else ["given"]


@pytest.fixture(scope="module", params=ENGINES)
def running(
    request: pytest.FixtureRequest, engine: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    environment = engine if request.param == "given" else request.getfixturevalue("classic")
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        with Engine(CONSOLE) as entered:
            tree = tmp_path_factory.mktemp("base") / "base.tar"
            write_base_tree(tree)
            name = f"{NAME}-base:1"
            entered.client.api.import_image_from_file(str(tree), repository=NAME + "-base", tag="1")
            driver = json.dumps(entered.client.info().get("DriverStatus"))
            yield Running(
                engine=entered,
                environment=environment,
                base=name,
                has_containerd_store="io.containerd.snapshotter" in driver,
            )
            for image in list_present(entered):
                for tag in image.tags:
                    if NAME in tag:
                        entered.client.images.remove(tag, force=True)
    finally:
        os.environ.clear()
        os.environ.update(before)


def write_base_tree(path: Path) -> None:
    """A root with a shell and `cat`, and the libraries that they need, from this machine; no other run has it."""
    with tarfile.open(path, "w") as tar:
        needed = set()
        for program in ("/bin/cat", "/bin/dash"):
            tar.add(os.path.realpath(program), arcname=program)
            listed = run("ldd", program).stdout
            needed |= {word for word in listed.split() if word.startswith("/")}
        for library in sorted(needed):
            tar.add(os.path.realpath(library), arcname=library)
        own = tarfile.TarInfo("run")
        own.size = len(RUN)
        tar.addfile(own, io.BytesIO(RUN.encode()))


def make_worker() -> Worker:
    webui = Webui(name="demo", version="1", revision="r", directory="/", python="/p", script="/s")
    weights = Weights(
        role="checkpoint", name="a", path=PATH, sha256=SHA256, size_bytes=len(CONTENT)
    )
    return Worker(name="demo", family="demo", webui=webui, weights=(weights,))


def make_image(
    base: Image,
    folder: Path,
    *,
    thin: bytes = b"1",
    entrypoint: tuple[str, ...] = ("/bin/cat",),
) -> Image:
    folder.mkdir(exist_ok=True)
    source = folder / "weights"
    source.write_bytes(CONTENT)
    placed = PlacedFile(
        path=PurePosixPath(PATH), source=source, size_bytes=len(CONTENT), sha256=SHA256
    )
    files = {
        WORKER_FILE: make_worker().to_json().encode(),
        "/opt/bakery/thin": thin,
        "/opt/bakery/output.json": make_output(),
    }
    with tarfile.open(folder / "thin.tar", "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    thin_layer = make_tree_layer(folder / "thin.tar", folder / "thin.tar.gz")
    return assemble(
        base,
        layers=[make_weights_layer([placed]).as_layer(), thin_layer.as_layer("the runtime")],
        config=ImageConfig(
            entrypoint=entrypoint,
            env={"A": "b"},
            labels={"bakery.lock": make_lock(SHA256).to_json()},
        ),
        annotations={"org.opencontainers.image.title": "demo"},
    )


def make_output() -> bytes:
    """What a worker writes after a job: a noisy PNG of 16x16 with the checkpoint's hash in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + random.Random(row).randbytes(48) for row in range(16))
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
        + chunk(b"tEXt", b"parameters\0a\nSteps: 1, Model hash: " + SHA256[:10].encode())
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return json.dumps({"images": [base64.b64encode(png).decode()], "bakery": {}}).encode() + b"\n"


def test_an_engine_names_its_blobs_without_its_layers(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = running.engine
    image_id = str(engine.image_id(running.base))
    tags = engine.client.images.get(image_id).tags
    archive = Archive(image_id=image_id)
    assert probe_engine(engine, archive) == running.has_containerd_store
    assert engine.client.images.get(image_id).tags == tags, "the probe has left a name behind"
    probed = read_from_engine(engine, running.base)
    # a registry that takes nothing: the push fails, and `docker save` says the same
    monkeypatch.setattr(engine_probe, "_LARGEST_BYTES", 0)
    assert not probe_engine(engine, Archive(image_id=image_id))
    assert read_from_engine(engine, running.base) == probed
    assert engine.client.images.get(image_id).tags == tags


def test_an_image_is_loaded_and_run_and_only_new_layers_travel(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = read_from_engine(running.engine, running.base, kept=Kept(tmp_path))
    assert read_from_engine(running.engine, running.base, kept=Kept(tmp_path)) == base
    image = make_image(base, tmp_path / "1")
    sent: list[str] = []
    member = load._layer_member

    def counted(layer: Layer) -> Iterator[bytes]:
        sent.append(layer.comment)
        return member(layer)

    monkeypatch.setattr(load, "_layer_member", counted)
    identity = load_image(image, running.engine, f"{NAME}:1")
    expected = image.digest if running.has_containerd_store else image.config_digest
    assert identity == expected
    assert sent == [PATH, "the runtime"]
    assert running.output(f"{NAME}:1", PATH) == CONTENT.decode()

    edited = make_image(base, tmp_path / "2", thin=b"2")
    sent.clear()
    load_image(edited, running.engine, f"{NAME}:2")
    assert sent == ["the runtime"], "the weights travelled again for an edit of the runtime"
    assert running.output(f"{NAME}:2", "/opt/bakery/thin") == "2"
    sent.clear()
    load_image(edited, running.engine, f"{NAME}:2")
    load_image(edited, running.engine, f"{NAME}:3")
    assert sent == []


def test_a_loaded_image_can_be_saved_pushed_and_pulled_by_docker(
    running: Running, registry: str, tmp_path: Path
) -> None:
    """A layer that was left out would be missed here."""
    base = read_from_engine(running.engine, running.base)
    image = make_image(base, tmp_path / "1", thin=os.urandom(8))
    reference = f"{registry}/img-test/{NAME}-docker:1"
    load_image(image, running.engine, reference)
    again = read_from_engine(running.engine, reference)
    assert [layer.diff_id for layer in again.layers] == [layer.diff_id for layer in image.layers]
    pushed = running.docker("push", reference)
    assert pushed.returncode == 0, pushed.stderr
    with RegistryClient(registry, credentials=Credentials()) as client:
        digest = client.manifest_digest(parse_reference(reference))
    if running.has_containerd_store:
        assert digest == image.digest


def test_an_image_that_we_pushed_is_pulled_and_run_by_docker(
    running: Running, registry: str, tmp_path: Path
) -> None:
    base = read_from_engine(running.engine, running.base)
    image = make_image(base, tmp_path / "1", thin=os.urandom(8))
    reference = f"{registry}/img-test/{NAME}-pull:1"
    save_image(image, tmp_path / "1")
    # as `bake push` does it, which has no engine at hand until a blob of the base is missing
    push_image(load_saved_image(tmp_path / "1"), reference, console=CONSOLE)
    pulled = running.docker("pull", "--quiet", reference)
    assert pulled.returncode == 0, pulled.stderr
    assert running.output(reference, PATH) == CONTENT.decode()
    found = json.loads(running.docker("image", "inspect", reference).stdout)[0]
    assert found["RepoDigests"] == [f"{reference.removesuffix(':1')}@{image.digest}"]


def test_two_machines_assemble_the_same_image(running: Running, tmp_path: Path) -> None:
    base = read_from_engine(running.engine, running.base)
    first, second = make_image(base, tmp_path / "1"), make_image(base, tmp_path / "2")
    os.utime(tmp_path / "2" / "weights", (1, 1))
    assert first.digest == second.digest


def test_an_image_is_verified_where_it_is(running: Running, registry: str, tmp_path: Path) -> None:
    base = read_from_engine(running.engine, running.base)
    image = make_image(base, tmp_path / "1")
    reference = f"{registry}/img-test/{NAME}-verify:1"
    load_image(image, running.engine, reference)
    push_image(image, reference, console=CONSOLE)
    with RegistryClient(registry, credentials=Credentials()) as client:
        found = read_from_registry(client, parse_reference(reference))
        subjects = [
            image,
            found,
            read_from_engine(running.engine, reference),
        ]
        for subject in subjects:
            verdict = verify_image(subject, name="x", console=CONSOLE, scanner=SecretScanner())
            assert verdict.is_good, verdict.as_json()
            assert verdict.read_bytes < image.size_bytes, "the base was read"
    assert subjects[1].digest == image.digest

    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "Dockerfile").write_text(
        f"FROM {reference}\nCOPY a.safetensors /models/a.safetensors\n"
    )
    (tmp_path / "2" / "a.safetensors").write_bytes(CONTENT)
    bad = f"{NAME}-bad:1"
    built = running.docker("buildx", "build", "--load", "--tag", bad, str(tmp_path / "2"))
    assert built.returncode == 0, built.stderr
    verdict = verify_image(
        read_from_engine(running.engine, bad),
        name=bad,
        console=CONSOLE,
        scanner=SecretScanner(),
    )
    errors = {check.name: check.message for check in verdict.checks if check.severity == "error"}
    assert "writes it again" in errors["untouched checkpoint a"]


def test_the_commands_push_verify_and_inspect_a_build_folder(
    running: Running, registry: str, tmp_path: Path
) -> None:
    base = read_from_engine(running.engine, running.base)
    image = make_image(base, tmp_path / "1", thin=os.urandom(8))
    folder = str(tmp_path / "1")
    save_image(image, tmp_path / "1")
    reference = f"{registry}/img-test/{NAME}-commands:1"

    def bake(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(BAKE, *arguments, env=running.environment)

    nowhere = bake("push", folder)
    assert nowhere.returncode == 2
    assert f"bake push {folder} registry/name:tag" in nowhere.stderr
    pushed = bake("push", folder, reference)
    assert pushed.returncode == 0, pushed.stderr
    assert f"{reference}@{image.digest}" in pushed.stdout
    assert PATH in pushed.stdout
    events = [
        json.loads(line) for line in bake("push", folder, reference, "--json").stdout.splitlines()
    ]
    report = next(event for event in events if event["event"] == "pushed")
    assert report["sent_bytes"] == 0
    assert {layer["how"] for layer in report["layers"]} == {"present"}

    verified = bake("verify", reference, "--registry", "--json")
    verdict = json.loads(verified.stdout.splitlines()[-1])
    assert (verified.returncode, verdict["verdict"]) == (0, "good"), verified.stderr
    assert verdict["digest"] == image.digest
    not_started = [check for check in verdict["checks"] if check["name"] == "worker"]
    assert not_started[0]["severity"] == "warning"
    other = Lock(manifest_name="demo", family="demo", pins=())
    (tmp_path / "other.lock.json").write_text(other.to_json())
    refused = bake("verify", folder, "--lock", str(tmp_path / "other.lock.json"))
    assert refused.returncode == 6
    assert "lock: checkpoint a is not in the lock" in refused.stdout
    assert "1 check(s) failed: lock" in refused.stderr

    inspected = bake("inspect", reference)
    assert inspected.returncode == 0, inspected.stderr
    assert f"digest   {image.digest}" in inspected.stdout

    layout = f"oci:{tmp_path / 'layout'}:a"
    assert bake("push", folder, layout).returncode == 0
    verified = bake("verify", layout)
    assert (verified.returncode, f"{layout} is good" in verified.stdout) == (0, True), verified
    assert f"digest   {image.digest}" in bake("inspect", layout).stdout
    other_tag = bake("verify", f"oci:{tmp_path / 'layout'}:b", "--json")
    verdict = json.loads(other_tag.stdout.splitlines()[-1])
    assert (other_tag.returncode, verdict["verdict"]) == (6, "bad")
    assert "the layout has no image of the tag b" in verdict["checks"][0]["message"]
    assert verdict["checks"][0]["remedy"] == "it has a"
    for command in ("verify", "inspect"):
        nonsense = bake(command, "Not:A:Reference")
        assert nonsense.returncode == 2
        assert "is not an image reference" in nonsense.stderr
    nowhere = bake("inspect", "--engine", "Not:A:Reference")
    assert (nowhere.returncode, "the engine has no such image" in nowhere.stderr) == (5, True)

    missing = bake("inspect", f"{reference}-none")
    assert missing.returncode == 7
    assert "the registry has no such image" in missing.stderr


def test_a_push_of_a_manifest_is_known_to_the_next_plan(
    running: Running, registry: str, tmp_path: Path
) -> None:
    folder = tmp_path / "build" / "demo"
    folder.parent.mkdir()
    image = make_image(read_from_engine(running.engine, running.base), folder)
    save_image(image, folder)
    repository = f"{registry}/img-test/{NAME}-noted"
    manifest = tmp_path / "demo.yaml"
    manifest.write_text(
        f"name: demo\nfamily: demo\ncheckpoint: file:a.safetensors\nwarmup: {{prompt: x}}\nimage: {repository}\n"
    )

    def push(*arguments: str) -> dict[str, str] | None:
        command = ("push", str(manifest), *arguments, "--build-dir", str(folder.parent))
        pushed = run(BAKE, *command, env=running.environment)
        assert pushed.returncode == 0, pushed.stderr
        record = BuildFolder(folder).record("push")
        return record.document if record else None

    assert push(f"{repository}-other:1") is None
    assert push() == {"repository": repository, **pinned_weights(make_lock(SHA256))}


JOB = {"prompt": "x", "width": 16, "height": 16, "steps": 1}
ANSWERS = (
    'while read -r line; do echo "$line"; done < /opt/bakery/output.json > $BAKERY_TEST_OUTPUT'
)


def test_a_worker_is_tried_without_network_and_leaves_no_container(
    running: Running, tmp_path: Path
) -> None:
    base = read_from_engine(running.engine, running.base)
    worker = make_worker()
    good = make_image(base, tmp_path / "1", entrypoint=("/bin/dash", "-c", ANSWERS))
    load_image(good, running.engine, f"{NAME}:good")
    mark = f"{NAME}-trial"
    trial = verify_worker(
        running.engine, f"{NAME}:good", worker=worker, job=JOB, run=mark, device="cpu"
    )
    assert trial.check.severity == "ok", trial.check.message
    assert "started with no network and served a picture" in trial.check.message
    assert trial.picture.startswith(b"\x89PNG")
    assert read_worker(running.engine, f"{NAME}:good").to_json() == worker.to_json()

    wrong_size = verify_worker(
        running.engine,
        f"{NAME}:good",
        worker=worker,
        job={**JOB, "width": 32},
        run=mark,
        device="cpu",
    )
    assert "the picture is 16x16, not 32x16" in wrong_size.check.message

    silent = make_image(
        base, tmp_path / "2", entrypoint=("/bin/dash", "-c", "echo last words; exit 3")
    )
    load_image(silent, running.engine, f"{NAME}:silent")
    failed = verify_worker(
        running.engine, f"{NAME}:silent", worker=worker, job=JOB, run=mark, device="cpu"
    )
    assert failed.check.severity == "error"
    assert failed.check.message.startswith("the worker ended with status 3 and without output")
    assert "last words" in failed.check.message
    endless = make_image(
        base, tmp_path / "3", entrypoint=("/bin/dash", "-c", "while :; do read x; done")
    )
    load_image(endless, running.engine, f"{NAME}:endless")
    slow = verify_worker(
        running.engine,
        f"{NAME}:endless",
        worker=worker,
        job=JOB,
        run=mark,
        device="cpu",
        timeout_s=1,
    )
    assert "served nothing within 1 s" in slow.check.message
    assert running.docker("ps", "-aq", "--filter", f"label=bakery.run={mark}").stdout == ""


def test_a_layer_that_changed_on_disk_is_not_loaded(running: Running, tmp_path: Path) -> None:
    base = read_from_engine(running.engine, running.base)
    image = make_image(base, tmp_path / "1", thin=os.urandom(8))
    blob = tmp_path / "1" / "thin.tar.gz"
    data = bytearray(blob.read_bytes())
    data[-9] ^= 1
    blob.write_bytes(bytes(data))
    with pytest.raises(BuildError, match="the runtime: its bytes are not those of its digest"):
        load_image(image, running.engine, f"{NAME}:changed")
    assert running.engine.image_id(f"{NAME}:changed") is None


@dataclass(frozen=True, kw_only=True)
class Published:
    """An image in a registry and as a layout, for what others make of it."""

    image: Image
    registry: str
    reference: str
    layout: Path

    @property
    def sources(self) -> tuple[str, str]:
        """As skopeo and podman name them."""
        return f"oci:{self.layout}:1", f"docker://{self.reference}"


@pytest.fixture
def published(
    engine: dict[str, str], registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Published:
    for name, value in engine.items():
        monkeypatch.setenv(name, value)
    with Engine(CONSOLE) as entered:
        tree = tmp_path / "base.tar"
        write_base_tree(tree)
        entered.client.api.import_image_from_file(str(tree), repository=f"{NAME}-others", tag="1")
        base = read_from_engine(entered, f"{NAME}-others:1")
        image = make_image(base, tmp_path / "1")
        write_layout(image, tmp_path / "layout", tag="1")
        reference = f"{registry}/img-test/{NAME}-others:1"
        push_image(
            image, reference, console=CONSOLE, options=RegistryOptions(retry=Retry(attempts=2))
        )
        entered.client.images.remove(f"{NAME}-others:1", force=True)
    return Published(
        image=image, registry=registry, reference=reference, layout=tmp_path / "layout"
    )


def test_skopeo_agrees(published: Published) -> None:
    """It reads the image from both places, and copies it as it is."""
    need_program("skopeo")
    image, reference = published.image, published.reference
    for source in published.sources:
        inspected = run("skopeo", "inspect", "--tls-verify=false", source)
        assert inspected.returncode == 0, inspected.stderr
        shown = json.loads(inspected.stdout)
        assert shown["Digest"] == image.digest
        assert shown["Layers"] == [layer.digest for layer in image.layers]
        assert shown["Env"] == ["A=b"]
        copied = run(
            "skopeo", "copy", "--preserve-digests", "--src-tls-verify=false",
            "--dest-tls-verify=false", source, f"docker://{reference}-copy",
        )  # fmt: skip
        assert copied.returncode == 0, copied.stderr
        with RegistryClient(published.registry, credentials=Credentials()) as client:
            assert client.manifest_digest(parse_reference(f"{reference}-copy")) == image.digest


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def podman(published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command, with a store of the test's own: a container needs more than a test may count on."""
    need_program("podman")
    if os.geteuid():
        pytest.skip("podman shows an image's files to root only")
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)  # it fails where that folder has no file
    # it takes no longer name for it than 50 characters
    with tempfile.TemporaryDirectory(prefix="podman-") as runroot:
        yield functools.partial(
            run, "podman", "--root", f"{tmp_path}/store", "--runroot", runroot,
            "--storage-driver", "vfs", "--events-backend", "none",
        )  # fmt: skip


def test_podman_pulls_it_and_has_the_same_files(published: Published, podman: Run) -> None:
    image = published.image
    for source in published.sources:
        pulled = podman("pull", "--quiet", "--tls-verify=false", source)
        assert pulled.returncode == 0, pulled.stderr
        identity = pulled.stdout.strip()
        assert f"sha256:{identity}" == image.config_digest
        shown = json.loads(podman("image", "inspect", identity).stdout)[0]
        assert shown["RootFS"]["Layers"] == [each.diff_id for each in image.layers]
        assert shown["Config"]["Env"] == ["A=b"]
        mounted = podman("image", "mount", identity).stdout.strip()
        assert (Path(mounted) / PATH.lstrip("/")).read_bytes() == CONTENT
        gone = podman("image", "rm", "--force", identity)
        assert gone.returncode == 0, gone.stderr
