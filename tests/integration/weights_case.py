"""What the tests of weights share: the stand-ins, a store of their own, and quick time-outs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from bake.console import Console
from bake.lock import Lock, Pin
from bake.manifest.load import parse_manifest
from bake.manifest.model import Manifest
from bake.settings import Settings
from bake.weights.fetch import fetch_pin
from bake.weights.resolve import resolve_lock
from bake.weights.store import Store
from bake.weights.transfer import locations
from tests.standins.civitai import CivitaiFile, CivitaiVersion
from tests.standins.storage import Blob
from tests.standins.world import Standins

VERSION = 500
FILE = 501


class RecordingConsole(Console):
    """Keeps what it would have said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@dataclass(kw_only=True)
class Case:
    """One test's surroundings."""

    world: Standins
    settings: Settings
    store: Store
    folder: Path
    console: RecordingConsole

    def with_tokens(self, *, civitai: str | None = None, huggingface: str | None = None) -> None:
        self.settings = dataclasses.replace(
            self.settings, civitai_token=civitai, huggingface_token=huggingface
        )

    def manifest(self, checkpoint: str, *, family: str = "sdxl", more: str = "") -> Manifest:
        text = (
            f"name: case\nfamily: {family}\ncheckpoint: {checkpoint}\n{more}"
            "warmup:\n  prompt: a cat\nimage: example.com/case\n"
        )
        path = self.folder / "case.yaml"
        path.write_text(text)
        return parse_manifest(text, path)

    def lock(self, manifest: Manifest, previous: Lock | None = None) -> Lock:
        return resolve_lock(
            manifest,
            previous=previous,
            settings=self.settings,
            store=self.store,
            console=self.console,
        )

    def pin(self, checkpoint: str, *, family: str = "sdxl") -> Pin:
        return self.lock(self.manifest(checkpoint, family=family)).pins[0]

    def fetch(self, pin: Pin) -> Path:
        return fetch_pin(
            pin,
            store=self.store,
            settings=self.settings,
            console=self.console,
            folder=self.folder,
        )

    def add_civitai(self, data: bytes, *, version_id: int = VERSION) -> CivitaiVersion:
        file = CivitaiFile(file_id=FILE, name="case.safetensors", blob=Blob(data=data))
        return self.world.civitai.add(
            CivitaiVersion(version_id=version_id, model_id=400, files=[file])
        )

    def stored(self) -> list[bytes]:
        """The content of everything that is in the store."""
        return [file.path.read_bytes() for file in self.store.files()]


@contextmanager
def open_case(folder: Path) -> Iterator[Case]:
    # A lock has the date of its day; no test is to know of midnight.
    with mock.patch.dict(os.environ, SOURCE_DATE_EPOCH="1780000000"), Standins() as world:
        settings = Settings.from_environment(
            {**world.environment, "BAKE_STORE": str(folder / "store")}
        )
        # A pause of a busy machine is no stall; stalls are tested in test_weights_download.py.
        settings = dataclasses.replace(settings, stall_s=120, backoff_s=0.01)
        # Another test's servers may have had the same ports.
        locations._known.clear()
        yield Case(
            world=world,
            settings=settings,
            store=Store(settings.store),
            folder=folder,
            console=RecordingConsole(),
        )
