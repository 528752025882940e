"""The lock: what a manifest was pinned to. Sorted, stable, meant to be read in a pull request.

`size_bytes` may be null where a source publishes a SHA256 without an exact size: the next `bake lock`
with network fills it in, and a fetch takes the size from the file that the digest has proven.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from bake.errors import ManifestError
from bake.files import write_atomically
from bake.manifest.extensions import FOLDER
from bake.manifest.model import Manifest
from bake.manifest.roles import PICKLES, ROLES
from runtime.worker import Role

LOCK_FORMAT = 1
_PART = r"[A-Za-z0-9][A-Za-z0-9._+ -]*"
_AS_WRITTEN = ConfigDict(strict=True, extra="forbid")
"""What is read is what this bake writes: a lock that was edited by hand is refused where it does not fit."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    """What the source says of its licence; None where it says nothing."""

    __pydantic_config__: ClassVar[ConfigDict] = _AS_WRITTEN

    name: str | None = None
    """As Hugging Face names it, such as `cc-by-nc-nd-4.0`."""
    commercial_use: tuple[str, ...] | None = None
    """CivitAI's `allowCommercialUse`: a subset of Image, RentCivit, Rent, Sell, None."""
    no_credit: bool | None = None
    derivatives: bool | None = None
    different_licence: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One source, pinned to one exact file."""

    __pydantic_config__: ClassVar[ConfigDict] = _AS_WRITTEN

    key: str
    """The manifest's key: `checkpoint`, `checkpoints.name`, `vae`, `loras.name`, `upscalers.SwinIR/name`."""
    role: Role
    name: Annotated[str, Field(pattern=rf"^{_PART}(/{_PART})*$")]
    """The name that a request uses; also the file's stem in the image, unless the webui wants it otherwise. A path for
    an extension's model, of which `A/b-c` and `A/b/c` are two."""
    source: str
    """The manifest's own text."""
    file_name: str
    """As the source names it; its suffix is the suffix in the image."""
    size_bytes: Annotated[int, Field(ge=1)] | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Lower-case hex."""
    url: str
    """Where the bytes come from, without query, token or credentials."""
    title: str | None = None
    """Model and version as their page shows them."""
    model_id: int | None = None
    version_id: int | None = None
    file_id: int | None = None
    revision: str | None = None
    """Hugging Face: the commit, 40 hex digits."""
    base_model: str | None = None
    published_at: str | None = None
    trigger_words: tuple[str, ...] = ()
    licence: Licence = field(default_factory=Licence)
    resolved_on: str | None = None
    """The day (UTC) on which the source gave this answer."""

    @property
    def suffix(self) -> str:
        """The suffix of the file in the image, in lower case."""
        return Path(self.file_name).suffix.lower()

    @property
    def place(self) -> PurePosixPath:
        """Where it lies in the image, from its role's folder on."""
        named = self.key.partition(".")[2] if ROLES[self.role].is_small else self.name
        return ROLES[self.role].place(named, self.suffix)

    @property
    def is_stored_always(self) -> bool:
        """Whether it goes through the store even where that is not wanted: a small pickle, to be looked through."""
        return ROLES[self.role].is_small and self.suffix in PICKLES


@dataclass(frozen=True, kw_only=True)
class ExtensionPin:
    """One extension, pinned to the files of one commit."""

    __pydantic_config__: ClassVar[ConfigDict] = _AS_WRITTEN

    name: Annotated[str, Field(pattern=rf"^{FOLDER}$")]
    """Of its folder in the image."""
    url: str
    """The manifest's own text."""
    ref: str | None = None
    """The manifest's tag or branch, which stood for the commit; None where it names the commit itself."""
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the archive of its files, as the store keeps it."""
    size_bytes: Annotated[int, Field(ge=1)]
    """Of that archive."""
    files_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the list of its files with their digests, which an image can be held against."""
    licence: str | None = None
    """By the title of its licence's text; None where none is known."""
    requirements: str | None = None
    """The manifest's own text."""
    requirements_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of the file that it names."""
    resolved_on: str
    """The day (UTC) on which the repository gave this commit."""

    @property
    def key(self) -> str:
        """What messages call it."""
        return f"extensions.{self.name}"

    @property
    def stored(self) -> list[str]:
        """Digests of what the store keeps of it."""
        return [self.sha256, *filter(None, [self.requirements_sha256])]


@dataclass(frozen=True, kw_only=True)
class Lock:
    """All pins of one manifest, in the order of `Manifest.sources()`."""

    manifest_name: str
    family: str
    pins: tuple[Pin, ...]
    extensions: tuple[ExtensionPin, ...] = ()

    def to_json(self) -> str:
        """Sorted JSON with a closing newline; what is not known is left out."""
        data = {
            "format": LOCK_FORMAT,
            "manifest": self.manifest_name,
            "family": self.family,
            "pins": [_pin_data(pin) for pin in self.pins],
        }
        if self.extensions:
            listed = map(dataclasses.asdict, self.extensions)
            data["extensions"] = [
                {name: value for name, value in each.items() if value is not None}
                for each in listed
            ]
        return json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Lock:
        """The inverse of `to_json`. Raises ValueError that says what does not fit."""
        try:
            data = json.loads(text)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        if not isinstance(data, dict) or data.get("format") != LOCK_FORMAT:
            raise ValueError(f"its format is not {LOCK_FORMAT}, which this bake writes")
        pins = _mappings("pins", data.get("pins"))
        extensions = _mappings("extensions", data.get("extensions", []))
        return cls(
            manifest_name=str(data.get("manifest")),
            family=str(data.get("family")),
            pins=tuple(_parse(_PIN, pin, f"the pin {pin.get('key', '?')}") for pin in pins),
            extensions=tuple(
                _parse(_EXTENSION, each, f"the extension {each.get('name', '?')}")
                for each in extensions
            ),
        )

    def pin(self, key: str) -> Pin:
        """The pin of a manifest key. Raises KeyError."""
        for pin in self.pins:
            if pin.key == key:
                return pin
        raise KeyError(key)


def lock_path(manifest_path: Path) -> Path:
    """`manifests/x.yaml` → `manifests/x.lock.json`."""
    return manifest_path.with_suffix(".lock.json")


def read_lock(path: Path) -> Lock | None:
    """The lock at `path`, or None if there is none. Raises ManifestError if it cannot be understood."""
    try:
        return Lock.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"the lock cannot be read: {error}",
            where=str(path),
            hint="delete it, then bake lock MANIFEST",
        ) from error


def load_lock(manifest: Manifest) -> Lock:
    """The manifest's lock.

    Raises:
        ManifestError: there is none, or it no longer fits; every key that differs is named.
    """
    path = lock_path(manifest.path)
    lock = read_lock(path)
    hint = f"bake lock {manifest.path}"
    if lock is None:
        raise ManifestError("the manifest is not locked yet", where=str(manifest.path), hint=hint)
    differences = find_differences(manifest, lock)
    if differences:
        raise ManifestError(
            "the lock no longer fits the manifest: " + "; ".join(differences),
            where=str(path),
            hint=hint,
        )
    return lock


def find_differences(manifest: Manifest, lock: Lock) -> list[str]:
    """What the lock says otherwise than the manifest, one text for each key; empty if it fits."""
    differences = []
    if lock.manifest_name != manifest.name:
        differences.append(f"name is {manifest.name}, the lock has {lock.manifest_name}")
    if lock.family != manifest.family:
        differences.append(f"family is {manifest.family}, the lock has {lock.family}")
    pinned = {pin.key: pin for pin in lock.pins}
    entries = manifest.sources()
    for entry in entries:
        pin = pinned.pop(entry.key, None)
        if pin is None:
            differences.append(f"{entry.key} is not in the lock")
        elif pin.source != entry.source:
            differences.append(f"{entry.key} is {entry.source}, the lock has {pin.source}")
        elif pin.role != entry.role:
            differences.append(f"{entry.key} is of the role {entry.role}, the lock has {pin.role}")
    differences += [f"{key} is in the lock only" for key in pinned]
    if not differences and [pin.key for pin in lock.pins] != [entry.key for entry in entries]:
        differences.append("the keys stand in another order")
    return differences + _extension_differences(manifest, lock)


def _extension_differences(manifest: Manifest, lock: Lock) -> list[str]:
    differences = []
    pinned = {pin.name: pin for pin in lock.extensions}
    for each in manifest.extensions:
        pin = pinned.pop(each.folder, None)
        where = f"extensions.{each.folder}"
        if pin is None:
            differences.append(f"{where} is not in the lock")
            continue
        for name, ours, theirs in (
            ("url", each.url, pin.url),
            ("ref", each.ref, pin.ref),
            ("commit", each.commit or pin.commit, pin.commit),
            ("requirements", each.requirements, pin.requirements),
        ):
            if ours != theirs:
                differences.append(f"{where}.{name} is {ours}, the lock has {theirs}")
    differences += [f"extensions.{name} is in the lock only" for name in pinned]
    names = [each.folder for each in manifest.extensions]
    if not differences and names != [pin.name for pin in lock.extensions]:
        differences.append("the extensions stand in another order")
    return differences


def write_lock(path: Path, lock: Lock) -> bool:
    """Writes the lock by way of a temporary file; False if it stood there already, byte for byte."""
    text = lock.to_json()
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_atomically(path, text)
    return True


def _pin_data(pin: Pin) -> dict[str, Any]:
    data = dataclasses.asdict(pin)
    data["licence"] = {name: value for name, value in data["licence"].items() if value is not None}
    required = {name for name in data if name in _REQUIRED}
    return {name: value for name, value in data.items() if name in required or value}


_REQUIRED = {
    each.name
    for each in dataclasses.fields(Pin)
    if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
}


_PIN, _EXTENSION = TypeAdapter(Pin), TypeAdapter(ExtensionPin)
_Pin = TypeVar("_Pin", Pin, ExtensionPin)
_FORMS = {
    "string_type": "a text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list of texts",
    "dataclass_type": "a mapping",
    "literal_error": "one of " + ", ".join(get_args(Role)),
}
_LIMITS = {
    "sha256": "no SHA256 of 64 lower-case hex digits",
    "name": "a name that is no plain file name",
    "size_bytes": "a size_bytes that is no number of bytes",
    "commit": "a commit that is not of 40 lower-case hex digits",
}


def _mappings(key: str, listed: Any) -> list[dict[str, Any]]:
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ValueError(f"`{key}` is not a list of mappings")
    return listed


def _parse(kind: TypeAdapter[_Pin], data: dict[str, Any], what: str) -> _Pin:
    """Raises ValueError that says all that does not fit."""
    try:
        # as JSON, in which a list stands for a tuple
        return kind.validate_json(json.dumps(data))
    except ValidationError as error:
        wrong = [_describe(what, each) for each in error.errors(include_url=False)]
        raise ValueError("; ".join(wrong)) from error


def _describe(what: str, error: ErrorDetails) -> str:
    """One error of pydantic in our words."""
    path = [str(part) for part in error["loc"]]
    name = next((part for part in reversed(path) if not part.isdecimal()), "")
    if path[:1] == ["licence"] and len(path) > 1:
        what += "'s licence"
    if error["type"] == "missing":
        return f"{what} lacks {name}"
    if error["type"] == "unexpected_keyword_argument":
        return f"{what} has {name}, which this bake does not know"
    form = _FORMS.get(error["type"])
    if form is None:
        return f"{what} has {_LIMITS.get(name, f'a {name} that does not fit')}"
    if path[-1].isdecimal():
        form = "a list of texts"
    return f"{what} has a {name} that is not {form}"
