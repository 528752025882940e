"""CivitAI's records, parsed with as few assumptions as its API deserves.

Any field may be missing or null; `primary` is present only when true; hashes are uppercase;
`sizeKB` is bytes/1024, sometimes rounded: a sanity bound, never a length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bake.errors import SourceError
from bake.lock import Licence
from bake.weights.sources import Source

_SHA256 = re.compile(r"^[0-9A-Fa-f]{64}$")
_ROLES = {
    "checkpoint": "checkpoint",
    "lora": "lora",
    "locon": "lora",
    "dora": "lora",
    "vae": "vae",
    "textualinversion": "embedding",
    "hypernetwork": "hypernetwork",
    "controlnet": "ControlNet",
    "upscaler": "upscaler",
}
_FAMILIES = (
    (re.compile(r"sd 1(\.\d)?( (lcm|hyper|lightning|turbo))?"), ("sd1",)),
    (re.compile(r"sd 2(\.\d)?( (768|unclip))*"), ("sd2",)),
    (re.compile(r"sdxl( (0\.9|1\.0|lcm|lightning|hyper|turbo|distilled))*"), ("sdxl",)),
    (re.compile(r"pony( (diffusion|xl|v[1-6](\.\d+)?))*"), ("sdxl",)),
    (re.compile(r"illustrious([ -](xl|v?[0-2](\.\d+)?))*"), ("sdxl",)),
    (re.compile(r"noobai([ -](xl|eps|v-?pred|v?[01](\.\d+)?))*"), ("sdxl",)),
)
"""Whole names of base models; all others are families that no manifest can name. A later version may be
another model altogether: Pony V7 is AuraFlow, SD 3 a transformer."""
_MODELS = ("model", "pruned model")


@dataclass(frozen=True, kw_only=True)
class File:
    """One of a version's files."""

    file_id: int
    name: str
    type: str
    about_bytes: int | None
    sha256: str | None
    is_primary: bool
    metadata: Mapping[str, str]
    scans: tuple[str, str]
    """Results of the pickle and the virus scan: Pending, Success, Danger or Error."""

    def fits(self, wanted: Sequence[tuple[str, str]]) -> bool:
        """Whether it is what a pasted address asks for."""
        values = {**self.metadata, "type": self.type}
        return all(
            values.get(name, value).lower() == value.lower() for name, value in wanted
        ) and any(name in values for name, _ in wanted)


@dataclass(frozen=True, kw_only=True)
class Version:
    """One model version."""

    version_id: int
    model_id: int | None
    name: str
    model_name: str
    model_type: str
    base_model: str | None
    status: str
    published_at: str | None
    trigger_words: tuple[str, ...]
    usage_control: str
    early_access: bool
    files: tuple[File, ...]

    @property
    def title(self) -> str:
        """As its page shows it."""
        return " ".join(each for each in (self.model_name, self.name) if each)

    def role_of(self, file: File) -> str | None:
        """What a file of it is, in the manifest's words; None where CivitAI says nothing of use."""
        # A checkpoint's version may hold its VAE as a second file.
        return "vae" if file.type.lower() == "vae" else _ROLES.get(self.model_type.lower())

    @property
    def families(self) -> tuple[str, ...] | None:
        """Families that the base model belongs to."""
        return families_of(self.base_model)


def families_of(base_model: str | None) -> tuple[str, ...] | None:
    """Families that a base model's name stands for; None where it says nothing, empty where no manifest has it."""
    if not base_model or base_model.lower() == "other":
        return None
    name = " ".join(base_model.lower().split())
    return next((families for form, families in _FAMILIES if form.fullmatch(name)), ())


def parse_version(data: Mapping[str, Any], *, where: str) -> Version:
    """Parses a record of /model-versions, or an entry of a model's `modelVersions`.

    Raises:
        SourceError: it lacks what no version can lack.
    """
    if not isinstance(data.get("id"), int):
        raise SourceError("CivitAI's answer is no model version", where=where)
    model = _mapping(data.get("model"))
    return Version(
        version_id=data["id"],
        model_id=_whole(data.get("modelId")),
        name=_text(data.get("name")),
        model_name=_text(model.get("name")),
        model_type=_text(model.get("type")),
        base_model=_text(data.get("baseModel")) or None,
        status=_text(data.get("status")) or "Published",
        published_at=_text(data.get("publishedAt")) or None,
        trigger_words=tuple(filter(None, map(_text, _list(data.get("trainedWords"))))),
        usage_control=_text(data.get("usageControl")) or "Download",
        early_access=bool(data.get("paidAccess"))
        or bool(data.get("earlyAccessEndsAt"))
        or data.get("availability") == "EarlyAccess",
        files=tuple(
            _parse_file(each) for each in _list(data.get("files")) if isinstance(each, Mapping)
        ),
    )


def _parse_file(data: Mapping[str, Any]) -> File:
    sha256 = _text(_mapping(data.get("hashes")).get("SHA256"))
    size_kb = data.get("sizeKB")
    known = isinstance(size_kb, (int, float)) and not isinstance(size_kb, bool) and size_kb > 0
    return File(
        file_id=_whole(data.get("id")) or 0,
        name=_text(data.get("name")).replace("\\", "/").rsplit("/", 1)[-1] or "file",
        type=_text(data.get("type")) or "Model",
        about_bytes=round(float(size_kb or 0) * 1024) if known else None,
        sha256=sha256.lower() if _SHA256.match(sha256) else None,
        is_primary=data.get("primary") is True,
        metadata={
            name: value
            for name, value in _mapping(data.get("metadata")).items()
            if isinstance(value, str)
        },
        scans=(_text(data.get("pickleScanResult")), _text(data.get("virusScanResult"))),
    )


def choose_file(version: Version, source: Source, *, where: str) -> File:
    """The one file that a source means.

    Raises:
        SourceError: there is none, or there are several between which nothing decides.
    """
    if source.file_id is not None:
        for file in version.files:
            if file.file_id == source.file_id:
                return file
        raise SourceError(
            f"version {version.version_id} has no file {source.file_id}",
            where=where,
            hint=_list_files(version),
        )
    if not version.files:
        raise SourceError(
            "the version is archived: CivitAI keeps its record, but no file of it", where=where
        )
    fitting = [file for file in version.files if file.fits(source.wanted)] if source.wanted else []
    usable = (
        fitting
        or [file for file in version.files if file.type.lower() in _MODELS]
        or [file for file in version.files if file.type.lower() == "vae"]
    )
    for chosen in (usable, [file for file in usable if _is_safetensors(file)]):
        primary = [file for file in chosen if file.is_primary]
        if len(primary) == 1 and (_is_safetensors(primary[0]) or len(usable) == 1):
            return primary[0]
        if len(chosen) == 1:
            return chosen[0]
    if not usable:
        raise SourceError(
            "none of the version's files is a model", where=where, hint=_list_files(version)
        )
    raise SourceError(
        "the version has several files, and nothing says which is meant",
        where=where,
        hint=_list_files(version),
    )


def _is_safetensors(file: File) -> bool:
    return file.name.lower().endswith(".safetensors")


def _list_files(version: Version) -> str:
    known = ", ".join(
        f"civitai:{version.version_id}+{file.file_id} ({file.name}, {file.type})"
        for file in version.files[:8]
    )
    return f"write one of {known}" if known else "it has no files"


def parse_licence(model: Mapping[str, Any]) -> Licence:
    """The licence fields, which only /models has. `allowCommercialUse` comes in three spellings."""
    return Licence(
        commercial_use=_commercial_use(model.get("allowCommercialUse")),
        no_credit=_flag(model.get("allowNoCredit")),
        derivatives=_flag(model.get("allowDerivatives")),
        different_licence=_flag(model.get("allowDifferentLicense")),
    )


def _commercial_use(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        value = value.strip("{}").split(",")
    if not isinstance(value, list):
        return None
    words = {_text(word).strip().strip('"') for word in value}
    return tuple(sorted(word for word in words if word))


def _text(value: object) -> str:
    """Text that may be shown: whatever a name holds, it does not steer a terminal."""
    return "".join(filter(str.isprintable, value)) if isinstance(value, str) else ""


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
