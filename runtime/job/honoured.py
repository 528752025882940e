"""Whether what came back is what was asked for: the webui draws on in silence where it lacks a model or a LoRA.

The proof comes from inside the webui (`runtime.boot.jobs`): for each LoRA how many layers its file names,
how many of them the model has, how many were changed. Without it, of a webui that boot does not know, only
what the webui lists in "Lora hashes" can be held against the request, and the answer says so.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import JobError
from runtime.job.lora import Applied
from runtime.job.request import Request

_REASONS = (
    (r"not implemented for '|scalar type|same dtype", "its precision cannot be computed here"),
    (r"module type", "a layer's parts are of no kind that the webui knows"),
    (r"shape|size|dimension|einops|broadcast", "its shapes are not those of this model's layers"),
    (r"no such file", "the webui did not find it"),
)
"""The webui's words (for the log only), and ours."""
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
    try:
        info = json.loads(answer.get("info") or "{}")
    except ValueError:
        return {}, None
    if not isinstance(info, dict):
        return {}, None
    proof = info.pop("bakery", None)
    if proof is not None:
        answer["info"] = json.dumps(info)
    return info, proof


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
    if (model := info.get("sd_model_name")) != request.checkpoint:
        what = f"the webui drew with another checkpoint than {request.checkpoint!r}"
        raise JobError("not_honoured", what, detail=f"with {model!r}")
    asked = dict(zip(request.prompt_loras, request.prompt_loras, strict=True))
    asked.update({each.tag: each.name for each in loras if each.scale})
    if proof is None:
        _check_hashes(asked, request, info)
        unknown = {"layers": None, "applied": None}
        entries = [{**dataclasses.asdict(each), **unknown} for each in loras]
        return Honoured(loras=entries, notes=[_UNPROVEN] if asked else [])
    counts = {each["name"]: each for each in proof["loras"]}
    _check_counts(asked, counts)
    notes = [
        f"the LoRA {name!r} is for another model in part: {count['applied']} of its {count['layers']} "
        "layers were applied"
        for tag, name in asked.items()
        if (count := counts[tag])["applied"] < count["layers"]
    ]
    entries = [{**dataclasses.asdict(each), **_share(counts.get(each.tag, {}))} for each in loras]
    return Honoured(loras=entries, notes=notes)


def _share(count: Mapping[str, Any]) -> dict[str, Any]:
    return {"layers": count.get("layers"), "applied": count.get("applied")}


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
    failures, details = [], []
    for tag, name in asked.items():
        count = counts.get(tag, {"layers": 0, "matched": 0, "applied": 0})
        if why := _why_not(count):
            failures.append(f"{name} ({why})")
            details.append(f"{tag}: {json.dumps(count)}")
    if failures:
        what = f"the webui drew without {', '.join(failures)}"
        raise JobError("lora_not_applied", what, detail="; ".join(details))


def _why_not(count: Mapping[str, Any]) -> str:
    """In our words; empty if it was applied."""
    layers, matched, applied = (count[key] for key in ("layers", "matched", "applied"))
    reason = str(count.get("reason") or "")
    words = next((ours for theirs, ours in _REASONS if re.search(theirs, reason, re.I)), "")
    if count.get("failed"):
        share = f"{count['failed']} of {matched} layers failed"
        return f"{share}: {words}" if words else share
    if not matched:
        if reason:
            return words or "the webui could not read it"
        return f"none of its {layers} layers is one of this model"
    if not applied:
        return f"none of its {matched} layers took part in the drawing"
    return "" if count.get("has_effect") else "all its changes are zero"
