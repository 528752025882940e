"""What a pickle of weights holds, read without running any of it; and whether the webui would read it at all.

The webui (v1.9.3, modules/safe.py) looks through a pickle before it loads it. What it would not load is not missed
with an error: an upscaler gives the picture back as it was, an embedding stays a word. So the same rules are kept here:
which entries the zip may have, and which names the pickle may ask for. All of these are stand-ins that do nothing.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bake.lock import Pin
from runtime.files.embedding_kinds import recognise_embedding
from runtime.files.safetensors import Tensor

_ENTRY = re.compile(r"[^/]+/(?:data/\d+|version|data\.pkl)")
_NEWER = re.compile(
    r"[^/]+/(?:byteorder|\.data/serialization_id|\.format_version|\.storage_alignment)"
)
_ALLOWED = {
    "collections": {"OrderedDict"},
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_device_tensor_from_numpy"},
    "torch": {
        "FloatStorage", "HalfStorage", "IntStorage", "LongStorage", "DoubleStorage", "ByteStorage",
        "float32", "BFloat16Storage",
    },
    "torch.nn.modules.container": {"ParameterDict"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
    "numpy": {"dtype", "ndarray"},
    "_codecs": {"encode"},
    "pytorch_lightning.callbacks": {"model_checkpoint"},
    "pytorch_lightning.callbacks.model_checkpoint": {"ModelCheckpoint"},
    "__builtin__": {"set"},
}  # fmt: skip
_MOST_BYTES = 4 << 20
"""Of the pickle itself, without the tensors' bytes: twenty times CodeFormer's. A hostile one takes 10 s a MiB."""
_MOST_UNPACKED_BYTES = 16 << 20
_LEGACY_OBJECTS = 5
_RESAVE = "save it with torch.save(…, _use_new_zipfile_serialization=False), or take a .safetensors file where there is one"


class UnreadableError(ValueError):
    """The webui would not read it; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a pickle holds."""

    tensors: Mapping[str, Tensor]
    """Names and shapes, those of nested mappings by their last name."""
    keys: frozenset[str | int]
    """Of the outermost mapping."""


class _Stub:
    """Stands for whatever a pickle asks for: takes anything, does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.items: dict[Any, Any] = {}

    def __call__(self, *_: Any, **__: Any) -> _Stub:
        return _Stub()

    def __setitem__(self, key: Any, item: Any) -> None:
        self.items[key] = item

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            # A module's own tensors (torch.nn's ParameterDict).
            self.items.update(state.get("_parameters") or {})

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass


class _Mapping(dict[Any, Any]):
    """As `OrderedDict`: it may have attributes."""

    def __init__(self, *_: Any) -> None:
        super().__init__()


class _Array(_Stub):
    def __init__(self, shape: object) -> None:
        super().__init__()
        plain = isinstance(shape, tuple) and all(type(each) is int and each >= 0 for each in shape)
        self.shape: tuple[int, ...] = shape if plain and isinstance(shape, tuple) else ()


def _rebuild_tensor(_storage: Any = None, _offset: Any = 0, shape: Any = (), *_: Any) -> _Array:
    return _Array(shape)


def _rebuild_parameter(data: Any = None, *_: Any) -> Any:
    return data


_STANDS_FOR: Mapping[str, Any] = {
    "OrderedDict": _Mapping,
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_parameter": _rebuild_parameter,
}
_Unpickler: Any = pickle._Unpickler  # the one in C keeps a table as long as a number says


class _Reader(_Unpickler):  # type: ignore[misc]
    def persistent_load(self, _: Any) -> _Stub:
        return _Stub()

    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise UnreadableError(f"it asks for {module[:60]}.{name[:60]}, which the webui forbids")
        return _STANDS_FOR.get(name, _Stub)


class _Limited:
    """A file of which no more is read than a pickle may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read(self._check(size))

    def readline(self) -> bytes:
        return self._file.readline(self._check(_MOST_BYTES // 2))

    def _check(self, size: int) -> int:
        if not 0 <= size <= _MOST_BYTES - self._file.tell():
            raise UnreadableError("its pickle is huge, or broken")
        return size


def is_bomb(path: Path) -> bool:
    """Whether a zip has much in it that is compressed: torch stores all as it is, and reading it takes minutes."""
    with suppress(OSError, ValueError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        packed = [each for each in archive.infolist() if each.compress_type != zipfile.ZIP_STORED]
        return sum(each.file_size for each in packed) > _MOST_UNPACKED_BYTES
    return False


def read_pickle(path: Path) -> Contents:
    """Reads names and shapes.

    Raises:
        UnreadableError: the webui would refuse it, or it is broken.
    """
    try:
        if zipfile.is_zipfile(path):
            found = _read_zip(path)
        else:
            with path.open("rb") as file:
                found = _read_legacy(file)
    except UnreadableError:
        raise
    except Exception as error:
        # Somebody may have made it to be misread; whatever then goes wrong, the webui gets no further.
        raise UnreadableError(f"it is broken ({type(error).__name__})") from error
    keys = frozenset(each for each in found if isinstance(each, (str, int)))
    # Beside it is what stands for the word, which may be a tensor as well.
    words = found.get("string_to_param")
    tensors = dict(_flatten(found if words is None else words, set()))
    if words is not None and len(tensors) == 1:
        tensors = dict(zip(["emb_params"], tensors.values(), strict=True))
    return Contents(tensors=tensors, keys=keys)


def _read_zip(path: Path) -> dict[Any, Any]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if _NEWER.fullmatch(name):
                what = f"torch 2.1 or newer has put {name[:60]} into it, which this webui refuses; {_RESAVE}"
                raise UnreadableError(what)
            if not _ENTRY.fullmatch(name):
                raise UnreadableError(f"it holds {name[:60]}, which the webui refuses")
        pickles = [each for each in archive.infolist() if each.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > _MOST_BYTES:
            raise UnreadableError("it holds no data.pkl of its own, or a huge one")
        with archive.open(pickles[0]) as file:
            return _mapping(_Reader(file).load())


def _read_legacy(file: BinaryIO) -> dict[Any, Any]:
    """Torch's format before 1.6: a number, a version, facts of the system, the object, the names of storages."""
    whole = _Limited(file)
    objects = [_Reader(whole).load() for _ in range(_LEGACY_OBJECTS)]
    return _mapping(objects[3])


def _mapping(found: Any) -> dict[Any, Any]:
    if isinstance(found, _Stub):
        found = found.items
    if not isinstance(found, dict):
        raise UnreadableError("it holds no mapping of names to tensors")
    return found


def _flatten(found: Any, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Each mapping once, whatever holds it."""
    if isinstance(found, _Stub):
        found = found.items
    if id(found) in seen or not isinstance(found, (dict, tuple, list)):
        return
    seen.add(id(found))
    for key, each in found.items() if isinstance(found, dict) else enumerate(found):
        if isinstance(each, _Array):
            yield str(key), Tensor(dtype="", shape=each.shape, start=0, end=0)
        else:
            yield from _flatten(each, seen)


_ARCHITECTURES = (
    ("HAT", "relative_position_index_SA"),
    ("SwinIR", "layers.0.residual_group.blocks.0.attn.relative_position_index"),
    ("DAT", "layers.0.blocks.2.attn.attn_mask_0"),
    ("ScuNET", "m_head.0.weight"),
)
"""Folder, and a tensor that upscalers of its kind have; the first that fits (spandrel's own marks)."""
_OTHERS = ("ESRGAN", "RealESRGAN")
_MARKS = {
    "CodeFormer": "quantize.embedding.weight",
    "GFPGAN": "stylegan_decoder.constant_input.weight",
    "detection_Resnet50_Final": "ClassHead.0.conv1x1.weight",
    "parsing_parsenet": "out_mask_conv.conv2d.weight",
    "model": "conv8.weight",
    "vaeapprox-sdxl": "conv8.weight",
    "taesd_decoder": "3.conv.0.weight",
    "taesdxl_decoder": "3.conv.0.weight",
    "taesd_encoder": "1.conv.0.weight",
    "taesdxl_encoder": "1.conv.0.weight",
}
"""A tensor that each of the webui's named files has."""
_CONTEXTS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_UNET = "model.diffusion_model."


def find_problem(contents: Contents, pin: Pin, family: str) -> str:
    """Why the webui would make nothing, or something else, of a pickle at its place; empty if it can use it."""
    names = {name.removeprefix("module.") for name in contents.tensors}
    if pin.role == "embedding":
        return _embedding_problem(contents, family)
    if pin.role == "hypernetwork":
        return _hypernetwork_problem(contents, family)
    if pin.role == "upscaler":
        return _upscaler_problem(names, pin)
    return (
        ""
        if _MARKS[pin.name] in names
        else f"it holds no {pin.name}: {_MARKS[pin.name]} is missing"
    )


def _upscaler_problem(names: set[str], pin: Pin) -> str:
    if not names or any(name.startswith(_UNET) for name in names):
        return "it holds no upscaler"
    folder = pin.place.parts[0]
    found = next((each for each, mark in _ARCHITECTURES if mark in names), None)
    if found is None:
        return "" if folder in _OTHERS else f"it is no {folder} model: write {pin.name} alone"
    what = f"it is a {found} model, which the webui draws otherwise there"
    return "" if found == folder else f"{what}: write {found}/{pin.name}"


def _embedding_problem(contents: Contents, family: str) -> str:
    facts = recognise_embedding(contents.tensors)
    if facts is None:
        return "it holds no embedding"
    if facts.family not in {None, family}:
        return f"the embedding is for {facts.family}, the manifest's family is {family}"
    return facts.problem and f"the webui cannot use it: {facts.problem}"


def _hypernetwork_problem(contents: Contents, family: str) -> str:
    widths = {each for each in contents.keys if isinstance(each, int)}
    if not widths:
        return "it holds no hypernetwork"
    families = {_CONTEXTS[width] for width in widths & _CONTEXTS.keys()}
    fits = not families or family in families
    return (
        ""
        if fits
        else f"the hypernetwork is for {min(families)}, the manifest's family is {family}"
    )
