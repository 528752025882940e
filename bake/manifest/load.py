"""Reading a manifest: from a file or a text to a `Manifest`, or to every mistake that is in it."""

from __future__ import annotations

import difflib
from pathlib import Path

from pydantic import ValidationError

from bake.errors import ManifestError
from bake.manifest.model import Manifest
from bake.manifest.problems import Problem, describe_problems, find_problems
from bake.manifest.yaml import Document, YamlError, parse_yaml

MAX_FILE_BYTES = 1 << 20


def load_manifest(path: Path) -> Manifest:
    """Reads and checks a manifest.

    Raises:
        ManifestError: with every mistake of the file, each with its line and key.
    """
    try:
        if path.is_dir():
            what, hint = "this is a folder", f"name a manifest in it: {path / 'NAME.yaml'}"
            raise ManifestError(what, where=str(path), hint=hint)
        if path.name.endswith(".lock.json"):
            manifest = path.with_name(path.name.removesuffix(".lock.json") + ".yaml")
            raise ManifestError("this is a lock", where=str(path), hint=f"its manifest: {manifest}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ManifestError("this is too large to be a manifest", where=str(path))
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ManifestError(
            "there is no such manifest", where=str(path), hint=_suggest_file(path)
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ManifestError(f"cannot be read: {reason}", where=str(path)) from error
    return parse_manifest(text, path)


def parse_manifest(text: str, path: Path) -> Manifest:
    """Like `load_manifest`, from text; `path` is where relative sources start from."""
    try:
        document = parse_yaml(text)
    except YamlError as error:
        raise ManifestError(f"not valid YAML: {error}", where=f"{path}:{error.line}") from error
    manifest, problems = _validate(document)
    if problems or manifest is None:
        raise ManifestError(
            describe_problems(path, problems), hint="docs/manifest.md explains every key"
        )
    lines = {
        entry.key: document.line_of(tuple(entry.key.split(".", 1))) for entry in manifest.sources()
    }
    return manifest.read_from(path, lines)


def _validate(document: Document) -> tuple[Manifest | None, list[Problem]]:
    try:
        return Manifest.model_validate(document.data), find_problems(document)
    except ValidationError as error:
        return None, find_problems(document, error.errors(include_url=False))


def _suggest_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("manifests")
    names = sorted(each.name for each in folder.glob("*.yaml")) if folder.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    if close:
        return f"did you mean {folder / close[0]}?"
    return "manifests/ holds examples to start from"
