"""Around a job, as the webui's `modules.processing` (v1.9.3): settings, cached conditionings, the answer's info.

By the same names and with the same faults, for the same reason as `demo.webui.networks`: a setting that
config.json lacks is not put back; a conditioning is cached by a key that lacks a setting, the embeddings, and whether LoRAs
were on. `runtime.boot.jobs` mends both.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

from demo.webui.around import EmbeddingDatabase
from demo.webui.networks import ExtraNetworkLora

opts: Any = SimpleNamespace(data={}, data_labels={})
state: Any = None
model_hijack = SimpleNamespace(extra_generation_params={}, embedding_db=EmbeddingDatabase())
_lora: list[ExtraNetworkLora] = []


def connect(options: Any, present: Any) -> None:
    """Says whose settings and whose state these are."""
    global opts, state  # the webui's own way, which the hooks expect
    opts, state = options, present


class Processed:
    """A job's answer."""

    def __init__(self, images: list[Any], info: dict[str, Any]) -> None:
        self.images = images
        self.info = info

    def js(self) -> str:
        return json.dumps(self.info)


class StableDiffusionProcessing:
    """One job."""

    cached_uc: ClassVar[list[Any]] = [None, None]
    cached_c: ClassVar[list[Any]] = [None, None]

    def __init__(self, request: dict[str, Any], draw: Callable[[Any], Processed]) -> None:
        self.override_settings: dict[str, Any] = dict(request["override_settings"] or {})
        self.restore = request["override_settings_restore_afterwards"]
        self.disable_extra_networks: bool = request["disable_extra_networks"]
        self.extra_generation_params: dict[str, Any] = {}
        self.draw = draw

    def cached_params(self, required_prompts: Any, steps: int, extra_network_data: Any) -> Any:
        """Lacks `comma_padding_backtrack`, and whether the networks are in use at all."""
        return (list(required_prompts), steps, extra_network_data, opts.CLIP_stop_at_last_layers)

    def get_conds_with_caching(
        self, function: Any, required_prompts: Any, steps: int, caches: Any, extra_network_data: Any
    ) -> Any:
        """From a cache, `[key, conditioning]`, else made and kept in the first."""
        model = getattr(required_prompts, "model", None)
        key = (model, self.cached_params(required_prompts, steps, extra_network_data))
        for cache in caches:
            if cache[0] is not None and cache[0] == key:
                return cache[1]
        caches[0][1] = function(required_prompts)
        caches[0][0] = key
        return caches[0][1]


class Prompts(list[str]):
    """Prompts, and the model that they are read for."""

    def __init__(self, prompts: Sequence[str], model: object) -> None:
        super().__init__(prompts)
        self.model = model


def activate(p: StableDiffusionProcessing, tags: Sequence[Sequence[str]]) -> ExtraNetworkLora:
    """Networks of a prompt in the place of those before; one that raises is only spoken of."""
    if not _lora:
        _lora.append(ExtraNetworkLora())
    params = [SimpleNamespace(positional=[e for e in tag if "=" not in e]) for tag in tags]
    try:
        _lora[0].activate(p, params)
    except Exception:  # noqa: BLE001  # as the webui, whatever it is
        traceback.print_exc()
        _lora[0].activate(p, [])
    return _lora[0]


def errors() -> dict[str, int]:
    """The present count of changes that failed, by network."""
    return _lora[0].errors if _lora else {}


def process_images(p: StableDiffusionProcessing) -> Processed:
    """Draws under the job's settings, and puts back those that config.json has."""
    stored = {key: opts.data[key] for key in p.override_settings if key in opts.data}
    try:
        for key, value in p.override_settings.items():
            opts.set(key, value)
        return p.draw(p)
    finally:
        if p.restore:
            opts.data.update(stored)
