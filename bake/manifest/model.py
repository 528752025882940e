"""The manifest: what a user writes.

`Manifest` is the one description of the format: `bake schema` prints its JSON Schema, and the messages of
`bake.manifest.problems` take the expected form from the same field descriptions. Each element of a list or
mapping is checked by itself, so that all of them that are wrong are named in one run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from bake.errors import did_you_mean
from bake.manifest.deploy import Deploy
from bake.manifest.extensions import Extension
from bake.manifest.gpus import gpu_names, gpus_near
from bake.manifest.roles import NAMED, ROLES
from runtime.job.fields import LIMITS
from runtime.worker import Role

Family = Literal["sd1", "sd2", "sdxl", "demo"]
FAMILIES: tuple[str, ...] = get_args(Family)
Compression = Literal["gzip", "zstd"]

_NAME = r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$"
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

_MOVES_MODELS = re.compile(
    r"--(data|vae|embeddings|hypernetwork|gfpgan)-dir|--[a-z]+-models-path|--gfpgan-model"
)
"""Flags with which the webui would pass over what is baked, without a word."""
_WITHOUT_EXTENSIONS = {"--disable-all-extensions", "--disable-extra-extensions"}
SOURCE_FORM = (
    "a source such as civitai:1590699, hf://owner/repo@revision/file.safetensors, "
    "https://host/file.safetensors or file:path"
)
_CONFIG_FORM = (
    "how the webui builds the checkpoint's model, where it cannot tell: builtin:sdxl-v-prediction, "
    "builtin:sd1-v-prediction or file:NAME.yaml"
)
Config = Annotated[str, Field(min_length=1, strict=True, description=_CONFIG_FORM)]
Source = Annotated[str, Field(min_length=1, strict=True, description=SOURCE_FORM)]
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


def _refuse_reserved(arg: str) -> str:
    flag = arg.split("=", maxsplit=1)[0]
    if flag.startswith("-") and len(flag.split()) > 1:
        what = "{arg} is several flags in one text; each is an item of its own"
        raise PydanticCustomError(OWN_WORDS, what, {"arg": arg})
    why = _RESERVED_ARGS.get(flag)
    if _MOVES_MODELS.fullmatch(flag):
        why = "the base image says where models lie, and they are baked there"
    if why:
        raise PydanticCustomError(
            OWN_WORDS, "{flag} cannot be given: {why}", {"flag": flag, "why": why}
        )
    return arg


def _name_of(role: Role) -> Callable[[str], str]:
    def check(name: str) -> str:
        if problem := ROLES[role].check_name(name):
            raise PydanticCustomError(OWN_WORDS, "{problem}", {"problem": problem})
        return name

    return check


def _known_limit(name: str) -> str:
    if name not in LIMITS:
        raise PydanticCustomError(
            OWN_WORDS,
            "{name} is not a limit{near}",
            {"name": name, "near": did_you_mean(name, list(LIMITS))},
        )
    return name


def _positive(value: int) -> int:
    if value < 1:
        raise PydanticCustomError(
            OWN_WORDS, "{value} does not fit; must be 1 or more", {"value": value}
        )
    return value


OWN_WORDS = "own_words"
"""The type of our own validators' errors, whose text is for people as it is."""
_Checkpoints = dict[Annotated[str, AfterValidator(_name_of("checkpoint"))], Source]
_Loras = dict[Annotated[str, AfterValidator(_name_of("lora"))], Source]
_Configs = dict[Annotated[str, AfterValidator(_name_of("config"))], Config]
_Upscalers = dict[Annotated[str, AfterValidator(_name_of("upscaler"))], Source]
_FaceRestorers = dict[Annotated[str, AfterValidator(_name_of("face_restorer"))], Source]
_Embeddings = dict[Annotated[str, AfterValidator(_name_of("embedding"))], Source]
_Hypernetworks = dict[Annotated[str, AfterValidator(_name_of("hypernetwork"))], Source]
_ExtensionModels = dict[Annotated[str, AfterValidator(_name_of("extension_model"))], Source]
_VaeApprox = dict[Annotated[str, AfterValidator(_name_of("vae_approx"))], Source]
_Limits = dict[
    Annotated[str, AfterValidator(_known_limit)], Annotated[int, AfterValidator(_positive)]
]


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
    alwayson_scripts: dict[str, Any] = Field(
        default_factory=dict, description="scripts of extensions: title to `args`, a list"
    )

    def payload(self) -> dict[str, Any]:
        """The fields of the request."""
        given = self.model_dump()
        if not self.alwayson_scripts:
            del given["alwayson_scripts"]
        return given


class WebuiOptions(BaseModel):
    """How the webui of this image differs from the base's own start."""

    model_config = _STRICT

    args: tuple[Annotated[str, AfterValidator(_refuse_reserved)], ...] = Field(
        (),
        strict=False,
        description="a list of webui flags, one an item, such as [--xformers, --no-half-vae]",
    )

    @field_validator("args")
    @classmethod
    def _begins_with_a_flag(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        if args and not args[0].startswith("-"):
            what = "{arg} is no flag; did you mean --{arg}?"
            raise PydanticCustomError(OWN_WORDS, what, {"arg": args[0]})
        return args


class Base(BaseModel):
    """Where the base image comes from, when it is not Dockerfile.base."""

    model_config = _STRICT

    dockerfile: str | None = Field(
        None, min_length=1, description="a Dockerfile, relative to the manifest"
    )
    context: str | None = Field(
        None,
        min_length=1,
        description="its build context, relative to the manifest (default: the Dockerfile's folder)",
    )
    image: str | None = Field(
        None, min_length=1, description="a ready base image, best with its @sha256: digest"
    )
    args: dict[str, str] = Field(default_factory=dict, description="build arguments, name to text")


class Manifest(BaseModel):
    """One image: which model, which card, which warm-up."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, title="bakery manifest")

    name: str = Field(
        pattern=_NAME, max_length=63, description="lower-case letters, digits and dashes"
    )
    family: Family = Field(
        description="one of sd1 (SD 1.4 and 1.5), sd2, sdxl (Pony and Illustrious, too), demo"
    )
    gpu: str | None = Field(
        None, description="a card of bake/manifest/gpus.json, such as rtx-6000-ada"
    )
    checkpoint: Source
    checkpoints: _Checkpoints = Field(
        default_factory=dict,
        description="further checkpoints that a request may choose: name to source, such as other: civitai:1590699",
    )
    vae: Source | None = None
    config: Config | None = None
    configs: _Configs = Field(
        default_factory=dict,
        description="the same for further checkpoints: the checkpoint's name to its config",
    )
    loras: _Loras = Field(
        default_factory=dict,
        description="a mapping of name to source, such as detail: civitai:135867",
    )
    upscalers: _Upscalers = Field(
        default_factory=dict,
        description="name to source, such as 4x-UltraSharp: hf://owner/repo@revision/4x-UltraSharp.pth",
    )
    face_restorers: _FaceRestorers = Field(
        default_factory=dict,
        description="CodeFormer and GFPGAN, with detection_Resnet50_Final and parsing_parsenet: name to source",
    )
    embeddings: _Embeddings = Field(
        default_factory=dict,
        description="name to source, such as EasyNegative: file:EasyNegative.safetensors",
    )
    hypernetworks: _Hypernetworks = Field(default_factory=dict, description="name to source")
    vae_approx: _VaeApprox = Field(
        default_factory=dict,
        description="what previews are decoded with: " + ", ".join(ROLES["vae_approx"].files),
    )
    extensions: tuple[Extension, ...] = Field(
        (),
        strict=False,
        description="extensions of the webui: a list of url and commit, with scripts and requirements",
    )
    extension_models: _ExtensionModels = Field(
        default_factory=dict,
        description="files that extensions look for: path to source, such as ControlNet/NAME.safetensors",
    )
    allow_pickle: bool = Field(
        False, description="true or false: true accepts .ckpt and .pt files, which can run code"
    )
    warmup: Warmup
    webui: WebuiOptions = Field(default_factory=WebuiOptions)
    limits: _Limits = Field(
        default_factory=dict, description="request limits by name (docs/request.md), whole numbers"
    )
    base: Base = Field(default_factory=Base)
    deploy: Deploy = Field(default_factory=Deploy)
    compression: Compression = Field(
        "gzip",
        description="gzip, or zstd: what layers are packed with at a push (docs/images.md#zstd)",
    )
    image: str = Field(
        description="the repository that the image goes to, in lower case, without https:// and digest, "
        "such as ghcr.io/you/jib-mix"
    )

    _path: Path = PrivateAttr(default=Path())
    _lines: dict[str, int] = PrivateAttr(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file that this was read from."""
        return self._path

    def read_from(self, path: Path, lines: Mapping[str, int]) -> Manifest:
        """This manifest, with the file that it was read from and the line of each source's key."""
        self._path, self._lines = path, dict(lines)
        return self

    @field_validator("gpu")
    @classmethod
    def _known_gpu(cls, gpu: str | None) -> str | None:
        if gpu is not None and gpu not in gpu_names():
            raise PydanticCustomError(
                OWN_WORDS,
                "{gpu} is not a known card{near}",
                {"gpu": gpu, "near": gpus_near(gpu)},
            )
        return gpu

    @field_validator("extensions")
    @classmethod
    def _each_extension_once(cls, extensions: tuple[Extension, ...]) -> tuple[Extension, ...]:
        folders = [each.folder.lower() for each in extensions]
        titles = [title.lower() for each in extensions for title in each.scripts]
        for what, names in (("named", folders), ("giving the script", titles)):
            for twice in sorted({name for name in names if names.count(name) > 1}):
                raise PydanticCustomError(
                    OWN_WORDS, "two extensions are {what} {name}", {"what": what, "name": twice}
                )
        return extensions

    @model_validator(mode="after")
    def _extensions_are_loaded(self) -> Manifest:
        flags = {arg.partition("=")[0] for arg in self.webui.args} & _WITHOUT_EXTENSIONS
        titles = {title.lower() for each in self.extensions for title in each.scripts}
        unknown = [name for name in self.warmup.alwayson_scripts if name.lower() not in titles]
        if self.extensions and flags:
            what = "the extensions would not be loaded, with {flags} in webui.args"
            raise PydanticCustomError(OWN_WORDS, what, {"flags": ", ".join(sorted(flags))})
        inside = [
            path.split("/")[1] for path in self.extension_models if path.startswith("extensions/")
        ]
        strange = sorted(set(inside) - {each.folder for each in self.extensions})
        if strange:
            what = (
                "extension_models has a path in the folder of {name}, which is none of `extensions`"
            )
            raise PydanticCustomError(OWN_WORDS, what, {"name": strange[0]})
        if unknown:
            what = (
                "warmup.alwayson_scripts names {name}, which no extension has among its `scripts`"
            )
            raise PydanticCustomError(OWN_WORDS, what, {"name": unknown[0]})
        return self

    @field_validator("image")
    @classmethod
    def _image_reference(cls, image: str) -> str:
        if not _IMAGE.match(image):
            raise PydanticCustomError("image", "is not an image repository")
        return image

    def config_for(self, key: str) -> str | None:
        """The config of a checkpoint's key."""
        return self.config if key == "checkpoint" else self.configs.get(key.partition(".")[2])

    def sources(self) -> list[SourceEntry]:
        """Every weights source of the manifest, in the order of the image: checkpoint first."""
        entries = [self._entry("checkpoint", "checkpoint", None, self.checkpoint)]
        for role in NAMED:
            # Configs are named after their checkpoint's file, which only its pin knows for the first.
            if role.role == "config" and self.config is not None:
                entries.append(self._entry("config", "config", None, self.config))
            entries += [
                self._entry(f"{role.key}.{name}", role.role, role.request_name(name), source)
                for name, source in getattr(self, role.key).items()
            ]
            if role.role == "checkpoint" and self.vae is not None:
                entries.append(self._entry("vae", "vae", None, self.vae))
        return entries

    def _entry(self, key: str, role: Role, name: str | None, source: str) -> SourceEntry:
        return SourceEntry(
            key=key, role=role, name=name, source=source, line=self._lines.get(key, 1)
        )


def config_key(checkpoint_key: str) -> str:
    """The manifest's key of a checkpoint's config: `checkpoints.x` → `configs.x`."""
    return checkpoint_key.replace("checkpoint", "config", 1)


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """One line of a manifest that names weights."""

    key: str
    role: Role
    name: str | None
    """The name that requests use; None where the file's own name is used."""
    source: str
    line: int
