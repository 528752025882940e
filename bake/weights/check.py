"""Weights are checked before they are believed: what a file is, held against the manifest."""

from __future__ import annotations

import io
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from bake.console import format_bytes
from bake.errors import SourceError
from bake.lock import Pin
from bake.manifest.model import Manifest, config_key
from bake.manifest.roles import PICKLES, ROLES, SAFETENSORS
from bake.manifest.yaml import YamlError, parse_yaml
from bake.weights.kinds import Recognised, recognise
from bake.weights.pickles import UnreadableError, find_problem, is_bomb, read_pickle
from bake.weights.store import Store
from runtime.files.errors import WeightsError
from runtime.files.safetensors import MAX_HEADER_BYTES, Header, parse_header, read_header
from runtime.files.sniff import SNIFF_BYTES, identify_start
from runtime.worker import Role

_ANY_PICKLE = "--disable-safe-unpickle"
_MAX_CONFIG_BYTES = 100_000
_OWN_TARGETS = ("ldm.", "sgm.", "modules.", "torch.nn.")
_HINTS = {
    "page": "the download needs a token, or the site was in maintenance: "
    "bake store verify, then bake fetch MANIFEST again",
    "truncated": "the source's own file is broken: choose another file or version",
    "not_weights": "choose another file of this source",
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a file of weights is."""

    format: Literal["safetensors", "pickle"]
    recognised: Recognised | None
    """None for a pickle, which is not opened."""


def inspect_weights(path: Path, *, where: str | None = None) -> Facts:
    """Reads a file's header.

    Raises:
        SourceError: it is no weights file, or a broken one.
    """
    return _facts(lambda: read_header(path), where)


def inspect_start(chunks: Iterator[bytes], size_bytes: int, *, where: str) -> Facts:
    """As `inspect_weights`, of a file that is not on disk: no more than its header is read."""
    start, needed = b"", SNIFF_BYTES
    for chunk in chunks:
        start += chunk
        if identify_start(start[:SNIFF_BYTES]) == "safetensors":
            (length,) = struct.unpack("<Q", start[:8])
            needed = max(SNIFF_BYTES, 8 + min(length, MAX_HEADER_BYTES))
        if len(start) >= needed:
            break
    return _facts(lambda: parse_header(io.BytesIO(start), size_bytes, where), where)


def _facts(read: Callable[[], Header], where: str | None) -> Facts:
    try:
        return Facts(format="safetensors", recognised=recognise(read()))
    except WeightsError as error:
        if error.kind == "pickle":
            return Facts(format="pickle", recognised=None)
        raise SourceError(
            error.what, where=where or error.where, hint=error.hint or _HINTS.get(error.kind)
        ) from error


def check_weights(facts: Facts, manifest: Manifest, pin: Pin) -> list[str]:
    """Holds a file against the manifest; gives warnings.

    Raises:
        SourceError: it is a pickle that is not allowed, of another kind, or of another family.
    """
    where = f"{pin.key} ({pin.file_name})"
    if ROLES[pin.role].is_path and pin.place.suffix.lower() != pin.suffix:
        raise SourceError(
            f"the source's file ends in {pin.suffix or 'nothing'}, the path that it is to have in {pin.place.suffix}",
            where=where,
            hint="write the path with the source's ending",
        )
    if facts.recognised is None:
        if not manifest.allow_pickle:
            raise _pickle_error(where, pin.role)
        if pin.suffix not in PICKLES:
            what = f"its name ends in {pin.suffix or 'nothing'}, but its content is a pickle"
            raise SourceError(what, where=where)
        _check_suffix(pin.file_name, pin.role, where)
        return [f"{where}: a pickle can run code when it is loaded; allow_pickle accepts that"]
    if pin.suffix != SAFETENSORS:
        raise SourceError(
            f"its name ends in {pin.suffix or 'nothing'}, its content is safetensors: "
            "the webui would load it as something else",
            where=where,
            hint="choose a source whose name ends in .safetensors",
        )
    _check_suffix(pin.file_name, pin.role, where)
    if ROLES[pin.role].is_path:
        return []  # what an extension makes of it is the extension's business
    found = facts.recognised
    if found.role != pin.role:
        raise SourceError(
            f"the file is {_a(found.kind)}, not {a_role(pin.role)}",
            where=where,
            hint="put it under the right key, or choose another file",
        )
    is_refiner = found.family == "sdxl-refiner" and pin.key.startswith("checkpoints.")
    fits = is_refiner and manifest.family == "sdxl"
    if found.family is not None and found.family != manifest.family and not fits:
        raise SourceError(
            f"the tensors are those of {found.family}, the manifest's family is {manifest.family}",
            where=where,
            hint="correct `family`, or choose another file",
        )
    if found.problem:
        raise SourceError(found.problem, where=where)
    if found.newer_types:
        raise SourceError(
            f"it has tensors of type {', '.join(found.newer_types)}, which the webui cannot read",
            where=where,
            hint="choose a file in fp16, bf16, fp32 or fp8 (E4M3, E5M2)",
        )
    if found.role == "checkpoint":
        _check_checkpoint(found, manifest, pin, where)
    return _warnings(found, manifest, pin, where)


def _check_checkpoint(found: Recognised, manifest: Manifest, pin: Pin, where: str) -> None:
    """What the webui would load without a word, and draw black or noise with."""
    if not found.has_vae and manifest.vae is None and found.family != "demo":
        raise SourceError(
            "the checkpoint holds no VAE and the manifest names none: the webui would draw noise",
            where=where,
            hint="add vae: with one of its family, or choose a checkpoint with its VAE",
        )
    if manifest.config_for(pin.key) is not None or found.family not in ("sd1", "sdxl"):
        return
    key = config_key(pin.key)
    if found.prediction == "v":
        raise SourceError(
            "the checkpoint predicts v, which the webui cannot tell: it would draw noise",
            where=where,
            hint=f"write {key}: builtin:{found.family}-v-prediction, or file:NAME.yaml with your own",
        )
    if found.prediction == "edm":
        raise SourceError(
            "the checkpoint is an EDM model, which the webui cannot tell: it would draw noise",
            where=where,
            hint=f"choose another checkpoint, or write {key}: file:NAME.yaml with its config",
        )


def check_together(
    manifest: Manifest, pins: Iterable[Pin], store: Store, seen: Mapping[str, Facts]
) -> None:
    """Holds the checkpoints of one image against each other.

    The webui loads all that are of one kind into the same model in memory, and takes what a file lacks for
    granted (`load_state_dict(strict=False)` in modules/sd_models.py of v1.9.3): it keeps the weights of the
    checkpoint that was there before, so that a picture depends on the job before it.

    Args:
        manifest: Names the checkpoints, and a VAE for all of them, perhaps.
        pins: All of the lock.
        store: Where headers are read that have not been.
        seen: What is known already, by the pins' keys. What is neither here nor there is left out.

    Raises:
        SourceError: one checkpoint lacks weights that another has.
    """
    models: dict[tuple[object, ...], list[tuple[Pin, Recognised]]] = defaultdict(list)
    for pin in pins:
        if pin.role != "checkpoint" or manifest.config_for(pin.key) is not None:
            continue  # with a config beside it, it gets a model of its own
        facts = seen.get(pin.key)
        if facts is None and store.has(pin.sha256):
            facts = inspect_weights(store.path_of(pin.sha256), where=pin.key)
        if facts is not None and facts.recognised is not None:
            found = facts.recognised
            models[found.family, found.kind].append((pin, found))
    for each in models.values():
        _check_one_model(each, given={"vae"} if manifest.vae else set())


def _check_one_model(checkpoints: Sequence[tuple[Pin, Recognised]], *, given: set[str]) -> None:
    every = {name: part for _, found in checkpoints for name, part in found.shared.items()}
    for pin, found in checkpoints:
        lacks = {name: every[name] for name in every.keys() - found.shared.keys()}
        lacks = {name: part for name, part in lacks.items() if part not in given}
        if lacks:
            name = min(lacks)
            other = next(other for other, has in checkpoints if name in has.shared)
            raise SourceError(
                f"the checkpoint lacks {len(lacks)} tensors that {other.key} has, such as {name[:100]} of its "
                f"{_PARTS[lacks[name]]}: after a job with {other.key} the webui would keep that one's, so that "
                "a picture depends on the job before it",
                where=f"{pin.key} ({pin.file_name})",
                hint="choose a whole file, or bake it into an image of its own"
                + ("; vae: gives all of them a VAE" if set(lacks.values()) == {"vae"} else ""),
            )


_PARTS = {"unet": "UNet", "text": "text encoder", "vae": "VAE"}


def check_name(file_name: str, role: Role, *, allow_pickle: bool, where: str) -> None:
    """Holds a file's name against the manifest, before its bytes are there.

    Raises:
        SourceError: it is a pickle's and none is allowed, no name of weights, or the webui does not look at such
            names for this role.
    """
    suffix = _check_suffix(file_name, role, where)
    if suffix in PICKLES and not allow_pickle:
        raise _pickle_error(where, role)


def _check_suffix(file_name: str, role: Role, where: str) -> str:
    suffix, read = PurePosixPath(file_name).suffix.lower(), ROLES[role].suffixes
    wanted = SAFETENSORS if SAFETENSORS in read else " or ".join(read)
    if suffix not in (SAFETENSORS, *PICKLES):
        raise SourceError(
            f"{file_name} is no file of weights: its name ends in {suffix or 'nothing'}",
            where=where,
            hint=f"choose a file whose name ends in {wanted}",
        )
    if suffix not in read:
        raise SourceError(
            f"the webui reads {a_role(role)} from {' or '.join(read)} only, not from {suffix}",
            where=where,
            hint=f"choose a file whose name ends in {wanted}",
        )
    return suffix


def check_stored(path: Path, manifest: Manifest, pin: Pin) -> list[str]:
    """`inspect_weights` and `check_weights` in one; of a config, its text."""
    if pin.role == "config":
        check_config(path, where=f"{pin.key} ({pin.file_name})")
        return []
    where = f"{pin.key} ({pin.file_name})"
    facts = inspect_weights(path, where=where)
    warnings = check_weights(facts, manifest, pin)
    if facts.format == "pickle":
        scan_pickle(path, pin.suffix, where=where)
        if ROLES[pin.role].is_small and not ROLES[pin.role].is_path:
            _check_contents(path, manifest, pin, where)
    return warnings


def _check_contents(path: Path, manifest: Manifest, pin: Pin, where: str) -> None:
    try:
        problem = find_problem(read_pickle(path), pin, manifest.family)
    except UnreadableError as error:
        if _ANY_PICKLE in manifest.webui.args:
            return
        raise SourceError(
            f"the webui would not read this pickle: {error}",
            where=where,
            hint=f"choose another file, or add {_ANY_PICKLE} to webui.args if you trust all of them",
        ) from error
    if problem:
        raise SourceError(
            problem, where=where, hint="put it under the right key and name, or choose another file"
        )


def scan_pickle(path: Path, suffix: str, *, where: str) -> None:
    """Looks through a pickle for calls that no weights need; it is not loaded.

    Raises:
        SourceError: it imports what can harm, by picklescan's list, or cannot be looked through.
    """
    # Costs start time, and pickles are rare.
    from picklescan.scanner import SafetyLevel, ScanResult, scan_bytes  # noqa: PLC0415

    if is_bomb(path):
        raise SourceError(
            "it is compressed, which torch never does, and unpacks to more than can be looked through",
            where=where,
            hint="choose a .safetensors file, or another author's",
        )
    found = ScanResult([], scan_err=True)
    # It reads what somebody made to be misread; whatever it then raises, the file is not to be trusted.
    with suppress(Exception), path.open("rb") as file:
        found = scan_bytes(file, "weights", suffix)
    harmful = [each for each in found.globals if each.safety is SafetyLevel.Dangerous]
    if harmful:
        names = ", ".join(f"{each.module}.{each.name}" for each in harmful[:4])
        raise SourceError(
            f"picklescan finds calls in it that no weights need: {names[:200]}",
            where=where,
            hint="choose a .safetensors file, or another author's",
        )
    if found.scan_err or not found.scanned_files:
        raise SourceError(
            "picklescan cannot look through this pickle: it is broken, or made to hide something",
            where=where,
            hint="choose a .safetensors file",
        )


def check_config(path: Path, *, where: str) -> None:
    """Holds a checkpoint's config against what the webui can do with one.

    Raises:
        SourceError: it is no YAML, describes no model, or names a class that is not the webui's own: the
            webui imports and calls whatever a `target` says.
    """
    data: object = None
    with suppress(OSError, ValueError, RecursionError, YamlError):
        if path.stat().st_size <= _MAX_CONFIG_BYTES:
            data = parse_yaml(path.read_text(encoding="utf-8")).data
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict):
        raise SourceError(
            "this is no config of a model: expected YAML with model: target: and params:",
            where=where,
        )
    foreign = [each for each in _targets(data) if not each.startswith(_OWN_TARGETS)]
    if foreign or "target" not in model:
        name = foreign[0][:80] if foreign else "nothing"
        raise SourceError(
            f"the config's target names {name}, which is no model of the webui", where=where
        )


def _targets(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "target":
                yield str(each)
            yield from _targets(each)
    elif isinstance(value, list):
        for each in value:
            yield from _targets(each)


def _pickle_error(where: str, role: Role) -> SourceError:
    hint = "set allow_pickle: true if you trust its author"
    if SAFETENSORS in ROLES[role].suffixes:
        hint = f"choose a .safetensors file, or {hint}"
    return SourceError(
        "this is a pickle, which can run any code when it is loaded", where=where, hint=hint
    )


def a_role(role: str) -> str:
    """`an upscaler`, `a face restorer`: for messages."""
    return _a(role.replace("_", " "))


_SAYS_V = re.compile(r"v[-_ ]?pred", re.IGNORECASE)


def _warnings(found: Recognised, manifest: Manifest, pin: Pin, where: str) -> list[str]:
    warnings = []
    if found.family == "sdxl-refiner":
        warnings.append(f"{where}: a refiner: requests name it in refiner_checkpoint")
    if found.has_zero_snr:
        warnings.append(
            f"{where}: its noise schedule ends at zero signal: requests want "
            "override_settings.sd_noise_schedule: Zero Terminal SNR"
        )
    names = f"{pin.file_name} {pin.title or ''}"
    is_said = found.role == "checkpoint" and found.prediction == "eps" and _SAYS_V.search(names)
    if is_said and manifest.config_for(pin.key) is None and manifest.family in ("sd1", "sdxl"):
        warnings.append(
            f"{where}: its name says that it predicts v, its tensors do not: if it draws noise, write "
            f"{config_key(pin.key)}: builtin:{manifest.family}-v-prediction"
        )
    if found.family is None and found.role in ("checkpoint", "lora", "embedding"):
        warnings.append(f"{where}: the tensors do not tell whether it is for {manifest.family}")
    if found.kind.startswith(("inpainting", "image-editing")):
        warnings.append(f"{where}: an {found.kind} draws badly from text alone")
    if found.role == "checkpoint" and found.precision == "fp32":
        size = format_bytes(found.size_bytes)
        warnings.append(f"{where}: fp32 ({size}); an fp16 file is half of that and loads faster")
    if found.has_ema:
        warnings.append(f"{where}: it carries EMA weights, which only training needs")
    return warnings


def _a(kind: str) -> str:
    if kind.startswith(("a ", "an ")):
        return kind
    return f"an {kind}" if kind.lower().startswith((*"aeio", "up")) else f"a {kind}"
