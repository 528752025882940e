"""From a job's `input` to what is asked of the webui; every error of it at once.

Pure: no network, no files. What the webui would ignore in silence, or answer with a 500, is an error here.
`runtime.job.fields` says what each field alone may be; here is what they may be together.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import FieldError, JobError
from runtime.job.asked import OutputOptions, Request
from runtime.job.fields import (
    BY_NAME,
    EMBEDDING_FIELDS,
    FIELDS,
    IDLE_OVERRIDES,
    LORA_FIELDS,
    OVERRIDES,
    PREVIEWS,
    field_like,
)
from runtime.job.names import Names
from runtime.job.rules.models import (
    RESTORERS,
    FileRequest,
    LoraRequest,
    check_embeddings,
    check_twice,
    choose_restorer,
)
from runtime.job.rules.prompts import (
    TAG_KINDS,
    TagNames,
    drawn_texts,
    find_embeddings,
    find_tags,
    without_comments,
)
from runtime.job.rules.reader import MAX_ERRORS, Reader
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
from runtime.job.values import cut, read_value
from runtime.worker import Role, Worker

_OF_A_LORA = {each.name: each for each in LORA_FIELDS}
_OF_AN_EMBEDDING = {each.name: each for each in EMBEDDING_FIELDS}
_OUTPUT = {each.name for each in FIELDS if each.section == "output"}
_NOT_THE_WEBUIS = {
    "loras",
    "embeddings",
    "clip_skip",
    "checkpoint",
    *(e.name for e in FIELDS if e.section in {"output", "neutral"} or e.kind[:5] == "image"),
}
_NO_UPSCALER = "no upscaler of that name is baked"


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
    raise JobError("invalid_request", first, fields=errors[:MAX_ERRORS])


class _Parser(Reader):
    """Collects errors and notes while it reads; one instance for each request."""

    def __init__(
        self, worker: Worker, names: Names, limits: Mapping[str, int], extra: Mapping[str, Any]
    ) -> None:
        super().__init__(limits)
        self._endpoint: Endpoint = "txt2img"
        self._scripts = Scripts(worker.extensions)
        self._sampler_field = "sampler_name"
        self._names = names
        self._overrides = {**OVERRIDES, **{key: field_like(key, extra[key]) for key in extra}}
        self._checkpoints = [each.name for each in worker.of_role("checkpoint")]
        self._embedding_dir = worker.webui.embedding_dir
        roles: tuple[tuple[str, Role], ...] = (
            ("loras", "lora"),
            ("embeddings", "embedding"),
            ("hypernetworks", "hypernetwork"),
            ("restorers", "face_restorer"),
        )
        self._baked = {
            key: {each.name: each.sha256 for each in worker.of_role(role)} for key, role in roles
        }
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
        loras = [
            LoraRequest(**e) for e in self._read_entries(given, "loras", _OF_A_LORA, self._baked)
        ]
        entries = self._read_entries(given, "embeddings", _OF_AN_EMBEDDING, self._baked)
        embeddings = [FileRequest(**each) for each in entries]
        if given.get("restore_faces", overrides.get("face_restoration")):
            given["restore_faces"] = True
            self._choose_restorer(overrides)
        named = self._check_prompts(given, overrides, loras, embeddings)
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
            prompt_loras=list(dict.fromkeys(named.mentioned)),
            prompt_hypernetworks=list(dict.fromkeys(named.mentioned_hypernetworks)),
            embeddings=embeddings,
            checkpoint=overrides.get("sd_model_checkpoint", self._checkpoints[0]),
            images=count_images(given),
            output=OutputOptions(**{key: given[key] for key in _OUTPUT if key in given}),
            notes=self._notes[:MAX_ERRORS],
        )

    def _parse_upscaling(self, value: Mapping[Any, object]) -> Request:
        given = self._read(value, OF_AN_UPSCALING, "", "is no field of an upscaling")
        upscalers = set(self._names.upscalers) - set(self._names.latent_modes)
        for key in {"upscaler_1", "upscaler_2"} & set(given):
            self._know(key, given[key], upscalers, _NO_UPSCALER)
        for restorer in RESTORERS:
            key = f"{restorer.lower()}_visibility"
            if given.get(key) and restorer not in self._baked["restorers"]:
                self._wrong(key, f"{restorer} is not baked")
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
            self._know("hr_upscaler", given["hr_upscaler"], known, _NO_UPSCALER)
        if "styles" in given:  # the webui passes over an empty one
            given["styles"] = [each for each in given["styles"] if each]
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

    def _check_prompts(
        self,
        given: Mapping[str, Any],
        overrides: dict[str, Any],
        loras: Sequence[LoraRequest],
        embeddings: Sequence[FileRequest],
    ) -> TagNames:
        """What the prompts and their styles name; switches off what would hide a part of them."""
        texts = drawn_texts(given, self._names)
        if self._names.has_comments and any("#" in each for each in texts.values()):
            if overrides.setdefault("enable_prompt_comments", False):
                texts = {key: without_comments(text) for key, text in texts.items()}
            else:
                self._notes.append("prompt: what follows a # is drawn (no comments)")
        self.errors += check_twice("loras", loras)
        self.errors += check_twice("embeddings", embeddings)
        if embeddings:
            # What an extension's script is given may be a prompt as well.
            said = [*texts.values(), str(given.get("alwayson_scripts", ""))]
            known, folder = self._baked["embeddings"], self._embedding_dir
            self.errors += check_embeddings(embeddings, said, baked=known, folder=folder)
        baked, hypernetworks = self._baked["loras"], self._baked["hypernetworks"]
        requested = [each.name for each in loras]
        found = TagNames(loras=baked, hypernetworks=hypernetworks, requested=requested)
        if given.get("disable_extra_networks") and loras:
            self._wrong("disable_extra_networks", "switches off the LoRAs that are asked for")
        for key, text in texts.items():
            tags = list(find_tags(text))
            for name in find_embeddings(text):
                self._wrong(key, f"embedding:{cut(name)} is drawn as words; say just its name")
            if "negative" in key:
                for kind in {kind for kind, _ in tags} & TAG_KINDS:
                    self._wrong(key, f"<{kind}:…> has no effect in a negative prompt")
            elif given.get("disable_extra_networks"):
                self._notes += [f"{key}: its tags are not used (disable_extra_networks)"] * bool(
                    tags
                )
            else:
                named = TagNames(loras=baked, hypernetworks=hypernetworks, requested=requested)
                problems = named.check(tags)
                self.errors += [FieldError(field=key, message=each) for each in problems]
                found.mentioned += named.mentioned
                found.mentioned_hypernetworks += named.mentioned_hypernetworks
        return found

    def _choose_restorer(self, overrides: dict[str, Any]) -> None:
        key, asked = "face_restoration_model", set(overrides)
        try:
            chosen = choose_restorer(overrides.get(key), self._baked["restorers"])
        except ValueError as error:
            self._wrong("restore_faces", str(error))
            return
        if overrides.setdefault(key, chosen) != RESTORERS[0] and key not in asked:
            self._notes.append(f"restore_faces: by {chosen}, which is baked")

    def _read_overrides(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What goes into `override_settings`."""
        where = "override_settings."
        asked = given.get("override_settings", {})
        idle = {
            e for e in map(str, asked) if e not in self._overrides and IDLE_OVERRIDES.fullmatch(e)
        }
        self._notes += [f"{where}{cut(each)}: changes nothing in a worker" for each in sorted(idle)]
        value = {key: asked[key] for key in asked if key not in idle}
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
