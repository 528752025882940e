"""`bake lock`, `fetch`, `outdated`, `update` and `store` against the stand-ins."""

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from bake.weights.store import Store
from runtime.worker import WEIGHTS_MTIME
from tests.an_extension import make_repository
from tests.command import call_bake
from tests.integration.weights_case import FILE, VERSION, Case, open_case
from tests.standins import models
from tests.standins.civitai import GOOD_TOKEN, CivitaiFile, CivitaiModel, CivitaiVersion
from tests.standins.huggingface import HF_TOKEN, Repository, Revision
from tests.standins.storage import Blob, Fault, always, in_turn
from tests.standins.world import COMMIT, NEWER_COMMIT

ROOT = Path(__file__).parents[2]
DATA = models.safetensors(models.SDXL, seed=5, padding_bytes=2_000_000)
VAE = models.safetensors(models.VAE, seed=6)
NEWER_VAE = models.safetensors(models.VAE, seed=7)
MANIFEST = f"""# a comment that stays
name: case
family: sdxl
checkpoint: civitai:{VERSION}  # and another
vae: hf://a/b@{COMMIT}/v.safetensors
warmup:
  prompt: a cat
image: example.com/case
"""


class Bake:
    """Runs `bake` with the stand-ins' environment."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.manifest = case.folder / "case.yaml"
        self.manifest.write_text(MANIFEST)
        self.environment = {
            **os.environ,
            **case.world.environment,
            "BAKE_STORE": str(case.store.root),
            "CIVITAI_TOKEN": GOOD_TOKEN,
            "HF_TOKEN": HF_TOKEN,
            "SOURCE_DATE_EPOCH": "1780000000",
            # A process that stalls on purpose is to do so until its test ends it.
            "BAKE_STALL_SECONDS": "3000",
        }

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "bake", *[str(each) for each in arguments]]

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """Runs a command in this process, which starts no interpreter, and gives what it says."""
        shown = io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment),
            contextlib.redirect_stdout(shown),
            contextlib.redirect_stderr(shown),
        ):
            ended = call_bake(*[str(each) for each in arguments])
        assert (ended or 0) == code, shown.getvalue()
        assert GOOD_TOKEN not in shown.getvalue()
        assert HF_TOKEN not in shown.getvalue()
        return shown.getvalue()

    def start(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def lock(self) -> str:
        return self.manifest.with_suffix(".lock.json").read_text()


@pytest.fixture
def bake(tmp_path: Path) -> Iterator[Bake]:
    with open_case(tmp_path) as case:
        case.add_civitai(DATA)
        case.world.civitai.models[400] = CivitaiModel(model_id=400, name="Example")
        case.world.huggingface.add(
            Repository(
                name="a/b",
                card={"license": "mit"},
                revisions=[
                    Revision(commit=COMMIT, files={"v.safetensors": Blob(data=VAE)}),
                ],
            )
        )
        yield Bake(case)


def test_lock_then_fetch(bake: Bake) -> None:
    assert "the manifest is not locked yet" in bake("lock", "--locked", bake.manifest, code=2)
    assert "the manifest is not locked yet" in bake("fetch", bake.manifest, code=2)
    assert "written" in bake("lock", bake.manifest)
    first = bake.lock
    assert "up to date" in bake("lock", bake.manifest)
    bake.manifest.with_suffix(".lock.json").unlink()
    bake("lock", bake.manifest)
    assert bake.lock == first
    assert "fits the manifest" in bake("lock", "--locked", bake.manifest)
    assert '"resolved_on": "2026-05-28"' in first
    shown = bake("fetch", bake.manifest)
    assert str(bake.case.store.root) in shown
    assert "in the store already" in bake("fetch", bake.manifest)
    (file,) = [each for each in bake.case.store.files() if each.size_bytes > 2_000_000]
    state = file.path.stat()
    assert (state.st_mode & 0o777, state.st_mtime) == (0o644, WEIGHTS_MTIME)
    assert hashlib.sha256(file.path.read_bytes()).hexdigest() == file.sha256


def test_a_lock_that_no_longer_fits_names_the_key(bake: Bake) -> None:
    bake("lock", bake.manifest)
    before = bake.lock
    bake.manifest.write_text(MANIFEST.replace(f"civitai:{VERSION}", "civitai:501"))
    for arguments in (("lock", "--locked"), ("fetch",)):
        shown = bake(*arguments, bake.manifest, code=2)
        assert f"checkpoint is civitai:501, the lock has civitai:{VERSION}" in shown
    assert bake.lock == before


def test_another_family_is_found_in_the_tensors(bake: Bake) -> None:
    bake("lock", bake.manifest)
    bake("fetch", bake.manifest)
    bake.manifest.write_text(MANIFEST.replace("sdxl", "sd1"))
    lock = bake.manifest.with_suffix(".lock.json")
    lock.write_text(bake.lock.replace('"family": "sdxl"', '"family": "sd1"'))
    shown = bake("fetch", bake.manifest, code=4)
    assert "the tensors are those of sdxl, the manifest's family is sd1" in shown


def test_json_events_are_one_object_a_line(bake: Bake) -> None:
    shown = bake("lock", "--json", bake.manifest)
    events = [json.loads(line) for line in shown.splitlines()]
    assert {
        "event": "lock",
        "manifest": str(bake.manifest),
        "path": str(bake.manifest.with_suffix(".lock.json")),
        "written": True,
    } in events


def publish_newer(bake: Bake) -> bytes:
    newer = models.safetensors(models.SDXL, seed=50)
    bake.case.world.civitai.add(
        CivitaiVersion(
            version_id=VERSION + 100,
            model_id=400,
            name="v3.0",
            published_at="2026-06-01T00:00:00.000Z",
            files=[CivitaiFile(file_id=FILE + 100, name="v3.safetensors", blob=Blob(data=newer))],
        )
    )
    bake.case.world.civitai.add(
        CivitaiVersion(
            version_id=VERSION + 101,
            model_id=400,
            name="v4.0 Flux",
            base_model="Flux.1 D",
            published_at="2026-07-01T00:00:00.000Z",
        )
    )
    repository = bake.case.world.huggingface.repositories["a/b"]
    repository.revisions.append(
        Revision(
            commit=NEWER_COMMIT,
            files={"v.safetensors": Blob(data=NEWER_VAE)},
            changed_at="2026-08-08T10:00:00.000Z",
        )
    )
    bake.case.world.huggingface.add(repository)
    return newer


def test_outdated_and_update(bake: Bake) -> None:
    bake("lock", bake.manifest)
    assert "checkpoint: Example v2.0 of 2025-03-02: up to date" in bake("outdated", bake.manifest)
    newer = publish_newer(bake)
    shown = bake("outdated", bake.manifest)
    assert f"2026-06-01  v3.0 (Illustrious)  civitai:{VERSION + 100}" in shown
    assert "Flux" not in shown
    assert f"2026-08-08  main at 222222222222  hf://a/b@{NEWER_COMMIT}/v.safetensors" in shown

    before = (bake.manifest.read_text(), bake.lock)
    shown = bake("update", "--dry-run", bake.manifest, "checkpoint")
    assert f"version_id: {VERSION} → {VERSION + 100}" in shown
    assert (bake.manifest.read_text(), bake.lock) == before

    bake("update", bake.manifest, "checkpoint")
    assert bake.manifest.read_text() == MANIFEST.replace(
        f"civitai:{VERSION} ", f"civitai:{VERSION + 100} "
    )
    pins = json.loads(bake.lock)["pins"]
    assert pins[0]["sha256"] == hashlib.sha256(newer).hexdigest()
    assert pins[1] == json.loads(before[1])["pins"][1]

    bake("update", bake.manifest)
    assert f"vae: hf://a/b@{NEWER_COMMIT}/v.safetensors" in bake.manifest.read_text()
    bake("fetch", bake.manifest)
    assert "everything is up to date" in bake("update", bake.manifest)


def test_an_update_keeps_line_ends_and_links(bake: Bake) -> None:
    target = bake.manifest.with_name("real.yaml")
    target.write_bytes(MANIFEST.replace("\n", "\r\n").encode())
    bake.manifest.unlink()
    bake.manifest.symlink_to(target)
    bake("lock", bake.manifest)
    before = target.read_bytes()
    publish_newer(bake)
    bake("update", bake.manifest, "checkpoint")
    assert bake.manifest.is_symlink()
    old, new = f"civitai:{VERSION} ".encode(), f"civitai:{VERSION + 100} ".encode()
    assert target.read_bytes() == before.replace(old, new)


def test_without_dates_the_numbers_tell_what_is_newer(bake: Bake) -> None:
    versions = bake.case.world.civitai.versions
    versions[VERSION].published_at = None
    bake("lock", bake.manifest)
    bake.case.add_civitai(DATA, version_id=VERSION - 100)
    assert "checkpoint: Example v2.0: up to date" in bake("outdated", bake.manifest)
    publish_newer(bake)
    archived = CivitaiVersion(version_id=VERSION + 200, model_id=400)
    bake.case.world.civitai.add(archived)
    assert "checkpoint: Example v2.0: 1 newer" in bake("outdated", bake.manifest)


def test_extensions_move_with_their_branch(bake: Bake) -> None:
    folder = bake.case.folder
    first, tried = (make_repository(folder / name) for name in ("tint", "other"))
    entries = (
        f"extensions: [{{url: 'file:tint', ref: main}}, {{url: 'file:other', commit: {tried}}}]"
    )
    bake.manifest.write_text(f"{MANIFEST}{entries}\n")
    bake("lock", bake.manifest)
    assert f"extensions.tint: {first[:12]}: up to date" in bake("outdated", bake.manifest)
    second, newest = (
        make_repository(folder / name, {"new.py": "1\n"}) for name in ("tint", "other")
    )
    shown = bake("outdated", bake.manifest)
    assert f"extensions.tint: {first[:12]}: main is at {second[:12]}, bake update" in shown
    assert f"extensions.other: {tried[:12]}: its repository is at {newest}, which" in shown
    before = bake.lock
    assert f"commit: {first} → {second}" in bake("update", "--dry-run", bake.manifest)
    assert bake.lock == before
    bake("update", bake.manifest, "tint")
    assert [each["commit"] for each in json.loads(bake.lock)["extensions"]] == [second, tried]
    assert "everything is up to date" in bake("update", bake.manifest)
    shown = bake("update", bake.manifest, "extensions.other", code=2)
    assert "extensions.other is pinned by its commit, which stays" in shown
    (folder / "tint/.git").rename(folder / "gone")
    shown = bake("outdated", bake.manifest, code=4)
    assert "extensions.other: " in shown
    assert "not compared: extensions.tint" in shown


def test_a_source_that_does_not_answer_hides_no_other(bake: Bake) -> None:
    bake("lock", bake.manifest)
    bake.case.world.civitai.models[400].gone = True
    shown = bake("outdated", bake.manifest, code=4)
    assert "CivitAI knows no such model" in shown
    assert "vae: a/b" in shown
    assert "not compared: checkpoint" in shown


def test_an_update_that_finds_the_same_says_so(bake: Bake) -> None:
    url = bake.case.world.plain_url("v.safetensors", Blob(data=VAE))
    text = bake.manifest.read_text().splitlines()
    lines = [f"vae: {url}" if line.startswith("vae:") else line for line in text]
    bake.manifest.write_text("\n".join(lines) + "\n")
    bake("lock", bake.manifest)
    before = bake.lock
    assert "the sources give what is pinned already" in bake("update", bake.manifest, "vae")
    assert bake.lock == before


def test_update_of_an_unknown_name(bake: Bake) -> None:
    bake("lock", bake.manifest)
    shown = bake("update", bake.manifest, "chekpoint", code=2)
    assert "names no source of the manifest" in shown
    assert "choose one of checkpoint, vae" in shown


def test_store_commands(bake: Bake) -> None:
    bake("lock", bake.manifest)
    bake("fetch", bake.manifest)
    store = bake.case.store
    large = next(each for each in store.files() if each.size_bytes > 2_000_000)
    assert large.sha256 in bake("store", "ls")
    assert "2 files" in bake("store", "ls")
    assert f"good   {large.sha256}" in bake("store", "verify")

    with store.lease([large.sha256]):
        assert "a bake uses it" in bake("store", "gc", "--keep", "0")
        assert store.has(large.sha256)
    assert len(store.files()) == 1

    os.truncate(large.path, 1000)
    shown = bake("store", "verify", code=4)
    assert "is damaged and was removed" in shown
    assert not store.has(large.sha256)
    bake("fetch", bake.manifest)
    assert "0 B freed" in bake("store", "gc", "--older-than", "1d")
    assert "say what to remove" in bake("store", "gc", code=2)
    assert "is no age" in bake("store", "gc", "--older-than", "soon", code=2)
    for size in ("much", "9" * 400 + "T"):
        assert "is no size" in bake("store", "gc", "--keep", size, code=2)


def wait_for(condition: object, what: str) -> None:
    until = time.monotonic() + 120
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, what
        time.sleep(0.02)


def test_a_killed_fetch_is_continued(bake: Bake) -> None:
    bake("lock", bake.manifest)
    store, storage = bake.case.store, bake.case.world.storage
    storage.fault = always(Fault(kind="stall", after=1_500_000))
    fetching = bake.start("fetch", bake.manifest)
    journal = store.root / "partial" / f"{hashlib.sha256(DATA).hexdigest()}.json"
    wait_for(lambda: journal.exists() and "1500000" in journal.read_text(), "no journal")
    shown = Path(f"/proc/{fetching.pid}/cmdline").read_bytes()
    assert GOOD_TOKEN.encode() not in shown
    fetching.kill()
    fetching.communicate()
    assert fetching.returncode == -signal.SIGKILL
    assert not store.has(journal.stem)

    storage.fault = in_turn()
    storage.server.requests.clear()
    bake("fetch", bake.manifest)
    first = int(storage.server.requests[0].headers["range"].removeprefix("bytes=").split("-")[0])
    assert first == 1_500_000
    assert store.path_of(journal.stem).read_bytes() == DATA
    assert store.partials() == []


def test_an_interrupted_fetch_leaves_what_came(bake: Bake) -> None:
    bake("lock", bake.manifest)
    store = bake.case.store
    bake.case.world.storage.fault = always(Fault(kind="stall", after=1_500_000))
    fetching = bake.start("fetch", bake.manifest)
    journal = store.root / "partial" / f"{hashlib.sha256(DATA).hexdigest()}.json"
    wait_for(journal.exists, "no journal")
    journal.unlink()
    fetching.send_signal(signal.SIGTERM)
    output, _ = fetching.communicate(timeout=120)
    assert fetching.returncode == 143, output
    assert "Traceback" not in output
    assert journal.exists()


def test_two_fetchers_download_once(bake: Bake) -> None:
    bake("lock", bake.manifest)
    bake.case.world.storage.server.requests.clear()
    both = [bake.start("fetch", bake.manifest) for _ in range(2)]
    for each in both:
        output, _ = each.communicate(timeout=120)
        assert each.returncode == 0, output
        assert GOOD_TOKEN not in output
        assert HF_TOKEN not in output
    requests = bake.case.world.storage.server.requests
    assert len(requests) == 2, [each.target for each in requests]
    assert len(Store(bake.case.store.root).files()) == 2
