"""Names that the webui knows: samplers, schedulers, upscalers, styles; and its settings, made safe to override."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.webui.client import WebuiAnswerError, WebuiClient


@dataclass(frozen=True, kw_only=True)
class Names:
    """What one run of the webui offers; read once, after its start."""

    samplers: tuple[str, ...]
    schedulers: Mapping[str, str]
    """Accepted spelling → label: the webui knows a scheduler by its name and by its label."""
    upscalers: tuple[str, ...]
    """Upscalers and latent modes: what `hr_upscaler` may be."""
    styles: tuple[str, ...]

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


def read_names(client: WebuiClient) -> Names:
    """Asks the webui. Raises WebuiError."""

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
    upscalers = [*ask("latent-upscale-modes"), *ask("upscalers")]
    return Names(
        samplers=tuple(each["name"] for each in ask("samplers")),
        schedulers=schedulers,
        upscalers=tuple(each["name"] for each in upscalers),
        styles=tuple(each["name"] for each in ask("prompt-styles")),
    )


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
