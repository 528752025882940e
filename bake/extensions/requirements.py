"""What extensions need beside the base's packages: locks with hashes, held against what the base has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bake.errors import SourceError

_PINNED = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*==\s*(?P<version>[A-Za-z0-9.!+_-]+)\s*"
    r"(?P<marker>;[^\\]*?)?(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})+)"
)
_HOW = (
    "uv pip compile --generate-hashes --python-version 3.10 --python-platform linux"
    " --constraint requirements/webui.txt makes one"
)


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """One package at one version, with the digests of its files."""

    name: str
    """As PyPI compares it."""
    version: str
    text: str
    """For pip, on one line."""


def parse_requirements(text: str, *, where: str) -> list[Requirement]:
    """Reads a lock: exact versions with SHA-256 hashes, and nothing else.

    Raises:
        SourceError: the first line that is none.
    """
    found: dict[str, Requirement] = {}
    joined = re.sub(r"\\\s*\n", " ", text)
    for raw in joined.splitlines():
        line = " ".join(re.sub(r"(^|\s)#.*", "", raw).split())
        if not line:
            continue
        pinned = _PINNED.fullmatch(line)
        if pinned is None:
            raise SourceError(
                f"{line[:80]!r} is no package at one version with its hashes",
                where=where,
                hint=_HOW,
            )
        each = Requirement(name=plain_name(pinned["name"]), version=pinned["version"], text=line)
        other = found.setdefault(each.name, each)
        if other.version != each.version:
            raise SourceError(f"{each.name} is there in two versions", where=where, hint=_HOW)
    return list(found.values())


def plain_name(name: str) -> str:
    """The name of a package as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lacking(
    needed: Iterable[tuple[str, Sequence[Requirement]]], installed: Mapping[str, str]
) -> list[Requirement]:
    """What the base does not have yet of all that extensions need.

    Args:
        needed: By the manifest's key of each extension.
        installed: Name to version, of the webui's environment in the base.

    Raises:
        SourceError: two of them need different versions, or the base has another one.
    """
    chosen: dict[str, tuple[str, Requirement]] = {}
    for key, requirements in needed:
        for each in requirements:
            present = installed.get(each.name)
            if present is not None and _public(present) != _public(each.version):
                raise SourceError(
                    f"its lock has {each.name} {each.version}, the webui works with {present}",
                    where=key,
                    hint=f"lock it with the base's versions: {_HOW}",
                )
            before, other = chosen.setdefault(each.name, (key, each))
            if other.version != each.version:
                raise SourceError(
                    f"its lock has {each.name} {each.version}, that of {before} {other.version}",
                    where=key,
                    hint="lock both together, into one file for both",
                )
    kept = [each for _, each in chosen.values() if each.name not in installed]
    return sorted(kept, key=lambda each: each.name)


def _public(version: str) -> str:
    """Without what a build of it adds, such as `+cu121`."""
    return version.partition("+")[0]
