"""The manifest: what a user writes. All errors of a file are reported in one run.

`Manifest` is the one description of the format: `bake schema` prints its JSON Schema, and the
messages take the expected form from the same field descriptions.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from bake.errors import ManifestError
from bake.manifest.gpus import gpu_names
from bake.manifest.yaml_lines import Document, KeyPath, YamlError, parse_yaml
from runtime.job.fields import LIMITS
from runtime.worker import Role

Family = Literal["sd1", "sd2", "sdxl", "demo"]
FAMILIES: tuple[str, ...] = get_args(Family)
MAX_FILE_BYTES = 1 << 20

_NAME = r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$"
_WEIGHTS_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_IMAGE = re.compile(
    r"^(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::\d+)?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$"
)
_RESERVED_ARGS = {
    "--api": "the base image sets it",
    "--ckpt": "`checkpoint` sets it",
    "--ckpt-dir": "the base image sets it",
    "--vae-path": "`vae` sets it",
    "--lora-dir": "the base image sets it",
    "--port": "the base image sets it",
    "--listen": "the webui must stay on loopback behind the worker",
    "--share": "the webui must stay on loopback behind the worker",
    "--ngrok": "the webui must stay on loopback behind the worker",
    "--api-auth": "the worker is its only client",
    "--nowebui": "the base image sets it",
}

_SOURCE_FORM = (
    "a source such as civitai:1590699, hf://owner/repo@revision/file.safetensors, "
    "https://host/file.safetensors or file:path"
)
Source = Annotated[str, Field(min_length=1, strict=True, description=_SOURCE_FORM)]
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class Warmup(BaseModel):
    """The generation at build time that proves the image and fills its caches."""

    model_config = _STRICT

    prompt: str = Field(min_length=1, description="a prompt that the model draws well")
    negative_prompt: str = Field("", description="text")
    width: int = Field(
        512, ge=64, le=4096, multiple_of=8, description="64 to 4096, a multiple of 8"
    )
    height: int = Field(
        512, ge=64, le=4096, multiple_of=8, description="64 to 4096, a multiple of 8"
    )
    steps: int = Field(8, ge=1, le=150, description="1 to 150")
    seed: int = Field(1, ge=0, le=4294967295, description="0 to 4294967295")
    cfg_scale: float = Field(7.0, ge=1, le=30, strict=False, description="1 to 30")
    sampler_name: str = Field("Euler", min_length=1, description="a sampler of the webui")


class WebuiOptions(BaseModel):
    """How the webui of this image differs from the base's own start."""

    model_config = _STRICT

    args: tuple[str, ...] = Field(
        (), strict=False, description="a list of webui flags such as --xformers"
    )

    @field_validator("args")
    @classmethod
    def _refuse_reserved(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        for arg in args:
            flag = arg.split("=")[0]
            if flag in _RESERVED_ARGS:
                raise PydanticCustomError(
                    "reserved",
                    "{flag} cannot be given: {why}",
                    {"flag": flag, "why": _RESERVED_ARGS[flag]},
                )
        return args


class Base(BaseModel):
    """Where the base image comes from, when it is not Dockerfile.base."""

    model_config = _STRICT

    dockerfile: str | None = Field(None, description="a Dockerfile, relative to the manifest")
    context: str | None = Field(
        None,
        description="its build context, relative to the manifest (default: the Dockerfile's folder)",
    )
    image: str | None = Field(None, description="a ready base image, best with its @sha256: digest")
    args: dict[str, str] = Field(default_factory=dict, description="build arguments, text to text")


class Manifest(BaseModel):
    """One image: which model, which card, which warm-up."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, title="bakery manifest")

    name: str = Field(
        pattern=_NAME, max_length=63, description="lower-case letters, digits and dashes"
    )
    family: Family = Field(description="one of " + ", ".join(FAMILIES))
    gpu: str | None = Field(
        None, description="a card of bake/manifest/gpus.json, such as rtx-6000-ada"
    )
    checkpoint: Source
    checkpoints: dict[str, Source] = Field(
        default_factory=dict,
        description="further checkpoints that a request may choose: name to source",
    )
    vae: Source | None = None
    loras: dict[str, Source] = Field(default_factory=dict, description="name to source")
    allow_pickle: bool = Field(
        False, description="true to accept .ckpt and .pt files, which can run code"
    )
    warmup: Warmup
    webui: WebuiOptions = Field(default_factory=WebuiOptions)
    limits: dict[str, int] = Field(
        default_factory=dict, description="request limits by name (docs/request.md), whole numbers"
    )
    base: Base = Field(default_factory=Base)
    image: str = Field(
        description="the repository that the image goes to, such as ghcr.io/you/jib-mix"
    )

    _path: Path = PrivateAttr(default=Path())
    _lines: dict[KeyPath, int] = PrivateAttr(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file that this was read from."""
        return self._path

    @field_validator("gpu")
    @classmethod
    def _known_gpu(cls, gpu: str | None) -> str | None:
        if gpu is not None and gpu not in gpu_names():
            raise PydanticCustomError(
                "unknown_gpu",
                "{gpu} is not a known card{near}",
                {"gpu": gpu, "near": _near(gpu, gpu_names())},
            )
        return gpu

    @field_validator("image")
    @classmethod
    def _image_reference(cls, image: str) -> str:
        if not _IMAGE.match(image):
            raise PydanticCustomError(
                "image", "{image} is not an image repository", {"image": image}
            )
        return image

    @field_validator("loras", "checkpoints")
    @classmethod
    def _plain_names(cls, named: dict[str, str]) -> dict[str, str]:
        for name in named:
            if not _WEIGHTS_NAME.match(name):
                raise PydanticCustomError(
                    "weights_name",
                    "the name {name} may hold letters, digits, dots, dashes and underscores only",
                    {"name": name},
                )
        return named

    @field_validator("limits")
    @classmethod
    def _known_limits(cls, limits: dict[str, int]) -> dict[str, int]:
        for name, value in limits.items():
            if name not in LIMITS:
                near = _near(name, list(LIMITS))
                raise PydanticCustomError(
                    "unknown_limit", "{name} is not a limit{near}", {"name": name, "near": near}
                )
            if value < 1:
                raise PydanticCustomError("small_limit", "{name} must be 1 or more", {"name": name})
        return limits

    def sources(self) -> list[SourceEntry]:
        """Every weights source of the manifest, in the order of the image: checkpoint first."""
        entries = [self._entry(("checkpoint",), "checkpoint", None, self.checkpoint)]
        entries += [
            self._entry(("checkpoints", name), "checkpoint", name, source)
            for name, source in self.checkpoints.items()
        ]
        if self.vae is not None:
            entries.append(self._entry(("vae",), "vae", None, self.vae))
        entries += [
            self._entry(("loras", name), "lora", name, source)
            for name, source in self.loras.items()
        ]
        return entries

    def _entry(self, path: KeyPath, role: Role, name: str | None, source: str) -> SourceEntry:
        key = ".".join(str(part) for part in path)
        return SourceEntry(
            key=key, role=role, name=name, source=source, line=self._lines.get(path, 1)
        )


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """One line of a manifest that names weights."""

    key: str
    role: Role
    name: str | None
    """The name that requests use; None where the file's own name is used."""
    source: str
    line: int


def load_manifest(path: Path) -> Manifest:
    """Reads and checks a manifest.

    Raises:
        ManifestError: with every mistake of the file, each with its line and key.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ManifestError("this is too large to be a manifest", where=str(path))
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError(
            "there is no such manifest", where=str(path), hint=_suggest_file(path)
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ManifestError(f"cannot be read: {reason}", where=str(path)) from None
    return parse_manifest(text, path)


def parse_manifest(text: str, path: Path) -> Manifest:
    """Like `load_manifest`, from text; `path` is where relative sources start from."""
    try:
        document = parse_yaml(text)
    except YamlError as error:
        raise ManifestError(f"not valid YAML: {error}", where=f"{path}:{error.line}") from None
    problems = [
        (line, _dotted(key), "this key is given twice") for key, line in document.duplicates
    ]
    manifest = None
    try:
        manifest = Manifest.model_validate(document.data)
    except ValidationError as error:
        problems += [_describe(each, document) for each in error.errors(include_url=False)]
    if manifest is not None:
        manifest._path = path
        manifest._lines = document.lines
        problems += _check_base(manifest.base, document)
    problems += _check_sources(document)
    if problems or manifest is None:
        raise ManifestError(
            _format_problems(path, problems), hint="docs/manifest.md explains every key"
        )
    return manifest


def _check_base(base: Base, document: Document) -> list[tuple[int, str, str]]:
    line = document.line_of(("base",))
    if base.image and (base.dockerfile or base.context or base.args):
        return [
            (
                line,
                "base",
                "give either `image` or `dockerfile` (with `context` and `args`), not both",
            )
        ]
    if base.context and not base.dockerfile:
        return [(line, "base", "`context` needs `dockerfile`")]
    return []


def _check_sources(document: Document) -> list[tuple[int, str, str]]:
    """Every source text that has the right type is also parsed, so that its form is checked at once."""
    from bake.weights.sources import SourceFormError, parse_source  # noqa: PLC0415  # it imports us

    found: list[tuple[int, str, str]] = []
    texts: list[tuple[KeyPath, Any]] = [
        ((key,), document.data.get(key)) for key in ("checkpoint", "vae")
    ]
    for group in ("checkpoints", "loras"):
        entries = document.data.get(group)
        if isinstance(entries, dict):
            texts += [((group, str(name)), source) for name, source in entries.items()]
    for path, text in texts:
        if isinstance(text, str) and text:
            try:
                parse_source(text)
            except SourceFormError as error:
                found.append((document.line_of(path), _dotted(path), str(error)))
    return found


_OWN_WORDS = ("reserved", "unknown_gpu", "unknown_limit", "small_limit", "weights_name")
"""Errors of our own validators, whose text needs no expected form."""


def _describe(error: ErrorDetails, document: Document) -> tuple[int, str, str]:
    """One pydantic error as (line, key, message with the expected form)."""
    path: KeyPath = tuple(part for part in error["loc"] if part != "[key]")
    line = document.line_of(path)
    expected = _expected_form(path)
    if error["type"] == "missing":
        return line, _dotted(path), f"is missing; expected {expected}"
    if error["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        return line, _dotted(path), f"is not a known key{_near(str(path[-1]), known)}"
    if error["type"] in _OWN_WORDS:
        return line, _dotted(path), error["msg"]
    if error["type"] == "invalid_key" or "[key]" in error["loc"]:
        return line, _dotted(path), f"the key {error['input']} is not text; put it in quotes"
    got = repr(error["input"])
    shown = got if len(got) <= 60 else got[:57] + "…"
    near = _near(str(error["input"]), FAMILIES) if path == ("family",) else ""
    return line, _dotted(path), f"{shown} does not fit; expected {expected}{near}"


def _model_at(path: KeyPath) -> type[BaseModel] | None:
    """The model that describes the mapping at `path`, if a model does."""
    model: type[BaseModel] = Manifest
    for part in path:
        info = model.model_fields.get(str(part))
        annotation = info.annotation if info else None
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
            return "a mapping" + (f" with {', '.join(required)}" if required else "")
        return _SOURCE_FORM
    return "a mapping"


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def _near(word: str, known: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {', '.join(known)}" if known and len(known) <= 16 else ""


def _suggest_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("manifests")
    names = sorted(each.name for each in folder.glob("*.yaml")) if folder.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    if close:
        return f"did you mean {folder / close[0]}?"
    return "manifests/ holds examples to start from"


def _format_problems(path: Path, problems: list[tuple[int, str, str]]) -> str:
    lines = [
        f"{path}:{line}: {key or 'the manifest'}: {text}" for line, key, text in sorted(problems)
    ]
    count = len(lines)
    head = "the manifest has a mistake:" if count == 1 else f"the manifest has {count} mistakes:"
    return "\n".join([head, *(f"  {line}" for line in lines)])
