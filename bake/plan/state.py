"""A bake's own folder, `build/<name>/`: what each step was made from, and what it made.

A step is recorded after its result is in place, so that a bake that was killed anywhere finds either
the whole step or nothing. Everything unfinished lies in `tmp/`, which each bake empties first.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bake.console import Console
from bake.errors import MachineError
from bake.files import write_atomically
from bake.flock import locked

Document = Mapping[str, str]
"""Everything that a step's result depends on: a name and a short text for each."""


def key_of(document: Document) -> str:
    """The SHA-256 of a key document."""
    return hashlib.sha256(json.dumps(dict(document), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished step."""

    document: dict[str, str]
    result: dict[str, Any]


class BuildFolder:
    """`build/<name>/`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def identity(self) -> str:
        """Marks this folder's containers in the engine."""
        return str(self.root)

    def log(self, step: str) -> Path:
        """The file that a step's commands print into."""
        return self.root / "logs" / f"{step}.log"

    def record(self, step: str) -> Record | None:
        """What is known of a finished step; None where there is nothing, or nothing readable."""
        try:
            data = json.loads((self.root / "state" / f"{step}.json").read_text(encoding="utf-8"))
            return Record(document=data["document"], result=data["result"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_record(self, step: str, document: Document, result: Mapping[str, Any]) -> None:
        """Says that a step is finished; its result must be in place."""
        text = json.dumps(
            {"document": dict(document), "result": dict(result)}, sort_keys=True, indent=1
        )
        write_atomically(self.root / "state" / f"{step}.json", text + "\n")

    def forget(self, step: str) -> None:
        """Takes a record back, before its result is replaced."""
        (self.root / "state" / f"{step}.json").unlink(missing_ok=True)

    @contextmanager
    def locked(self, console: Console) -> Iterator[None]:
        """Keeps other bakes of the same image waiting, and clears what a killed one left.

        Raises:
            MachineError: the folder cannot be written.
        """

        def say() -> None:
            console.say(f"another bake works in {self.root}; waiting for it")

        with ExitStack() as held:
            try:
                held.enter_context(locked(self.root / "lock", on_wait=say))
            except OSError as error:
                raise MachineError(
                    f"cannot be written: {error.strerror}", where=str(self.root)
                ) from error
            held.callback(shutil.rmtree, self.root / "tmp", ignore_errors=True)
            shutil.rmtree(self.root / "tmp", ignore_errors=True)
            yield

    @contextmanager
    def temporary_folder(self, step: str) -> Iterator[Path]:
        """A folder for a step's unfinished files, on the disk of its finished ones."""
        parent = self.root / "tmp"
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{step}-", dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
