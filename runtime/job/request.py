"""From a job's `input` to what is asked of the webui; every error of it at once.

Pure: no network, no files. What the webui would ignore in silence, or answer with a 500, is an error here.
`runtime.job.fields` says what each field alone may be; here is what they may be together.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from runtime.errors import FieldError, JobError
from runtime.job.asked import AUTOV3_CHARS, LoraRequest, OutputOptions, Request
from runtime.job.fields import (
    BY_NAME,
    FIELDS,
    LORA_FIELDS,
    OVERRIDES,
    PREVIEWS,
    SYNONYMS,
    Field,
    field_like,
)
from runtime.job.names import Names
from runtime.job.rules.prompts import (
    LORA_KINDS,
    LoraNames,
    drawn_texts,
    find_tags,
    without_comments,
)
from runtime.job.rules.scripts import Scripts, fields_of_script
from runtime.job.rules.tasks import (
    OF_AN_UPSCALING,
    UPSCALING,
    Endpoint,
    check_pictures_asked,
    check_upscalers,
    choose_endpoint,
    fields_off,
    note_upscalers,
    open_envelope,
    table_of,
)
from runtime.job.rules.together import check_samplers, check_seeds, check_sizes, count_images
from runtime.job.values import cut, describe, read_value, suggest
from runtime.worker import Worker

_LORA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LORA_BY_NAME = {each.name: each for each in LORA_FIELDS}
_OUTPUT = {each.name for each in FIELDS if each.section == "output"}
_NOT_THE_WEBUIS = {
    "loras",
    "clip_skip",
    "checkpoint",
    *(e.name for e in FIELDS if e.section in {"output", "neutral"} or e.kind[:5] == "image"),
}
_MAX_ERRORS = 50


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
    """Collects errors and notes while it reads; one instance for each request."""

    def __init__(
        self, worker: Worker, names: Names, limits: Mapping[str, int], extra: Mapping[str, Any]
    ) -> None:
        self.errors: list[FieldError] = []
        self._notes: list[str] = []
        self._unused: dict[str, Any] = {}
        self._endpoint: Endpoint = "txt2img"
        self._scripts = Scripts(worker.extensions)
        self._sampler_field = "sampler_name"
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
        value, problems = open_envelope(value)
        self.errors += problems
        self._endpoint = choose_endpoint(value)
        if self._endpoint == UPSCALING:
            return self._parse_upscaling(value)
        given = self._read_fields(value)
        pictures = self._take_pictures(given)
        self._check_names(given)
        overrides = self._read_overrides(given)
        self.errors += [
            *check_sizes(given, self._limits),
            *check_samplers(given, is_img2img=self._endpoint == "img2img"),
            *check_seeds(given, overrides),
        ]
        loras = self._read_loras(given.get("loras", []))
        mentioned = self._check_prompts(given, overrides, loras)
        payload = {k: e for k, e in {**self._unused, **given}.items() if k not in _NOT_THE_WEBUIS}
        if given.get("previews"):
            overrides = {**PREVIEWS, **overrides}
        payload.update(override_settings=overrides, send_images=True, save_images=False)
        payload.update(self._scripts.payload)
        return Request(
            endpoint=self._endpoint,
            payload=payload,
            pictures=pictures,
            places=self._scripts.places,
            loras=loras,
            prompt_loras=mentioned,
            checkpoint=overrides.get("sd_model_checkpoint", self._checkpoints[0]),
            images=count_images(given),
            output=OutputOptions(**{key: given[key] for key in _OUTPUT if key in given}),
            notes=self._notes[:_MAX_ERRORS],
        )

    def _parse_upscaling(self, value: Mapping[Any, object]) -> Request:
        given = self._read(value, OF_AN_UPSCALING, "", "is no field of an upscaling")
        upscalers = set(self._names.upscalers) - set(self._names.latent_modes)
        for key in {"upscaler_1", "upscaler_2"} & set(given):
            self._know(key, given[key], upscalers, "the webui has no such upscaler")
        self.errors += check_upscalers(given)
        self._notes += note_upscalers(given)
        return Request(
            endpoint=UPSCALING,
            payload={key: given[key] for key in given if key not in _NOT_THE_WEBUIS},
            pictures={"image": given.get("image", "")},
            images=1,
            output=OutputOptions(**{key: given[key] for key in _OUTPUT if key in given}),
            notes=self._notes,
        )

    def _take_pictures(self, given: dict[str, Any]) -> dict[str, str]:
        """Out of the fields, into the request's own place for them."""
        self.errors += check_pictures_asked(given, self._endpoint)
        pictures = {f"init_images[{i}]": e for i, e in enumerate(given.get("init_images", ()))}
        pictures |= {"mask": given["mask"]} if given.get("mask") else {}
        return pictures | self._scripts.pictures

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
            is_empty = item is None or (item == "" and field.kind == "name") or item in field.empty
            if name not in value or (is_empty and field.nullable):
                continue
            try:
                given[name] = read_value(field, item, self._limits)
            except ValueError as error:
                self._wrong(f"{where}{name}", str(error))
                continue
            if field.note and given[name] != field.default:
                self._notes.append(f"{where}{name}: {field.note}")
        return given

    def _read_fields(self, value: Mapping[Any, object]) -> dict[str, Any]:
        """The request's own fields, without those of passes that it does not ask for."""
        is_on = True
        with contextlib.suppress(ValueError):
            asked = value.get("enable_hr")
            is_on = asked is not None and read_value(BY_NAME["enable_hr"], asked, self._limits)
        has = {"has_hires": is_on, "has_mask": value.get("mask") not in (None, "")}
        given = self._read(value, table_of(self._endpoint, **has), "", "there is no such field")
        older = given.pop("sampler_index", None)
        if older is not None and "sampler_name" not in given:
            given["sampler_name"], self._sampler_field = older, "sampler_index"
        off = fields_off(self._endpoint, **has)
        for switch in dict.fromkeys(off.values()):
            self._set_aside(given, [e for e in off if off[e] == switch and e in given], switch)
        if is_on and self._endpoint == "txt2img" and "denoising_strength" not in given:
            # Its API has no default for it, and fails with a TypeError.
            self._wrong("denoising_strength", "is needed with enable_hr")
        self._resolve_samplers(given)
        self._read_scripts(given)
        if "refiner_checkpoint" not in given:
            self._set_aside(given, {"refiner_switch_at"}, "refiner_checkpoint")
        sides = [f"seed_resize_from_{each}" for each in "wh"]
        for side, other in (sides, reversed(sides)):
            if given.get(side, -1) > 0 >= given.get(other, -1):
                self._set_aside(given, {side}, other)
        return given

    def _set_aside(self, given: dict[str, Any], names: Collection[str], switch: str) -> None:
        """Fields of what is off: sent on as they are, since the webui makes nothing of them either."""
        unused = {each: given.pop(each) for each in list(given) if each in names}
        self._unused.update(unused)
        asked = [each for each in unused if unused[each] != BY_NAME[each].default]
        if asked:
            self._notes.append(f"{', '.join(asked)}: not used without {switch}")

    def _read_scripts(self, given: dict[str, Any]) -> None:
        for name, script in given.get("alwayson_scripts", {}).items():
            where = f"alwayson_scripts.{cut(name)}."
            try:
                if self._scripts.take(name, script, self._names.scripts.get(self._endpoint, {})):
                    continue
                fields = fields_of_script(name, script, self._scripts.titles)
                stands_for = self._read(fields, BY_NAME, where, "")
            except ValueError as error:
                self._wrong("alwayson_scripts", str(error))
                continue
            self._resolve_samplers(stands_for)
            taken = [key for key in stands_for if key not in given]
            for key, item in stands_for.items():
                if given.setdefault(key, item) != item:
                    self._wrong(f"{where}{key}", f"contradicts the field {key}")
            what = f"taken as {', '.join(taken)}" if taken else "asks for nothing more"
            self._notes.append(f"{where.removesuffix('.')}: {what}")

    def _resolve_samplers(self, given: dict[str, Any]) -> None:
        """Splits the names from before v1.9; what the webui does not offer, or ignores, is an error."""
        self._resolve_sampler(given, self._sampler_field, "sampler_name", "scheduler")
        self._resolve_sampler(given, "hr_sampler_name", "hr_sampler_name", "hr_scheduler")

    def _resolve_sampler(
        self, given: dict[str, Any], where: str, sampler_key: str, scheduler_key: str
    ) -> None:
        sampler, scheduler = given.get(sampler_key), given.get(scheduler_key)
        schedulers = self._names.schedulers
        if scheduler is not None:
            self._know(scheduler_key, scheduler, schedulers, "the webui has no such scheduler")
            # By its name `automatic` the webui draws without the schedule that the label stands for.
            scheduler = given[scheduler_key] = schedulers.get(scheduler, "Automatic")
        if sampler is None:
            return
        given[sampler_key], label = self._names.split_sampler(sampler)
        if label is None:
            known = self._names.old_samplers
            self._know(where, sampler, known, "the webui has no such sampler")
            return
        if scheduler not in {None, label, "Automatic"}:
            self._wrong(scheduler_key, f"{scheduler!r} contradicts {where} {sampler!r}")
        given[scheduler_key] = label

    def _check_names(self, given: dict[str, Any]) -> None:
        if "hr_upscaler" in given:
            known = self._names.upscalers
            self._know("hr_upscaler", given["hr_upscaler"], known, "the webui has no such upscaler")
        for style in given.get("styles", ()):
            problem = f"the webui has no style {cut(style)!r}"
            self._know("styles", style, self._names.styles, problem)
        for key in ("checkpoint", "hr_checkpoint_name", "refiner_checkpoint"):
            if key in given:
                given[key] = self._checkpoint(key, given[key])

    def _checkpoint(self, where: str, text: str) -> str:
        """A baked checkpoint's name; file suffix and the webui's ` [hash]` may follow."""
        name = re.sub(r"\s*\[[^]]*]$", "", text).removesuffix(".safetensors").removesuffix(".ckpt")
        problem = f"no checkpoint of that name is baked; there is {', '.join(self._checkpoints)}"
        self._know(where, name, self._checkpoints, problem)
        return name

    def _read_loras(self, value: Sequence[object]) -> list[LoraRequest]:
        loras = []
        for number, item in enumerate(value):
            where = f"loras[{number}]"
            entry = {"name": item} if isinstance(item, str) else item
            if not isinstance(entry, dict):
                self._wrong(where, f"must be an object or a name, not {describe(item)}")
                continue
            before = len(self.errors)
            read = self._read(entry, _LORA_BY_NAME, f"{where}.", "there is no such field")
            weight = read.pop("weight", None)
            if weight is not None and read.setdefault("scale", weight) != weight:
                self._wrong(f"{where}.weight", "contradicts scale")
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
        elif (text := read.get("hash", "").lower()) and len(text) == AUTOV3_CHARS:
            pass  # the file itself tells
        elif not self._loras[name].startswith(text):
            self._wrong(f"{where}.hash", f"the baked file's SHA-256 is {self._loras[name]}")

    def _check_prompts(
        self, given: Mapping[str, Any], overrides: dict[str, Any], loras: Sequence[LoraRequest]
    ) -> list[str]:
        """The LoRAs that the prompts and their styles name; switches off what would hide a part of them."""
        texts = drawn_texts(given, self._names)
        if self._names.has_comments and any("#" in each for each in texts.values()):
            if overrides.setdefault("enable_prompt_comments", False):
                texts = {key: without_comments(text) for key, text in texts.items()}
            else:
                self._notes.append("prompt: what follows a # is drawn (no comments)")
        requested = [each.name for each in loras]
        for number, name in enumerate(requested):
            if name in requested[:number]:
                self._wrong(f"loras[{number}].name", f"{name!r} is there twice")
        if given.get("disable_extra_networks") and loras:
            self._wrong("disable_extra_networks", "switches off the LoRAs that are asked for")
        mentioned: list[str] = []
        for key, text in texts.items():
            tags = list(find_tags(text))
            if "negative" in key:
                for kind in {kind for kind, _ in tags} & (LORA_KINDS | {"hypernet"}):
                    self._wrong(key, f"<{kind}:…> has no effect in a negative prompt")
            elif given.get("disable_extra_networks"):
                self._notes += [f"{key}: its tags are not used (disable_extra_networks)"] * bool(
                    tags
                )
            else:
                named = LoraNames(baked=self._loras, requested=requested)
                problems = named.check(tags)
                self.errors += [FieldError(field=key, message=each) for each in problems]
                mentioned += named.mentioned
        return list(dict.fromkeys(mentioned))

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
