"""The weights on disk: checkpoints, VAEs and LoRAs, by the names that the webui gives them."""

from __future__ import annotations

import threading
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.webui.hashes import CHECKPOINTS, LORAS, HashCache
from demo.webui.safetensors import BadWeightsError, data_sha256, file_sha256, read_metadata

_SUFFIXES = (".safetensors", ".ckpt")


@dataclass(kw_only=True)
class Checkpoint:
    """One checkpoint. `sha256` is filled in when it is loaded, unless the hash cache knows it."""

    path: Path
    name: str
    """Its path within the checkpoint folder, else its file name."""
    sha256: str | None

    @property
    def short_hash(self) -> str | None:
        return self.sha256[:10] if self.sha256 else None

    @property
    def title(self) -> str:
        return f"{self.name} [{self.short_hash}]" if self.sha256 else self.name

    @property
    def model_name(self) -> str:
        return str(Path(self.name.replace("/", "_")).with_suffix(""))

    @property
    def aliases(self) -> set[str]:
        names = {self.model_name, self.title, self.name, self.path.stem}
        if self.sha256:
            short = self.sha256[:10]
            names |= {short, self.sha256, f"{self.name} [{short}]", f"{self.path.stem} [{short}]"}
        return names

    def listing(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "model_name": self.model_name,
            "hash": self.short_hash,
            "sha256": self.sha256,
            "filename": str(self.path),
            "config": None,
        }


@dataclass(kw_only=True)
class Lora:
    """One LoRA. `sha256` leaves the header out, as kohya's scripts do."""

    path: Path
    metadata: dict[str, str]
    sha256: str | None

    @property
    def alias(self) -> str:
        return self.metadata.get("ss_output_name", self.path.stem)

    def listing(self) -> dict[str, Any]:
        return {
            "name": self.path.stem,
            "alias": self.alias,
            "path": str(self.path),
            "metadata": self.metadata,
        }


class Catalogue:
    """What was found at the last scan; refresh_… scan again."""

    def __init__(self, arguments: Namespace, hashes: HashCache) -> None:
        self._arguments = arguments
        self._hashes = hashes
        self._lock = threading.Lock()
        self.checkpoints: list[Checkpoint] = []
        self.loras: dict[str, Lora] = {}
        self.vaes: dict[str, Path] = {}
        self.refresh_checkpoints()
        self.refresh_loras()
        self.refresh_vaes()

    def refresh_checkpoints(self) -> None:
        """The one of --ckpt first, then those of --ckpt-dir. One that is missing is only spoken of."""
        given: Path | None = self._arguments.ckpt
        folder: Path = self._arguments.ckpt_dir
        files = list(_weights_in(folder))
        if given is not None and not given.exists():
            print(
                f"Checkpoint in --ckpt argument not found (Possible it was moved to {folder}: {given}"
            )
        elif given is not None:
            files = [given, *(file for file in files if not file.samefile(given))]
        self.checkpoints = [self._checkpoint(file) for file in files]

    def refresh_loras(self) -> None:
        with self._lock:
            found = {}
            for file in _weights_in(self._arguments.lora_dir):
                try:
                    metadata = read_metadata(file)
                except (OSError, ValueError) as error:
                    print(f"reading lora {file}: {error}")
                    metadata = {}
                cached = self._hashes.cached(LORAS, f"lora/{file.stem}", file)
                found[file.stem] = Lora(path=file, metadata=metadata, sha256=cached)
            self.loras = found

    def refresh_vaes(self) -> None:
        self.vaes = {file.name: file for file in _weights_in(self._arguments.vae_dir)}

    def find_checkpoint(self, alias: object) -> Checkpoint | None:
        return next((each for each in self.checkpoints if alias in each.aliases), None)

    def choose_checkpoint(self, wanted: object) -> Checkpoint:
        """The wanted one, else the first of all. Raises FileNotFoundError where there is none."""
        found = self.find_checkpoint(wanted)
        if found is not None:
            return found
        if not self.checkpoints:
            raise FileNotFoundError(
                "No checkpoints found. When searching for checkpoints, looked at:"
                f"\n - file {self._arguments.ckpt}\n - directory {self._arguments.ckpt_dir}"
            )
        if wanted is not None:
            print(f"Checkpoint {wanted} not found; loading fallback {self.checkpoints[0].title}")
        return self.checkpoints[0]

    def find_lora(self, name: str) -> Lora | None:
        """A LoRA by file stem or alias; an unknown name makes for one new scan."""
        for attempt in range(2):
            if attempt:
                self.refresh_loras()
            by_alias = {lora.alias: lora for lora in self.loras.values()}
            found = self.loras.get(name) or by_alias.get(name)
            if found is not None:
                return found
        return None

    def read_hash(self, weights: Checkpoint | Lora) -> None:
        """Fills in `sha256`, from the cache or by reading the file."""
        off = self._arguments.no_hashing
        if isinstance(weights, Checkpoint):
            title, calculate = f"checkpoint/{weights.name}", file_sha256
            section = CHECKPOINTS
        else:
            title, calculate = f"lora/{weights.path.stem}", data_sha256
            section = LORAS
        weights.sha256 = self._hashes.of(section, title, weights.path, None if off else calculate)

    def vae_hash(self, path: Path) -> str | None:
        """The first ten characters, which the webui shows; it hashes a VAE even with --no-hashing off."""
        found = self._hashes.of(CHECKPOINTS, f"vae/{path.name}", path, file_sha256)
        return found[:10] if found else None

    def _checkpoint(self, file: Path) -> Checkpoint:
        folder = self._arguments.ckpt_dir.resolve()
        whole = file.resolve()
        name = str(whole.relative_to(folder)) if whole.is_relative_to(folder) else file.name
        cached = self._hashes.cached(CHECKPOINTS, f"checkpoint/{name}", file)
        return Checkpoint(path=file, name=name, sha256=cached)


def _weights_in(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)


__all__ = ["BadWeightsError", "Catalogue", "Checkpoint", "Lora"]
