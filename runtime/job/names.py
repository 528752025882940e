"""Names that the webui knows: samplers, schedulers, upscalers, styles; and its settings, made safe to override."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import SettingsError
from runtime.job.fields import KEEPING
from runtime.job.values import suggest
from runtime.webui.client import WebuiAnswerError, WebuiClient

OWN_SCHEDULE = {"DDIM", "PLMS", "UniPC", "DPM fast", "DPM adaptive"}
"""Samplers that draw the same picture whatever the scheduler (seen with v1.9.3); from a picture, `TIMESTEPS` only."""
BROWNIAN = {"DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"}
"""Samplers whose noise cannot be had from a negative seed (torchsde: numpy's SeedSequence)."""
LEAST_STEPS = {
    "UniPC": 3,
    "DPM++ 2M SDE": 2,
    "DPM++ 2M SDE Heun": 2,
    "DPM++ 3M SDE": 2,
    "DDIM": 2,
    "PLMS": 2,
}
"""With fewer the webui fails, or walks no step and the prompt counts for nothing (seen with v1.9.3)."""
LEAST_STEPS_HR = {**LEAST_STEPS, "UniPC": 4, "DDIM": 3, "PLMS": 3, "DPM fast": 2, "DPM adaptive": 2}
"""The same for the second pass of hires fix, and for the steps that img2img walks."""
TIMESTEPS = {"DDIM", "PLMS", "UniPC"}
"""Samplers that pick their steps out of 1,000, and have no other schedule."""
_INERT = re.compile(
    r"api_(enable_requests|forbid_local_requests|useragent)"  # barred from the API
    r"|cross_attention_optimization|fp8_storage|cache_fp16_weight"  # read when the model is loaded
    r"|gradio_theme|return_grid|" + KEEPING
)


@dataclass(frozen=True, kw_only=True)
class Names:
    """What one run of the webui offers; read once, after its start."""

    samplers: tuple[str, ...]
    schedulers: Mapping[str, str]
    """Accepted spelling → label: the webui knows a scheduler by its name and by its label."""
    upscalers: tuple[str, ...]
    """Upscalers and latent modes: what `hr_upscaler` may be."""
    latent_modes: tuple[str, ...] = ()
    """Those of them that a picture cannot be made larger with by itself."""
    styles: Mapping[str, tuple[str, str]]
    """Name → prompt and negative prompt."""
    scripts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """`txt2img` and `img2img` → lower-cased titles of scripts that are always on → how many arguments they take."""
    has_comments: bool = False
    """Whether this webui hides what follows a `#` in a prompt, unless told not to."""

    @property
    def old_samplers(self) -> tuple[str, ...]:
        """The samplers, and what they may have been called with a scheduler before v1.9."""
        labels = dict.fromkeys(self.schedulers.values())
        return (*self.samplers, *(f"{name} {label}" for name in self.samplers for label in labels))

    def split_sampler(self, name: str) -> tuple[str, str | None]:
        """`DPM++ 2M Karras` → (`DPM++ 2M`, `Karras`); what cannot be split → (itself, None).

        Until v1.9 the webui had one list of both; it is what most requests out there still send.
        """
        for label in sorted(set(self.schedulers.values()), key=len, reverse=True):
            sampler = name.removesuffix(f" {label}")
            if name not in self.samplers and sampler in self.samplers:
                return sampler, label
        return name, None


_UNBAKED = {"LDSR"}
"""Says nothing of its files, of which it needs two that cannot be baked."""


def _is_there(upscaler: Mapping[str, Any], baked: Collection[str]) -> bool:
    """Whether it works without a download: the webui lists what it would fetch at its first use as well."""
    name, path = upscaler["name"], upscaler.get("model_path")
    if name in baked or not path:
        return name not in _UNBAKED
    return Path(path).exists()


def read_names(
    client: WebuiClient, baked: Collection[str] = (), *, with_scripts: bool = False
) -> Names:
    """Asks the webui; for its scripts only where a request may name them.

    Args:
        client: The webui's.
        baked: Upscalers whose files are in the image.
        with_scripts: Whether a request may name scripts.

    Raises:
        WebuiError: it did not answer.
    """

    def ask(path: str) -> list[dict[str, Any]]:
        """One list of the webui's; one that it does not have (404) offers nothing."""
        try:
            return list(client.get(path))
        except WebuiAnswerError as error:
            if error.status != http.client.NOT_FOUND:
                raise
            return []

    schedulers = {
        each[key]: each["label"] for each in ask("schedulers") for key in ("name", "label")
    }
    latent_modes = tuple(each["name"] for each in ask("latent-upscale-modes"))
    return Names(
        samplers=tuple(each["name"] for each in ask("samplers")),
        schedulers=schedulers,
        upscalers=(
            *latent_modes,
            *(each["name"] for each in ask("upscalers") if _is_there(each, baked)),
        ),
        latent_modes=latent_modes,
        styles={
            each["name"]: (each.get("prompt") or "", each.get("negative_prompt") or "")
            for each in ask("prompt-styles")
        },
        scripts=_read_scripts(ask("script-info")) if with_scripts else {},
        has_comments="enable_prompt_comments" in client.options(),
    )


def _read_scripts(listed: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {"txt2img": {}, "img2img": {}}
    for each in listed:
        if each.get("is_alwayson"):
            of = found["img2img" if each.get("is_img2img") else "txt2img"]
            # Of two scripts with one title the webui takes the first.
            of.setdefault(str(each["name"]).lower(), len(each.get("args") or ()))
    return found


def check_allowed(client: WebuiClient, names: Iterable[str]) -> None:
    """Settings that the operator lets requests override: each must be one, and do something in one job.

    Raises:
        SettingsError: names that the webui lacks, or of which it makes nothing.
        WebuiError: it did not answer.
    """
    wrong = []
    present = client.options() if names else {}
    for name in names:
        if name not in present:
            wrong.append(f"this webui has no setting {name!r}{suggest(name, present)}")
        elif _INERT.fullmatch(name):
            wrong.append(f"{name!r} does nothing in a single job")
    if wrong:
        raise SettingsError(f"BAKERY_OVERRIDE_SETTINGS: {'; '.join(wrong)}")


def pin_settings(client: WebuiClient, config_file: Path, keys: Iterable[str]) -> dict[str, Any]:
    """Makes sure that each of these settings can be restored after a job; returns their present values.

    The webui restores an overridden setting only if its config.json has it, else the next jobs get it too
    (seen with v1.9.3: clip skip stayed). An image that `bake` made has a full file, and nothing is done.

    Raises:
        WebuiError: the webui did not answer.
    """
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    present = client.options()
    values = {key: present[key] for key in keys if key in present}
    missing = {key: value for key, value in values.items() if key not in config}
    if missing:
        client.call("POST", "/sdapi/v1/options", missing)
    return values
