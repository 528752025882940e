"""`hashes`: the webui knows its weights' hashes from the image instead of from SQLite files or reading.

`worker.json` has every file's SHA-256, and a warm-up adds the LoRAs' second kind of hash (of what
follows the header, which the infotext names). Answers are given for files at their path with the
size and mtime that baking gave them; for every other file upstream asks its own cache. Those caches
are SQLite files with times in them, so an image with them would never be the same twice. Where they
cannot be made, on a read-only root file system, the webui gets caches in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from runtime.boot.context import Context
from runtime.boot.hooks import after_import
from runtime.boot.timeline import log
from runtime.worker import WEIGHTS_MTIME, WORKER_FILE

FILE = "hashes.json"
Known = dict[str, dict[str, Any]]


def install(context: Context) -> None:
    known = read_known(os.path.join(context.harvest, FILE))  # noqa: PTH118
    if not known:
        return
    after_import("modules.hashes", lambda module: _answer(module, known), trick="hashes")
    after_import("modules.cache", lambda module: _read_directly(module, known), trick="hashes")


def read_known(extra_file: str) -> Known:
    """Path to size, sha256 and, for LoRAs, addnet; empty where this is no baked image."""
    path = os.environ.get("BAKERY_WORKER_FILE") or WORKER_FILE
    known: Known = {}
    if os.path.exists(path):  # noqa: PTH110
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            for each in json.load(file)["weights"]:
                known[each["path"]] = {"size": each["size_bytes"], "sha256": each["sha256"]}
    if os.path.exists(extra_file):  # noqa: PTH110
        with open(extra_file, encoding="utf-8") as file:  # noqa: PTH123
            for name, addnet in json.load(file)["addnet"].items():
                if name in known:
                    known[name]["addnet"] = addnet
    return known


def make_file(known: Known) -> dict[str, Any]:
    """What a warm-up adds: the second hash of each safetensors file but the checkpoints."""
    addnet = {}
    for path in sorted(known):
        if path.endswith(".safetensors") and known[path]["size"] < 1 << 30 and os.path.exists(path):  # noqa: PTH110
            addnet[path] = addnet_hash(path)
    return {"addnet": addnet}


def addnet_hash(path: str) -> str:
    """SHA-256 of a safetensors file without its header, as kohya's sd-scripts defines it."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:  # noqa: PTH123
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _entry(known: Known, filename: str) -> dict[str, Any] | None:
    entry = known.get(os.path.abspath(filename))  # noqa: PTH100
    if entry is None:
        return None
    try:
        found = os.stat(filename)  # noqa: PTH116
    except OSError:
        return None
    same = (found.st_size, int(found.st_mtime)) == (entry["size"], WEIGHTS_MTIME)
    return entry if same else None


def _answer(hashes: Any, known: Known) -> None:
    upstream = hashes.sha256_from_cache

    def sha256_from_cache(filename: str, title: str, use_addnet_hash: bool = False) -> Any:
        entry = _entry(known, filename)
        answer = entry and entry.get("addnet" if use_addnet_hash else "sha256")
        return answer or upstream(filename, title, use_addnet_hash)

    hashes.sha256_from_cache = sha256_from_cache


class _InMemory(dict[str, Any]):
    def __bool__(self) -> bool:
        """The webui makes a cache anew where what it has is false."""
        return True


def _read_directly(cache: Any, known: Known) -> None:
    """A header is read in milliseconds; opening a database for it takes longer."""
    upstream, make_in_file = cache.cached_data_for_file, cache.make_cache

    def make_cache(subsection: str) -> Any:
        try:
            return make_in_file(subsection)
        except Exception as error:  # noqa: BLE001  # no folder, or a database that is another user's
            log(f"the webui's cache {subsection} is kept in memory: {error!r}")
            return _InMemory()

    def cached_data_for_file(subsection: str, title: str, filename: str, func: Any) -> Any:
        if subsection == "safetensors-metadata" and _entry(known, filename) is not None:
            return func()
        return upstream(subsection, title, filename, func)

    cache.cached_data_for_file, cache.make_cache = cached_data_for_file, make_cache
