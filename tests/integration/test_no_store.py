"""A bake whose weights never touch this disk: from stand-ins of their sources to a real registry."""

import json
import shutil
import signal
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bake.image.oci.reference import parse_reference
from bake.image.oci.streams import open_tar, unpacked
from bake.image.registry.client import RegistryClient
from bake.image.registry.credentials import Credentials
from bake.weights.store import Store
from tests.integration.bakery_case import BAKE, Bakery, Events, began, digest_of, dominant, draw
from tests.integration.conftest import ROOT, RUN, run
from tests.integration.registry_case import running_registry
from tests.standins.civitai import CivitaiFile, CivitaiModel, CivitaiVersion
from tests.standins.registry import Answer, Seen, faulty_registry
from tests.standins.storage import Blob, Fault, no_fault
from tests.standins.world import Standins

WEIGHTS = ROOT / "demo" / "weights"
CHECKPOINT = (WEIGHTS / "shapes.safetensors").read_bytes()
LORA = (WEIGHTS / "outline.safetensors").read_bytes()
NO_STORE = ("--no-store", "--push")
CIRCLE = "a red circle on a white background"
GONE = Fault(kind="status", status=404)
SILENCE = Fault(kind="stall", after=1000)
NAME = f"bakery-no-store-{RUN}"


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A bakery, what its weights come from, and where its images go."""

    bakery: Bakery
    world: Standins
    registry: str

    @property
    def folder(self) -> Path:
        return self.bakery.manifest.parent

    def aim(self, name: str, *, registry: str = "", checkpoint: int = 500) -> str:
        """Writes the manifest for another repository, which has none of the weights. Returns its tag."""
        target = f"{registry or self.registry}/{NAME}-{name}:1"
        text = (ROOT / "manifests" / "demo.yaml").read_text()
        for old, new in (
            ("file:../demo/weights/shapes.safetensors", f"civitai:{checkpoint}"),
            ("file:../demo/weights/outline.safetensors", "civitai:600"),
            ("../demo/", f"{ROOT}/demo/"),
            ("127.0.0.1:5005/bakery-demo", target),
        ):
            assert old in text
            text = text.replace(old, new)
        self.bakery.manifest.write_text(text)
        return target

    def plan(self, *arguments: str) -> dict[str, dict[str, Any]]:
        ended = run(*self.bakery.command("plan", "--json", *arguments), env=self.bakery.environment)
        assert ended.returncode == 0, ended.stderr
        return {step["step"]: step for step in json.loads(ended.stdout)["steps"]}

    def wipe_store(self) -> None:
        shutil.rmtree(self.folder / "store", ignore_errors=True)

    def refuse_weights_on_disk(self) -> None:
        """Fails if any file of this machine's has a part of a weights file in it."""
        parts = [data[len(data) // 2 :][:64] for data in (CHECKPOINT, LORA)]
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        assert files
        for path in files:
            content = path.read_bytes()
            assert not any(part in content for part in parts), f"{path} holds weights"
        store = Store(self.folder / "store")
        assert (store.files(), store.partials()) == ([], [])


@pytest.fixture(scope="module")
def shop(
    engine: dict[str, str], slim_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("no-store")
    (folder / "tmp").mkdir()
    with Standins() as world, running_registry(engine) as registry:
        add(world, 500, CHECKPOINT, "shapes", kind="Checkpoint")
        add(world, 501, with_metadata(CHECKPOINT, "edited"), "shapes", kind="Checkpoint")
        add(world, 600, LORA, "outline", kind="LORA")
        environment = {
            **engine,
            **world.environment,
            "TMPDIR": str(folder / "tmp"),
            "BAKE_STORE": str(folder / "store"),
            "BAKE_BUILD_ARGS": f"PYTHON_IMAGE={slim_image}",
        }
        bakery = Bakery(
            manifest=folder / "demo.yaml", build=folder / "build", environment=environment
        )
        yield Shop(bakery=bakery, world=world, registry=registry)
        listed = run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", env=engine)
        for image in listed.stdout.split():
            if NAME in image:
                run("docker", "image", "rm", "--force", image, env=engine)


def add(world: Standins, number: int, data: bytes, name: str, *, kind: str) -> None:
    file = CivitaiFile(file_id=number, name=f"{name}.safetensors", blob=Blob(data=data))
    world.civitai.add(
        CivitaiVersion(version_id=number, model_id=number, files=[file]),
        CivitaiModel(model_id=number, name=name, type=kind),
    )


def with_metadata(data: bytes, value: str) -> bytes:
    """The same model as another file."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = {**header.get("__metadata__", {}), "note": value}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def manifest_of(tag: str) -> Mapping[str, Any] | None:
    reference = parse_reference(tag)
    with RegistryClient(reference.host, credentials=Credentials()) as client:
        if client.manifest_digest(reference) is None:
            return None
        found: Mapping[str, Any] = json.loads(client.get_manifest(reference)[0])
        return found


def harvested(tag: str) -> set[str]:
    """The names of what the image has of a warm-up, worker.json aside."""
    reference = parse_reference(tag)
    manifest = manifest_of(tag)
    assert manifest is not None
    layer = manifest["layers"][-2]
    with RegistryClient(reference.host, credentials=Credentials()) as client:
        content = client.blob_content(reference.repository, layer["digest"])
        with open_tar(unpacked(content.chunks())) as tar:
            names = {Path(entry.name).name for entry in tar if entry.isreg()}
    return names - {"worker.json"}


@pytest.fixture(scope="module")
def cold(shop: Shop) -> tuple[str, Events]:
    """The first bake of a machine that knows nothing: tag and events."""
    tag = shop.aim("cold")
    locked = run(str(BAKE), "lock", str(shop.bakery.manifest), env=shop.bakery.environment)
    assert locked.returncode == 0, locked.stderr
    steps = shop.plan(*NO_STORE)
    assert steps["stream"]["bytes"] == len(CHECKPOINT) + len(LORA)
    assert steps["stream"]["why"].endswith("to the registry: checkpoint, loras.outline")
    assert (steps["fetch"]["runs"], steps["warmup"]["runs"]) == (False, False)
    assert steps["push"]["bytes"] == 0
    assert "load" not in steps
    events = shop.bakery.bake(*NO_STORE, "--locked")
    shop.refuse_weights_on_disk()
    return tag, events


def test_without_a_store_and_a_warm_up_the_image_is_good_and_draws(
    shop: Shop, cold: tuple[str, Events], tmp_path: Path
) -> None:
    tag, events = cold
    assert began(events) == [
        "base", "environment", "runtime", "stream", "assemble", "verify", "push",
    ]  # fmt: skip
    warned = [event["text"] for event in events if event["event"] == "warning"]
    assert any("no picture was drawn with these weights" in text for text in warned)
    report = json.loads((shop.bakery.build / "demo" / "report.json").read_text())
    assert report["warmup"] == {"harvest": "none"}
    checks = {check["name"]: check["message"] for check in report["verify"]["checks"]}
    assert checks["streamed"].startswith("hashed on their way into the registry")
    found = manifest_of(tag)
    assert found is not None
    assert found["annotations"]["bakery.warmup"] == "none"
    assert harvested(tag) == set()
    verified = run(str(BAKE), "verify", "--registry", tag, env=shop.bakery.environment)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "ok      weights checkpoint shapes" in verified.stdout
    shown = run(str(BAKE), "inspect", tag, env=shop.bakery.environment)
    assert "runpod 1." in shown.stdout
    red, green, blue = dominant(draw(shop.bakery, tag, CIRCLE, tmp_path / "out"), at=(0.5, 0.5))
    assert red > 150 > max(green, blue)
    shop.refuse_weights_on_disk()


def test_what_was_streamed_is_not_streamed_again(shop: Shop, cold: tuple[str, Events]) -> None:
    _, events = cold
    shop.aim("cold")
    assert shop.plan(*NO_STORE)["stream"]["bytes"] == 0
    asked = len(shop.world.storage.server.requests)
    again = shop.bakery.bake(*NO_STORE)
    assert began(again) == ["stream", "push"]
    assert digest_of(again) == digest_of(events)
    assert any("the registry has it" in event.get("text", "") for event in again)
    # the start of each file is looked at, no more
    assert len(shop.world.storage.server.requests) == asked + 2


@pytest.fixture(scope="module")
def ordinary(shop: Shop, cold: tuple[str, Events]) -> Events:
    """The same image with the store, which is then gone."""
    shop.aim("ordinary")
    events = shop.bakery.bake("--push")
    assert "warmup" in began(events)
    shop.wipe_store()
    return events


def test_with_the_same_harvest_it_is_the_same_image(
    shop: Shop, cold: tuple[str, Events], ordinary: Events
) -> None:
    tag = shop.aim("same")
    events = shop.bakery.bake(*NO_STORE)
    assert began(events) == ["stream", "assemble", "verify", "push"]
    assert digest_of(events) == digest_of(ordinary) != digest_of(cold[1])
    found = manifest_of(tag)
    assert found is not None
    assert found["annotations"]["bakery.warmup"] == "own"
    shop.refuse_weights_on_disk()


def test_another_checkpoint_gets_what_the_warm_up_left_of_the_base(
    shop: Shop, ordinary: Events, tmp_path: Path
) -> None:
    lock = shop.bakery.manifest.with_suffix(".lock.json")
    before = lock.read_bytes()
    try:
        tag = shop.aim("edited", checkpoint=501)
        lock.unlink()
        events = shop.bakery.bake(*NO_STORE)
    finally:
        lock.write_bytes(before)
    skipped = {event["step"]: event["why"] for event in events if event["event"] == "step.skipped"}
    assert "the last warm-up's harvest is used" in skipped["warmup"]
    assert harvested(tag) == {"modules.pack", "proven.json"}
    report = json.loads((shop.bakery.build / "demo" / "report.json").read_text())
    assert report["warmup"] == {"harvest": "reused"}
    assert "<img" not in (shop.bakery.build / "demo" / "report.html").read_text()
    red, green, blue = dominant(draw(shop.bakery, tag, CIRCLE, tmp_path / "out"), at=(0.5, 0.5))
    assert red > 150 > max(green, blue)
    shop.refuse_weights_on_disk()


@pytest.mark.parametrize(
    ("faults", "status", "text"),
    [
        ((None, None, Fault(kind="other_bytes")), 4, "the file has another SHA256"),
        ((None, None, Fault(kind="cut", after=300_000), *[GONE] * 3), 4, "(404)"),
        ((Fault(kind="html"),), 4, "this is an HTML page"),
    ],
    ids=["wrong-hash", "cut-and-gone", "page"],
)
def test_a_source_that_fails_leaves_no_tag(
    shop: Shop, ordinary: Events, faults: tuple[Fault | None, ...], status: int, text: str
) -> None:
    tag = shop.aim(f"failed-{status}-{len(faults)}")
    coming = iter(faults)
    shop.world.storage.fault = lambda _request, _count: next(coming, None)
    try:
        ended = shop.bakery.fails(*NO_STORE)
    finally:
        shop.world.storage.fault = no_fault
    assert ended[0] == status, ended[1]
    assert text in ended[1]
    assert "Traceback" not in ended[1]
    assert manifest_of(tag) is None
    shop.refuse_weights_on_disk()


def test_a_registry_whose_disk_is_full_is_named_and_has_no_tag(
    shop: Shop, ordinary: Events
) -> None:
    def rule(seen: Seen) -> Answer | None:
        return Answer(status=507) if seen.method == "PATCH" else None

    with faulty_registry(shop.registry, rule) as proxy:
        tag = shop.aim("full", registry=proxy.host)
        status, said = shop.bakery.fails(*NO_STORE)
        assert (status, "the registry's disk is full (507)" in said) == (7, True), said
        assert proxy.methods("PUT") == []
    assert manifest_of(tag.replace(proxy.host, shop.registry)) is None
    shop.refuse_weights_on_disk()


def test_a_bake_that_is_killed_while_it_streams_ends_the_same(shop: Shop, ordinary: Events) -> None:
    tag = shop.aim("killed")
    # After a look at the start of each file the source falls silent, so that the step cannot end first.
    coming = iter((None, None))
    shop.world.storage.fault = lambda _request, _count: next(coming, SILENCE)
    try:
        assert shop.bakery.kill_in_step("stream", signal.SIGKILL, *NO_STORE) == -signal.SIGKILL
    finally:
        shop.world.storage.fault = no_fault
    assert manifest_of(tag) is None
    assert digest_of(shop.bakery.bake(*NO_STORE)) == digest_of(ordinary)
    shop.refuse_weights_on_disk()


def test_it_needs_a_registry(shop: Shop) -> None:
    shop.aim("nowhere")
    status, said = shop.bakery.fails("--no-store")
    assert status == 2
    assert "--no-store: weights that are not to be stored here have to go to a registry" in said
    assert "add --push" in said
