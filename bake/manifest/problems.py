"""Every mistake of a manifest in words: its line, its key, what is wrong and what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from bake.errors import did_you_mean, near_to
from bake.manifest.gpus import gpus_near
from bake.manifest.model import FAMILIES, OWN_WORDS, SOURCE_FORM, Manifest
from bake.manifest.roles import NAMED
from bake.manifest.yaml import Document, KeyPath
from bake.secrets import REMEDY, SECRET_NAME, find_secret, mask_tokens
from bake.weights.sources import SourceFormError, parse_source

_OF_SOURCES = {"checkpoint", "vae", *(role.key for role in NAMED)} - {"configs"}


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """One mistake of a manifest."""

    line: int
    key: str
    """With dots; empty for the manifest as a whole."""
    text: str


def find_problems(document: Document, errors: Sequence[ErrorDetails] = ()) -> list[Problem]:
    """All that is wrong with a document, in the order of its lines.

    Args:
        document: The YAML.
        errors: What pydantic says of it.
    """
    found = [
        Problem(line=line, key=key, text="this key is given twice")
        for key, line in document.duplicates
    ]
    found += [_of_pydantic(each, document) for each in errors]
    found += [*_of_base(document), *_of_build_arguments(document), *_of_sources(document)]
    found += _of_what_belongs_together(document)
    return sorted(found)


def describe_problems(path: Path, problems: Sequence[Problem]) -> str:
    """The message that names them all; a token that stands where another value belongs is not repeated."""
    lines = [f"{path}:{each.line}: {each.key or 'the manifest'}: {each.text}" for each in problems]
    count = len(lines)
    head = "the manifest has a mistake:" if count == 1 else f"the manifest has {count} mistakes:"
    return mask_tokens("\n".join([head, *(f"  {line}" for line in lines)]))


def _at(document: Document, path: KeyPath, text: str) -> Problem:
    return Problem(line=document.line_of(path), key=_dotted(path), text=text)


def _of_base(document: Document) -> Iterator[Problem]:
    """What the keys of `base` may not be together, whatever their values are."""
    base = document.data.get("base")
    given = {key for key, value in base.items() if value} if isinstance(base, dict) else set()
    if "image" in given and given & {"dockerfile", "context", "args"}:
        text = "give either `image` or `dockerfile` (with `context` and `args`), not both"
        yield _at(document, ("base",), text)
    elif "context" in given and "dockerfile" not in given:
        yield _at(document, ("base",), "`context` needs `dockerfile`")


def _of_build_arguments(document: Document) -> Iterator[Problem]:
    """Secrets in them would be in the image's history."""
    base = document.data.get("base")
    args = base.get("args") if isinstance(base, dict) else None
    for name, value in args.items() if isinstance(args, dict) else ():
        reason = find_secret(value) if isinstance(value, str) else None
        if reason:
            text = f"{reason}, which would be in the image's history; {REMEDY}"
            yield _at(document, ("base", "args", name), text)


def _of_sources(document: Document) -> Iterator[Problem]:
    """Every source text that has the right type is also parsed, so that its form is checked at once."""
    paths: list[KeyPath] = [("checkpoint",), ("vae",), ("config",)]
    for role in NAMED:
        entries = document.data.get(role.key)
        if isinstance(entries, dict):
            paths += [(role.key, name) for name in entries]
    for path in paths:
        text: Any = document.data
        for part in path:
            text = text.get(part)
        if isinstance(text, str) and text:
            try:
                source = parse_source(text)
            except SourceFormError as error:
                yield _at(document, path, str(error))
                continue
            is_config = source.provider == "file" and (source.path or "").endswith(".yaml")
            if path[0] in ("config", "configs") and not is_config:
                yield _at(document, path, "a config is builtin:NAME or file:NAME.yaml")
    checkpoints = document.data.get("checkpoints")
    known = checkpoints if isinstance(checkpoints, dict) else {}
    for path in paths:
        if path[0] == "configs" and path[1] not in known:
            yield _at(document, path, "names no checkpoint of `checkpoints`")


def _of_what_belongs_together(document: Document) -> Iterator[Problem]:
    for role in NAMED:
        given = document.data.get(role.key)
        if not isinstance(given, dict) or not (given and role.needed):
            continue
        if lacking := [each for each in role.needed if each not in given]:
            yield _at(document, (role.key,), f"nothing of it works without {' and '.join(lacking)}")
        if not given.keys() - role.needed:
            useful = [each for each in role.files if each not in role.needed]
            yield _at(document, (role.key,), f"give {' or '.join(useful)} as well, or none of it")


def _of_pydantic(error: ErrorDetails, document: Document) -> Problem:
    """One pydantic error, with the expected form."""
    path: KeyPath = tuple(part for part in error["loc"] if part != "[key]")
    is_key = "[key]" in error["loc"]
    if error["type"] == OWN_WORDS:
        line = document.line_of(path)
        return Problem(line=line, key=_dotted(path[:-1] if is_key else path), text=error["msg"])
    if error["type"] == "invalid_key" or is_key:
        return _at(document, path, f"the key {error['input']} is not text; put it in quotes")
    if error["type"] == "extra_forbidden":
        return _at(document, path, f"is not a known key{_where_it_belongs(path)}")
    expected = _expected_form(path)
    if error["type"] == "missing":
        return _at(document, path, f"is missing; expected {expected}")
    if error["input"] is None:
        return _at(document, path, f"is empty; expected {expected}")
    got = repr(error["input"])
    shown = "the value" if find_secret(got) else got if len(got) <= 60 else got[:57] + "…"
    return _at(document, path, f"{shown} does not fit; expected {expected}{_meant(path, error)}")


def _where_it_belongs(path: KeyPath) -> str:
    """What to do about an unknown key: it is misspelt, at the wrong depth, or a secret."""
    key = str(path[-1])
    known = _known_keys(path[:-1])
    deeper = [name for name in _known_keys(()) if key in _known_keys((name,))]
    if len(path) == 1 and deeper:
        return f" here; it belongs to `{'` or `'.join(deeper)}`, indented below that"
    if len(path) > 1 and key in _known_keys(()):
        return " here; it belongs to the manifest itself, not indented"
    near = near_to(key, known)
    if not near and SECRET_NAME.search(key):
        return "; a token is no part of a manifest, and is given in the environment: CIVITAI_TOKEN, HF_TOKEN"
    return near or did_you_mean(key, known)


def _meant(path: KeyPath, error: ErrorDetails) -> str:
    """What somebody most likely meant by a value that does not fit."""
    value = error["input"]
    if path == ("family",):
        return near_to(str(value), FAMILIES)
    if path == ("gpu",):
        return gpus_near(str(value))
    if error["type"] != "string_type" or not isinstance(value, int | float):
        return ""
    if path[0] in _OF_SOURCES:
        return f"; did you mean civitai:{value}?" if type(value) is int else ""
    return "; put it in quotes"


def _model_at(path: KeyPath) -> type[BaseModel] | None:
    """The model that describes the mapping at `path`, if a model does."""
    model: type[BaseModel] = Manifest
    for part in path:
        info = model.model_fields.get(str(part))
        annotation = info.annotation if info else model if isinstance(part, int) else None
        if get_origin(annotation) is tuple:
            annotation = get_args(annotation)[0]
        elif NoneType in get_args(annotation):  # a model that may be left out
            annotation = next(each for each in get_args(annotation) if each is not NoneType)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    return model


def _known_keys(path: KeyPath) -> list[str]:
    model = _model_at(path)
    return list(model.model_fields) if model else []


def _expected_form(path: KeyPath) -> str:
    for cut in range(len(path), 0, -1):
        model = _model_at(path[: cut - 1])
        info = model.model_fields.get(str(path[cut - 1])) if model else None
        if info is None:
            continue
        if info.description:
            return info.description
        nested = _model_at(path[:cut])
        if nested:
            required = [name for name, each in nested.model_fields.items() if each.is_required()]
            if required:
                return f"a mapping with {', '.join(required)}"
            return f"a mapping of {', '.join(nested.model_fields)}"
        return SOURCE_FORM
    return "a mapping"


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
