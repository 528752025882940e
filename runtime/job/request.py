"""From a job's `input` to what is asked of the webui; every error of it at once.

Pure: no network, no files. What the webui would ignore in silence, or answer with a 500, is an error here.
`runtime.job.fields` says what each field alone may be; here is what they may be together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.errors import FieldError, JobError
from runtime.job.fields import BY_NAME, FIELDS, LORA_FIELDS, OVERRIDES, SYNONYMS, Field, field_like
from runtime.job.names import Names
from runtime.job.values import cut, describe, read_value, suggest
from runtime.worker import Worker

_TAG = re.compile(r"<(\w+):([^>]+)>")
_LORA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LORA_BY_NAME = {each.name: each for each in LORA_FIELDS}
_OUTPUT = {each.name for each in FIELDS if each.section == "output"}
_NOT_THE_WEBUIS = {
    "loras",
    "clip_skip",
    "checkpoint",
    *(e.name for e in FIELDS if e.section in {"output", "neutral"}),
}
_HIRES_SILENT = {"hr_upscaler", "denoising_strength"}
"""Sent with every request by common clients, whether hires fix is on or not."""
_OWN_SCHEDULE = {"DDIM", "PLMS", "UniPC", "DPM fast", "DPM adaptive"}
"""Samplers that draw the same picture whatever the scheduler (seen with v1.9.3)."""
_MAX_ERRORS = 50


@dataclass(frozen=True, kw_only=True)
class LoraRequest:
    """One entry of `loras`. Baked if neither `url` nor `civitai` is given."""

    name: str
    scale: float = 1.0
    url: str | None = None
    civitai: str | None = None
    sha256_prefix: str | None = None

    @property
    def is_baked(self) -> bool:
        return self.url is None and self.civitai is None


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """How the pictures are handed over."""

    image_format: str = "png"
    image_quality: int = 90
    delivery: str = "base64"
    if_too_large: str = "error"


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that the webui will honour in full, as far as can be known before it draws."""

    payload: Mapping[str, Any]
    """What goes to `/sdapi/v1/txt2img`; the tags of `loras` are not in it yet."""
    loras: Sequence[LoraRequest]
    prompt_loras: Sequence[str]
    """Names that the prompts themselves mention, all of them baked."""
    checkpoint: str
    """The name of the baked checkpoint that draws."""
    images: int
    """How many pictures must come back."""
    output: OutputOptions


def parse_request(
    value: object,
    *,
    worker: Worker,
    names: Names,
    limits: Mapping[str, int],
    extra_overrides: Mapping[str, Any] | None = None,
) -> Request:
    """Checks a job's `input`.

    Args:
        value: Anything that JSON can hold.
        worker: What is baked.
        names: What the webui offers.
        limits: Maxima by the keys of `LIMITS`.
        extra_overrides: Settings that the operator allows in addition, with the webui's present values.

    Raises:
        JobError: `invalid_request` with every field that is wrong.
    """
    if not isinstance(value, dict):
        errors = [FieldError(field="input", message="must be an object with the request's fields")]
    else:
        parser = _Parser(worker, names, limits, extra_overrides or {})
        request = parser.parse(value)
        errors = parser.errors
        if not errors:
            return request
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    first = f"{errors[0].field}: {errors[0].message}{more}"
    raise JobError("invalid_request", first, fields=errors[:_MAX_ERRORS])


class _Parser:
    """Collects errors while it reads; one instance for each request."""

    def __init__(
        self, worker: Worker, names: Names, limits: Mapping[str, int], extra: Mapping[str, Any]
    ) -> None:
        self.errors: list[FieldError] = []
        self._names = names
        self._limits = limits
        self._overrides = {**OVERRIDES, **{key: field_like(key, extra[key]) for key in extra}}
        self._checkpoints = [each.name for each in worker.of_role("checkpoint")]
        self._loras = {each.name: each.sha256 for each in worker.of_role("lora")}
        vaes = {each.name: each.path.rpartition("/")[2] for each in worker.of_role("vae")}
        # The webui knows a VAE by its file's name, and draws with a baked one whatever the setting says.
        self._vaes = {"Automatic": "Automatic", **(vaes or {"None": "None"})}

    def parse(self, value: Mapping[Any, object]) -> Request:
        """The request; worth nothing if there are errors."""
        given = self._read(value, BY_NAME, "", "there is no such field")
        self._resolve_samplers(given)
        self._check_names(given)
        self._check_sizes(given)
        self._check_hires(given)
        loras = self._read_loras(given.get("loras", []))
        mentioned = self._check_tags(given, loras)
        overrides = self._read_overrides(given)
        payload = {key: item for key, item in given.items() if key not in _NOT_THE_WEBUIS}
        payload.update(override_settings=overrides, send_images=True, save_images=False)
        return Request(
            payload=payload,
            loras=loras,
            prompt_loras=mentioned,
            checkpoint=overrides.get("sd_model_checkpoint", self._checkpoints[0]),
            images=given.get("batch_size", 1) * given.get("n_iter", 1),
            output=OutputOptions(**{key: given[key] for key in _OUTPUT if key in given}),
        )

    def _wrong(self, field: str, message: str) -> None:
        self.errors.append(FieldError(field=field, message=message))

    def _know(self, where: str, item: str, known: Collection[str], problem: str) -> None:
        if item not in known:
            self._wrong(where, problem + self._suggest(item, known))

    def _suggest(self, item: str, known: Iterable[str]) -> str:
        """For the errors that are shown only: a million unknown keys would take minutes."""
        return suggest(item, known) if len(self.errors) < _MAX_ERRORS else ""

    def _read(
        self, value: Mapping[Any, object], table: Mapping[str, Field], where: str, unknown: str
    ) -> dict[str, Any]:
        """The given fields with checked types and bounds; nulls and wrong ones are left out."""
        for key in value:
            if key not in table:
                meant = SYNONYMS.get(key)
                hint = f" (use {meant!r})" if meant in table else self._suggest(str(key), table)
                self._wrong(f"{where}{cut(key)}", unknown + hint)
        given = {}
        for name, field in table.items():
            item = value.get(name)
            is_empty = item is None or (item == "" and field.kind == "name")
            if name not in value or (is_empty and field.nullable):
                continue
            try:
                given[name] = read_value(field, item, self._limits)
            except ValueError as error:
                self._wrong(f"{where}{name}", str(error))
        return given

    def _resolve_samplers(self, given: dict[str, Any]) -> None:
        older = given.pop("sampler_index", None)
        where = "sampler_name"
        if older is not None and where not in given:
            given[where], where = older, "sampler_index"
        self._resolve_sampler(given, where, "sampler_name", "scheduler")
        self._resolve_sampler(given, "hr_sampler_name", "hr_sampler_name", "hr_scheduler")

    def _resolve_sampler(
        self, given: dict[str, Any], where: str, sampler_key: str, scheduler_key: str
    ) -> None:
        """Splits the names from before v1.9; what the webui does not offer, or ignores, is an error."""
        sampler, scheduler = given.get(sampler_key), given.get(scheduler_key)
        known, schedulers = self._names.old_samplers, self._names.schedulers
        if scheduler is not None:
            self._know(scheduler_key, scheduler, schedulers, "the webui has no such scheduler")
        asked = schedulers.get(scheduler or "", "Automatic")
        if sampler is not None:
            given[sampler_key], label = self._names.split_sampler(sampler)
            if label is None:
                self._know(where, sampler, known, "the webui has no such sampler")
            else:
                if asked not in {label, "Automatic"}:
                    self._wrong(scheduler_key, f"{asked!r} contradicts {where} {sampler!r}")
                given[scheduler_key] = asked = label
        drawn_by = given.get(sampler_key) or given.get("sampler_name")
        if drawn_by in _OWN_SCHEDULE and asked != "Automatic":
            self._wrong(scheduler_key, f"has no effect on {drawn_by}, which has its own schedule")

    def _check_names(self, given: dict[str, Any]) -> None:
        upscaler = given.get("hr_upscaler")
        # Common clients send one with every request; without hires fix it does nothing.
        if upscaler and given.get("enable_hr"):
            known = self._names.upscalers
            self._know("hr_upscaler", upscaler, known, "the webui has no such upscaler")
        for style in given.get("styles", ()):
            problem = f"the webui has no style {cut(style)!r}"
            self._know("styles", style, self._names.styles, problem)
        if "refiner_switch_at" in given and "refiner_checkpoint" not in given:
            self._wrong("refiner_switch_at", "has no effect without refiner_checkpoint")
        for key in ("checkpoint", "hr_checkpoint_name", "refiner_checkpoint"):
            if key in given:
                given[key] = self._checkpoint(key, given[key])

    def _checkpoint(self, where: str, text: str) -> str:
        """A baked checkpoint's name; file suffix and the webui's ` [hash]` may follow."""
        name = re.sub(r"\s*\[[^]]*]$", "", text).removesuffix(".safetensors").removesuffix(".ckpt")
        problem = f"no checkpoint of that name is baked; there is {', '.join(self._checkpoints)}"
        self._know(where, name, self._checkpoints, problem)
        return name

    def _check_sizes(self, given: Mapping[str, Any]) -> None:
        images, most = given.get("batch_size", 1) * given.get("n_iter", 1), self._limits["images"]
        if images > most:
            self._wrong("batch_size", f"x n_iter is {images}, at most {most} are allowed")
        width, height = given.get("width", 512), given.get("height", 512)
        if given.get("enable_hr"):
            across, down = given.get("hr_resize_x", 0), given.get("hr_resize_y", 0)
            # The webui enlarges until both are reached, then cuts off what is too much.
            scale = max(across / width, down / height) or given.get("hr_scale", 2)
            width, height = int(width * scale), int(height * scale)
        pixels, most = width * height, self._limits["pixels"]
        if pixels > most:
            self._wrong("width", f"x height is {pixels} pixels, at most {most} are allowed")

    def _check_hires(self, given: Mapping[str, Any]) -> None:
        """Without `enable_hr` the webui ignores these; values that ask for nothing may stay."""
        if given.get("enable_hr"):
            # Its API has no default for it, and fails with a TypeError.
            if "denoising_strength" not in given:
                self._wrong("denoising_strength", "is needed with enable_hr")
            return
        for field in FIELDS:
            asks = field.section == "hires" and field.name not in _HIRES_SILENT
            if asks and given.get(field.name, field.default) not in {field.default, None}:
                self._wrong(field.name, "has no effect without enable_hr")

    def _read_loras(self, value: Sequence[object]) -> list[LoraRequest]:
        loras = []
        for number, item in enumerate(value):
            where = f"loras[{number}]"
            if not isinstance(item, dict):
                self._wrong(where, f"must be an object, not {describe(item)}")
                continue
            before = len(self.errors)
            read = self._read(item, _LORA_BY_NAME, f"{where}.", "there is no such field")
            if len(self.errors) == before:
                self._check_lora(read, where)
            if len(self.errors) == before:
                loras.append(
                    LoraRequest(sha256_prefix=read.pop("hash", "").lower() or None, **read)
                )
        return loras

    def _check_lora(self, read: Mapping[str, Any], where: str) -> None:
        name = read.get("name")
        if name is None:
            self._wrong(f"{where}.name", "is missing")
        elif "url" in read and "civitai" in read:
            self._wrong(where, "give either url or civitai")
        elif "url" in read or "civitai" in read:
            if not _LORA_NAME.fullmatch(name):
                form = "up to 64 letters, digits, '.', '_' or '-', a letter or digit first"
                self._wrong(f"{where}.name", f"must be {form}")
        elif name not in self._loras:
            hint = self._suggest(name, self._loras)
            self._wrong(f"{where}.name", f"no LoRA of that name is baked{hint}; else give url")
        elif not self._loras[name].startswith(read.get("hash", "").lower()):
            self._wrong(f"{where}.hash", f"the baked file's SHA-256 is {self._loras[name]}")

    def _check_tags(self, given: Mapping[str, Any], loras: Sequence[LoraRequest]) -> list[str]:
        """`<lora:name:…>` in prompts: only baked ones, only where the webui reads them."""
        mentioned: list[str] = []
        requested = [each.name for each in loras]
        for key in ("prompt", "hr_prompt", "negative_prompt", "hr_negative_prompt"):
            for kind, arguments in _TAG.findall(given.get(key, "")):
                name = arguments.split(":")[0]
                if "negative" in key:
                    self._wrong(key, f"<{cut(kind)}:…> has no effect in a negative prompt")
                elif kind not in {"lora", "lyco"}:
                    self._wrong(key, f"<{cut(kind)}:…> is nothing that this worker has")
                elif name not in self._loras:
                    hint = self._suggest(name, self._loras)
                    self._wrong(key, f"no LoRA {cut(name)!r} is baked{hint}; see the field loras")
                elif name in requested:
                    self._wrong(key, f"names the LoRA {name!r}, which loras has as well")
                else:
                    mentioned.append(name)
        for number, name in enumerate(requested):
            if name in requested[:number]:
                self._wrong(f"loras[{number}].name", f"{name!r} is there twice")
        if given.get("disable_extra_networks") and (loras or mentioned):
            self._wrong("disable_extra_networks", "switches off the LoRAs that are asked for")
        return mentioned

    def _read_overrides(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What goes into `override_settings`."""
        where = "override_settings."
        value = given.get("override_settings", {})
        overrides = self._read(value, self._overrides, where, "may not be overridden here")
        if "sd_model_checkpoint" in overrides:
            name = self._checkpoint(f"{where}sd_model_checkpoint", overrides["sd_model_checkpoint"])
            overrides["sd_model_checkpoint"] = name
        if "sd_vae" in overrides and overrides["sd_vae"] not in self._vaes.values():
            name, known = overrides["sd_vae"], ", ".join(self._vaes)
            if name not in self._vaes:
                problem = f"no VAE of that name is baked; there is {known}"
                self._wrong(f"{where}sd_vae", problem)
            overrides["sd_vae"] = self._vaes.get(name)
        for ours, theirs in (
            ("checkpoint", "sd_model_checkpoint"),
            ("clip_skip", "CLIP_stop_at_last_layers"),
        ):
            if ours in given and overrides.setdefault(theirs, given[ours]) != given[ours]:
                self._wrong(ours, f"contradicts override_settings.{theirs}")
        return overrides
