"""Where the worker answers otherwise than the webui on purpose: how a row of the table begins (a pattern) → why."""

from __future__ import annotations

import re

DIFFERENCES: tuple[tuple[str, str], ...] = (
    (
        r"client: clip skip 0: info differs in clip_skip",
        "the webui draws 0 as 1 and writes 0 into its infotext; the worker asks for 1",
    ),
    (
        r"sampler: (DPM fast|DPM adaptive|DDIM|PLMS|UniPC) / .*",
        "these have a schedule of their own and draw the same whatever is asked for: refused instead of ignored",
    ),
    (
        r"pictures: (DDIM|PLMS|UniPC) / .*",
        "their schedule is their own over a picture too",
    ),
    (
        r"pictures: (DDIM|PLMS), \d at .*: refused",
        "with so few steps they walk none, and the prompt counts for nothing",
    ),
    (
        r"field: seed_resize_from_[wh]=(32|128)",
        "the webui needs both and ignores one alone: refused instead of ignored",
    ),
    (
        r"field: hires hr_sampler_name='Use same sampler'",
        "the page's own word for none, which the webui's API fails on: taken as none",
    ),
    (
        r"lora: .*: failed \(lora_not_applied: .*\d+ of \d+ layers failed",
        "some of its layers fail in the webui, which draws with the rest and says nothing: the job fails",
    ),
    (
        r"lora: full-new-bias-f16",
        "a bias of another precision than its layer's ends the webui's job with the layer half changed; "
        "boot converts it",
    ),
)


def reason_for(case: str) -> str | None:
    return next((why for pattern, why in DIFFERENCES if re.match(pattern, case)), None)
