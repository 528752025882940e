"""What a Dockerfile says without being built: its arguments, its stages and the files that it may read."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from docker.utils.build import exclude_paths

_ARG = re.compile(r"^\s*ARG\s+([A-Za-z_]\w*)(?:=(.*))?$", re.IGNORECASE)
_FROM = re.compile(
    r"^\s*FROM\s+(?:--\S+\s+)*(?P<base>\S+)(?:\s+AS\s+(?P<name>\S+))?\s*$", re.IGNORECASE
)
_HEREDOC = re.compile(r"<<-?\s*([\"']?)(\w+)\1")
_COMMENT = re.compile(r"^\s*#")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One `FROM … AS name` and what follows it, without comments and empty lines."""

    name: str
    """Lower case, as Docker compares it; the number of the stage where it has no name."""
    base: str
    """What `FROM` names: an image, an `${ARGUMENT}` or another stage."""
    text: str
    arguments: frozenset[str]
    """Those that it declares."""


@dataclass(frozen=True, kw_only=True)
class Dockerfile:
    """A Dockerfile's stages and the arguments that it declares anywhere."""

    arguments: Mapping[str, str]
    """Name to default; the empty text where there is none."""
    stages: Sequence[Stage]

    def stage(self, name: str) -> Stage | None:
        """The stage of that name."""
        return next((stage for stage in self.stages if stage.name == name.lower()), None)

    def arguments_of(self, name: str) -> dict[str, str]:
        """The arguments that a stage declares or is built from, with their defaults."""
        stage = self.stage(name)
        if stage is None:
            return {}
        words = set(re.findall(r"\w+", stage.base))
        declared = stage.arguments | words.intersection(self.arguments)
        return {each: self.arguments[each] for each in sorted(declared)}


def parse_dockerfile(text: str) -> Dockerfile:
    """Reads the arguments and stages of a Dockerfile; whatever else it holds is left to Docker."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line, instruction in _lines(text):
        found = _FROM.match(line) if instruction else None
        if found:
            name = found["name"] or str(len(stages))
            stages.append(
                Stage(name=name.lower(), base=found["base"], text="", arguments=frozenset())
            )
        declared = _ARG.match(line) if instruction else None
        if declared:
            default = (declared[2] or "").strip().strip("\"'")
            arguments[declared[1]] = default or arguments.get(declared[1], "")
        if stages:
            names = {declared[1]} if declared else set()
            stage = stages[-1]
            stages[-1] = replace(
                stage, text=f"{stage.text}{line}\n", arguments=stage.arguments | names
            )
    return Dockerfile(arguments=arguments, stages=tuple(stages))


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Lines without comments and empty ones; the flag is false inside a here-document, where all stay."""
    end: str | None = None
    for line in text.splitlines():
        if end is not None:
            yield line, False
            if line.strip() == end:
                end = None
            continue
        if _COMMENT.match(line) or not line.strip():
            continue
        yield line, True
        if found := _HEREDOC.search(line):
            end = found[2]


def hash_context(context: Path, dockerfile: Path) -> str:
    """The SHA-256 of what a build may read: names, executable bits and contents of the context's files.

    `.dockerignore` is obeyed, or the Dockerfile's own (`NAME.dockerignore`), which Docker prefers.
    """
    digest = hashlib.sha256()
    for name in sorted(exclude_paths(str(context), _ignore_patterns(context, dockerfile))):
        path = context / name
        if path.is_symlink():
            digest.update(f"{name} -> {path.readlink()}\n".encode())
        elif path.is_file():
            executable = "x" if os.access(path, os.X_OK) else "-"
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{name} {executable} {content}\n".encode())
    return digest.hexdigest()


def _ignore_patterns(context: Path, dockerfile: Path) -> list[str]:
    own = dockerfile.with_name(f"{dockerfile.name}.dockerignore")
    for path in (own, context / ".dockerignore"):
        if path.is_file():
            lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
            return [line for line in lines if line and not line.startswith("#")]
    # What Python leaves beside sources would make a key differ from one machine to the next.
    return ["**/__pycache__"]
