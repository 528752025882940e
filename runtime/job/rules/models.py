"""Models beside the checkpoint: the entries of `loras` and `embeddings`, and whose faces are restored by what. Pure.

What is baked is what there is: the webui (v1.9.3) fetches the models of its face restorers and upscalers at their
first use, and makes nothing of them, without a word, where it cannot.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.errors import FieldError
from runtime.job.values import suggest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESTORERS = ("CodeFormer", "GFPGAN")
"""The webui's own choice first."""
AUTOV3_CHARS = 12
"""Of CivitAI's AutoV3: SHA-256 without the file's header; a `hash` so long is held against the file itself."""


@dataclass(frozen=True, kw_only=True)
class FileRequest:
    """One entry of `embeddings` or `loras`. Baked if neither `url` nor `civitai` is given."""

    name: str
    url: str | None = None
    civitai: str | None = None
    sha256_prefix: str | None = None

    @property
    def is_baked(self) -> bool:
        return self.url is None and self.civitai is None


@dataclass(frozen=True, kw_only=True)
class LoraRequest(FileRequest):
    """One entry of `loras`."""

    scale: float = 1.0


def check_entry(
    read: Mapping[str, Any], where: str, *, word: str, baked: Mapping[str, str]
) -> Iterator[FieldError]:
    """One entry, each field of which is right by itself.

    Args:
        read: Its fields.
        where: It, such as `loras[0]`.
        word: What it is.
        baked: Names and their files' SHA-256.
    """

    def wrong(field: str, message: str) -> FieldError:
        return FieldError(field=f"{where}{field}", message=message)

    name, text = read.get("name"), read.get("hash", "").lower()
    if name is None:
        yield wrong(".name", "is missing")
    elif "url" in read and "civitai" in read:
        yield wrong("", "give either url or civitai")
    elif "url" in read or "civitai" in read:
        if not _NAME.fullmatch(name):
            form = "up to 64 letters, digits, '.', '_' or '-', a letter or digit first"
            yield wrong(".name", f"must be {form}")
    elif name not in baked:
        hint = suggest(name, baked)
        yield wrong(".name", f"no {word} of that name is baked{hint}; else give url")
    # An AutoV3 is held against the file itself.
    elif len(text) != AUTOV3_CHARS and not baked[name].startswith(text):
        yield wrong(".hash", f"the baked file's SHA-256 is {baked[name]}")


def check_twice(field: str, entries: Sequence[FileRequest]) -> Iterator[FieldError]:
    """Names that stand in a list before."""
    names = [each.name.lower() for each in entries]
    for number, each in enumerate(entries):
        if names[number] in names[:number]:
            yield FieldError(
                field=f"{field}[{number}].name", message=f"{each.name!r} is there twice"
            )


def check_embeddings(
    entries: Sequence[FileRequest], texts: Collection[str], *, baked: Collection[str], folder: str
) -> Iterator[FieldError]:
    """The webui takes an embedding where a prompt says its name, and knows it by that alone."""
    said, taken = "\n".join(texts).lower(), {name.lower() for name in baked}
    for number, each in enumerate(entries):
        where = f"embeddings[{number}].name"
        if each.name.lower() not in said:
            yield FieldError(
                field=where, message=f"no prompt says {each.name!r}: it changes nothing"
            )
        if each.is_baked:
            continue
        if each.name.lower() in taken:
            what = "is a baked embedding's; give the one from an address another name"
            yield FieldError(field=where, message=what)
        if not folder:
            what = "this image has no folder for embeddings (label bakery.path.embedding)"
            yield FieldError(field=f"embeddings[{number}]", message=what)


def choose_restorer(asked: str | None, baked: Collection[str]) -> str:
    """The face restorer of a request: the one that it names, or the webui's own choice of what is baked.

    Raises:
        ValueError: it is not baked.
    """
    there = [each for each in RESTORERS if each in baked]
    if (chosen := asked or next(iter(there), None)) in there:
        return str(chosen)
    what = f"{asked} is not baked" if asked else "no face restorer is baked"
    raise ValueError(f"{what}; there is {', '.join(there)}" if there else what)
