"""Whether what came back is what was asked for: the webui draws on in silence where it lacks a model or a LoRA.

The proof comes from inside the webui (`runtime.boot.jobs`): for each LoRA how many layers its file names,
how many of them the model has, how many were changed. Without it, of a webui that boot does not know, only
what the webui lists in "Lora hashes" can be held against the request, and the answer says so.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import JobError
from runtime.job.asked import Request
from runtime.job.lora import Applied
from runtime.job.rules.sizes import Size
from runtime.job.rules.tasks import UPSCALING

_REASONS = (
    (r"not implemented for '|scalar type|same dtype", "its precision cannot be computed here"),
    (r"module type", "a layer's parts are of no kind that the webui knows"),
    (r"shape|size|dimension|einops|broadcast", "its shapes are not those of this model's layers"),
    (r"no such file", "the webui did not find it"),
)
"""The webui's words (for the log only), and ours."""
_COUNTS = ("layers", "applied")
_TOO_LARGE = "the device's memory ran out; a smaller picture or fewer LoRAs may fit"
_FOREIGN = "none of its names is that of a layer of this model"
_UNPROVEN = (
    "the webui listed the LoRAs as loaded; which of their layers it applied cannot be seen here"
)


@dataclass(kw_only=True)
class Honoured:
    """What is said of a picture that was drawn as it was asked for."""

    loras: list[dict[str, Any]]
    """Each of the field `loras`: what `Applied` has, `layers` of its file, and `applied` ones; null: unknown."""
    notes: list[str] = field(default_factory=list)


def read_info(answer: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The webui's `info` and boot's own part of it, which is taken out of the answer."""
    with contextlib.suppress(ValueError, KeyError, AttributeError, TypeError):
        info = json.loads(answer["info"])
        if proof := info.pop("bakery", None):
            answer["info"] = json.dumps(info)
        return info, proof
    return {}, None


def check_honoured(
    request: Request,
    loras: Sequence[Applied],
    *,
    drawn: int,
    info: Mapping[str, Any],
    proof: Mapping[str, Any] | None,
) -> Honoured:
    """Holds an answer against its request.

    Args:
        request: What was asked for.
        loras: The field `loras`, as the webui knows them.
        drawn: How many pictures came.
        info: The webui's.
        proof: Boot's; None where the webui is not watched.

    Raises:
        JobError: `generation_failed`, `not_honoured` or `lora_not_applied`.
    """
    if proof is not None and proof.get("interrupted"):
        raise JobError("generation_failed", "the drawing was interrupted")
    if drawn < request.images:
        raise JobError("generation_failed", f"the webui drew {drawn} of {request.images} pictures")
    if request.endpoint == UPSCALING:
        return Honoured(loras=[])
    if (model := info.get("sd_model_name")) != request.checkpoint:
        what = f"the webui drew with another checkpoint than {request.checkpoint!r}"
        raise JobError("not_honoured", what, detail=f"with {model!r}")
    asked = dict(zip(request.prompt_loras, request.prompt_loras, strict=True))
    asked.update({each.tag: each.name for each in loras if each.scale})
    counts = {each["name"]: each for each in proof["loras"]} if proof else {}
    notes = _check_pictures(request, info) if request.endpoint == "img2img" else []
    notes += _check_scripts(request, (proof or {}).get("scripts", ()))
    if drawn > request.images:
        notes.append(f"the last {drawn - request.images} of images are what scripts add to them")
    notes += _check_words(request, proof)
    if proof is None:
        _check_hashes(asked, request, info)
        notes += [_UNPROVEN] * bool(asked)
    else:
        _check_counts(asked, counts)
        for tag, name in asked.items():
            if (applied := counts[tag]["applied"]) < (layers := counts[tag]["layers"]):
                share = f"{applied} of its {layers} layers were applied"
                notes.append(f"the LoRA {name!r} is for another model in part: {share}")
    entries = [dataclasses.asdict(each) for each in loras]
    for entry in entries:
        entry.update((key, counts.get(entry["tag"], {}).get(key)) for key in _COUNTS)
    return Honoured(loras=entries, notes=notes)


def _check_words(request: Request, proof: Mapping[str, Any] | None) -> list[str]:
    """Embeddings and hypernetworks that the webui passed over: of another model, or files that it cannot read."""
    for word, names in (
        ("embedding", [each.name for each in request.embeddings]),
        ("hypernetwork", request.prompt_hypernetworks),
    ):
        if proof is None and names:
            return [f"whether the webui used the {word} {names[0]!r} cannot be seen here"]
        used = (proof or {}).get(f"{word}s", ())
        if missing := [each for each in names if each not in used]:
            raise JobError("not_honoured", f"the webui drew without the {word} {missing[0]!r}")
    return []


def _check_pictures(request: Request, info: Mapping[str, Any]) -> list[str]:
    """What the webui makes of a mask and of guidance by the picture shows in its infotext only."""
    wants_part = "mask" in request.pictures and request.payload.get("inpaint_full_res", True)
    if wants_part and "Inpaint area" not in (info.get("extra_generation_params") or {}):
        what = "the mask has nothing to draw in it, so the webui drew over the whole picture"
        raise JobError("not_honoured", what)
    texts = info.get("infotexts") or [""]
    is_unused = "image_cfg_scale" in request.payload and "Image CFG scale:" not in texts[0]
    return ["image_cfg_scale: not used by this checkpoint"] * is_unused


def _check_scripts(request: Request, failures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The webui draws on where a script fails, and says so in its log only."""
    asked = request.payload.get("alwayson_scripts", {})
    for each in failures:
        what = f"the script {', '.join(each['names'])} failed in {each['method']}"
        if _is_out_of_memory(reason := each["reason"]):
            raise JobError("out_of_memory", _TOO_LARGE, detail=reason)
        if asked.keys() & set(each["names"]):
            words = "" if re.search(r"[/\\]", reason) else f": {reason}"
            raise JobError("not_honoured", f"{what}{words}", detail=reason)
        yield f"{what}; the request does not name it"


def check_size(images: Sequence[str], expected: Size | None) -> None:
    """Raises JobError if the one picture, a PNG, has another size than the upscaler was to give it."""
    start = base64.b64decode(images[0][:32]) if expected else b""
    if start.startswith(b"\x89PNG") and struct.unpack(">II", start[16:24]) != expected:
        raise JobError("not_honoured", "the webui made a picture of another size than asked for")


def _check_hashes(asked: Mapping[str, str], request: Request, info: Mapping[str, Any]) -> None:
    """The second pass of hires fix overwrites the list: only its own LoRAs can be looked for then."""
    text = str((info.get("extra_generation_params") or {}).get("Lora hashes", ""))
    listed = {each.split(":")[0].strip() for each in text.split(",")}
    second = request.payload.get("hr_prompt") if request.payload.get("enable_hr") else None
    missing = [
        name
        for tag, name in asked.items()
        if tag not in listed and (not second or tag != name or f":{name}:" in second)
    ]
    if missing:
        what = f"the webui drew without {', '.join(missing)}"
        raise JobError("lora_not_applied", what, detail=text)


def _check_counts(asked: Mapping[str, str], counts: Mapping[str, Mapping[str, Any]]) -> None:
    failures = []
    for tag, name in asked.items():
        count = counts.get(tag, {"matched": 0, "applied": 0})
        if _is_out_of_memory(reason := str(count.get("reason"))):
            raise JobError("out_of_memory", _TOO_LARGE, detail=reason)
        if why := _why_not(count):
            failures.append(f"{name} ({why})")
    if failures:
        what = f"the webui drew without {', '.join(failures)}"
        raise JobError("lora_not_applied", what, detail=json.dumps(counts))


def _is_out_of_memory(reason: str) -> bool:
    return re.search("out of memory", reason, re.IGNORECASE) is not None


def _why_not(count: Mapping[str, Any]) -> str:
    """In our words; empty if it was applied."""
    matched, applied = count["matched"], count["applied"]
    reason = str(count.get("reason") or "")
    words = next((ours for theirs, ours in _REASONS if re.search(theirs, reason, re.I)), "")
    if count.get("failed"):
        return f"{count['failed']} of {matched} layers failed" + (f": {words}" if words else "")
    if not matched:
        return (words or "the webui could not read it") if reason else _FOREIGN
    if not applied:
        return f"none of its {matched} layers took part in the drawing"
    return "" if count.get("has_effect") else "all its changes are zero"
