"""The hash cache, as the webui keeps it: a file's hash by its name, good until the file's mtime is newer.

The webui's is a pair of SQLite files; this one is one JSON file whose bytes depend on its entries only.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

Entry = dict[str, float | str]
CHECKPOINTS, LORAS = "hashes", "hashes-addnet"


class HashCache:
    """Hashes by section and title; written whenever one is added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._sections: dict[str, dict[str, Entry]] = {}
        try:
            self._sections = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            print(f"the hash cache {path} cannot be read and is begun anew: {error}")

    def cached(self, section: str, title: str, file: Path) -> str | None:
        """A hash that is still good. Neither the file's size nor its folder is compared, as in the webui."""
        entry = self._sections.get(section, {}).get(title)
        if entry is None or not file.exists() or file.stat().st_mtime > float(entry["mtime"]):
            return None
        return str(entry["sha256"])

    def of(
        self, section: str, title: str, file: Path, calculate: Callable[[Path], str] | None
    ) -> str | None:
        """The cached hash, else a new one; None where hashing is off (`calculate` is None)."""
        found = self.cached(section, title, file)
        if found is not None or calculate is None:
            return found
        print(f"Calculating sha256 for {file}: ", end="", flush=True)
        sha256 = calculate(file)
        print(sha256, flush=True)
        with self._lock:
            entry: Entry = {"mtime": file.stat().st_mtime, "sha256": sha256}
            self._sections.setdefault(section, {})[title] = entry
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft = self._path.with_suffix(".part")
            draft.write_text(json.dumps(self._sections, indent=1, sort_keys=True) + "\n")
            draft.replace(self._path)
        return sha256
