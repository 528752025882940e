"""One job, from text or from pictures: settings, LoRAs, denoising, pictures with their infotext."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.webui import img2img, networks, processing, scripts
from demo.webui.around import EmbeddingDatabase, Models
from demo.webui.catalogue import Catalogue
from demo.webui.decoder import decode_latent
from demo.webui.faults import Faults
from demo.webui.guidance import guided, noise_source
from demo.webui.loader import Loader, Model
from demo.webui.network import Network
from demo.webui.options import Options
from demo.webui.png import encode_picture
from demo.webui.sampling import (
    Array,
    Sampler,
    Schedule,
    find_sampler,
    find_schedule,
    noise_levels,
)
from demo.webui.state import State

VERSION = "v1.9.3-demo"

_TAG = re.compile(r"<(\w+):([^>]+)>")
_COMMENT = re.compile(r"#[^\n]*")
_CELL_PIXELS = 8


class HttpError(Exception):
    """An answer with its own status, as the web framework's HTTPException."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__()
        self.status = status
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Studio:
    """What a job works with."""

    catalogue: Catalogue
    options: Options
    loader: Loader
    state: State
    faults: Faults
    models: Models


@dataclass(kw_only=True)
class _Job:
    """A request on its way; `extra` goes into the infotext."""

    request: dict[str, Any]
    model: Model
    sampler: Sampler
    schedule: Schedule
    prompts: list[str]
    seeds: list[int]
    subseeds: list[int]
    extra: dict[str, Any]
    clip_skip: Any
    init: img2img.Init | None = None


def check_request(request: dict[str, Any]) -> Sampler:
    """The checks that come before the queue. Raises HttpError."""
    if request["script_name"]:
        raise HttpError(422, f"Script '{request['script_name']}' not found")
    sampler = find_sampler(request["sampler_name"] or request["sampler_index"])
    if sampler is None:
        raise HttpError(404, "Sampler not found")
    for name in request["alwayson_scripts"]:
        if not scripts.has_script(name, is_img2img="init_images" in request):
            raise HttpError(422, f"Script '{name}' not found")
    return sampler


NO_HIRES: dict[str, Any] = {"enable_hr": False, "hr_scale": None}
"""What a request of img2img lacks."""


def run_job(
    studio: Studio, request: dict[str, Any], sampler: Sampler, *, mask: Image.Image | None = None
) -> dict[str, Any]:
    """Runs a checked request, in the caller's turn, and gives the API's answer."""
    # The webui waits for its model here, before the overrides: loading writes settings too.
    studio.loader.current()
    studio.state.begin("scripts_txt2img")
    networks.use_catalogue(studio.catalogue)
    processing.connect(studio.options, studio.state)
    p = processing.StableDiffusionProcessing(
        request, lambda p: _generate(studio, p, request, sampler, mask)
    )
    wanted = p.override_settings.get("sd_model_checkpoint")
    if studio.catalogue.find_checkpoint(wanted) is None:
        p.override_settings.pop("sd_model_checkpoint", None)
    try:
        result = processing.process_images(p)
    finally:
        studio.state.end()
    return {
        "images": result.images if request["send_images"] else [],
        "parameters": request,
        "info": result.js(),
    }


def _generate(
    studio: Studio,
    p: processing.StableDiffusionProcessing,
    request: dict[str, Any],
    sampler: Sampler,
    mask: Image.Image | None,
) -> processing.Processed:
    model = studio.loader.current()
    if model is None:
        raise AttributeError("'NoneType' object has no attribute 'sd_checkpoint_info'")
    job = _begin(studio, request, model, sampler)
    job.extra = p.extra_generation_params
    if "init_images" in request:
        job.init = img2img.prepare(request, mask, job.extra)
    is_img2img = "init_images" in request
    runner = scripts.scripts_img2img if is_img2img else scripts.scripts_txt2img
    given = request["alwayson_scripts"]
    runner.run("process", given, p)
    state, size = studio.state, request["batch_size"]
    state.job_count = request["n_iter"]
    images: list[Any] = []
    infotexts: list[str] = []
    networks.connect(model.network)
    processing.model_hijack.extra_generation_params.clear()
    processing.model_hijack.embedding_db.load_textual_inversion_embeddings(model.network.width)
    for batch in range(request["n_iter"]):
        state.skipped = False
        if state.interrupted:
            break
        if not request["disable_extra_networks"]:
            processing.activate(p, _tags(job.prompts[0]))
        conditions = _conditions(studio, p, job)
        network = networks.apply_networks(model.network, processing.errors())
        chosen = range(batch * size, (batch + 1) * size)
        latents = _sample(studio, job, network, chosen, conditions)
        if request["enable_hr"] and not request["disable_extra_networks"]:
            # The second pass, which here only draws larger, has networks of its own.
            processing.activate(p, _tags(request["hr_prompt"] or job.prompts[0]))
            networks.apply_networks(model.network, processing.errors())
        state.next_job()
        for index, latent in zip(chosen, latents, strict=True):
            infotexts.append(_infotext(studio.options, job, index))
            picture = _decode(studio, job, latent)
            picture = studio.models.finish(picture, request, studio.options)
            if job.init is not None:
                picture = img2img.overlaid(picture, job.init, index - chosen[0])
            made = SimpleNamespace(image=Image.fromarray(picture))
            runner.run("postprocess_image", given, p, made)
            if studio.options.enable_pnginfo:
                made.image.info["parameters"] = infotexts[-1]
            images.append(made.image)
    infotexts = infotexts or [_infotext(studio.options, job, 0)]
    result = processing.Processed(images, _info(studio, job, infotexts))
    runner.run("postprocess", given, p, result)
    result.images = list(map(encode_picture, result.images))
    return result


def _tags(prompt: str) -> list[list[str]]:
    return [found[1].split(":") for found in _TAG.findall(prompt) if found[0] == "lora"]


def _conditions(
    studio: Studio, p: processing.StableDiffusionProcessing, job: _Job
) -> tuple[Array, Array]:
    """The vectors of the negative prompt and of the prompt, from the cache where it has them."""
    request, model = job.request, job.model
    backtrack = studio.options.comma_padding_backtrack
    tags = _tags(job.prompts[0])

    told = processing.model_hijack.extra_generation_params

    def make(prompts: list[str]) -> Array:
        network = networks.apply_networks(model.network, processing.errors())
        skip = max(0, job.clip_skip - 1)
        made = network.encode(prompts[0], skip_last_layers=skip, backtrack=backtrack)
        database: EmbeddingDatabase = processing.model_hijack.embedding_db
        return database.apply(made, prompts[0], told)

    kind = processing.StableDiffusionProcessing
    found = []
    for text, cache in (
        (_drawn(studio.options, request["negative_prompt"]), kind.cached_uc),
        (_TAG.sub("", job.prompts[0]), kind.cached_c),
    ):
        prompts = processing.Prompts([text], model.checkpoint.path)
        found.append(p.get_conds_with_caching(make, prompts, request["steps"], [cache], tags))
    job.extra.update(told)
    return found[0], found[1]


def _begin(studio: Studio, request: dict[str, Any], model: Model, sampler: Sampler) -> _Job:
    """Refuses what the webui fails on, as it does: with a bare exception, which becomes a 500."""
    assert request["prompt"] is not None
    if request["negative_prompt"] is None:
        raise TypeError("expected string or bytes-like object")
    if request["width"] < _CELL_PIXELS or request["height"] < _CELL_PIXELS:
        raise RuntimeError(
            f"Trying to create tensor with negative or zero dimension: "
            f"[4, {request['height'] // 8}, {request['width'] // 8}]"
        )
    if request["steps"] == 0:
        raise ZeroDivisionError("integer division or modulo by zero")
    if request["steps"] < 0:
        raise RuntimeError(f"number of steps must be non-negative: {request['steps']}")
    count = request["batch_size"] * request["n_iter"]
    if count < 1:
        raise IndexError("list index out of range")
    clip_skip = studio.options.CLIP_stop_at_last_layers
    clip_skip <= 1  # noqa: B015  # a setting of another type fails every job, as in the webui
    studio.faults.at_job(pixels=request["batch_size"] * request["width"] * request["height"])
    seed = _fixed(request["seed"])
    subseed = _fixed(request["subseed"])
    varied = request["subseed_strength"] != 0
    return _Job(
        request=request,
        model=model,
        sampler=sampler,
        schedule=find_schedule(request["scheduler"], sampler),
        prompts=[_drawn(studio.options, request["prompt"])] * count,
        seeds=[seed + (0 if varied else index) for index in range(count)],
        subseeds=[subseed + index for index in range(count)],
        extra={},
        clip_skip=clip_skip,
    )


def _fixed(seed: int | None) -> int:
    return random.randrange(4294967294) if seed is None or seed == -1 else seed


def _drawn(options: Options, prompt: str) -> str:
    """What is left of a prompt without its comments, which the webui drops unless told not to."""
    return _COMMENT.sub("", prompt) if options.enable_prompt_comments else prompt


class _Interrupted(Exception):
    """Leaves the sampler; what was reached is the picture."""


def _sample(
    studio: Studio, job: _Job, network: Network, chosen: range, conditions: tuple[Array, Array]
) -> list[Array]:
    """Denoises the pictures of one batch together; gives what was reached if the job is interrupted."""
    request, state = job.request, studio.state
    state.sampling_steps = steps = request["steps"]
    against, text = conditions
    model = guided(network, text=text, against=against, cfg_scale=request["cfg_scale"])
    sources = [noise_source(job.seeds[index]) for index in chosen]
    levels = noise_levels(job.schedule, steps)
    starts = [_start(job, source(), index) for source, index in zip(sources, chosen, strict=True)]
    init = job.init
    if init is not None:
        # The last steps only, from the pictures under as much noise as there is then.
        walked = int(min(request["denoising_strength"], 0.999) * steps) + 1
        levels, state.sampling_steps = levels[steps - walked :], walked
    reached = starts

    def denoise(x: list[Array], sigma: float, step: int) -> list[Array]:
        nonlocal reached
        if state.interrupted or state.skipped:
            raise _Interrupted
        state.sampling_step = step
        studio.faults.at_step(step, steps)
        reached = [model(each, sigma) for each in x]
        state.current_latent = reached[0]
        return reached

    try:
        x = [start * np.float32(levels[0]) for start in starts]
        if init is None:
            return job.sampler.run(x, levels, denoise, lambda index: sources[index]())
        factor = request["initial_noise_multiplier"]
        noise = [each * np.float32(1 if factor is None else factor) for each in x]
        x = [each + start for each, start in zip(noise, init.latents, strict=False)]
        made = job.sampler.run(x, levels, denoise, lambda index: sources[index]())
        if (mask := init.latent_mask) is None:
            return made
        return [m * mask + i * (1 - mask) for m, i in zip(made, init.latents, strict=False)]
    except _Interrupted:
        return reached
    finally:
        state.sampling_step = steps


def _start(job: _Job, noise: Array, index: int) -> Array:
    """The seed's noise, turned towards the subseed's by subseed_strength."""
    strength = job.request["subseed_strength"]
    if not strength:
        return noise
    angle = strength * np.pi / 2
    other = noise_source(job.subseeds[index])()
    turned: Array = noise * np.float32(np.cos(angle)) + other * np.float32(np.sin(angle))
    return turned


def _final_size(request: dict[str, Any]) -> tuple[int, int]:
    """Width and height in whole cells of 8 pixels, as the webui's; a hires request only draws larger."""
    width, height = request["width"], request["height"]
    if request["enable_hr"]:
        scale = request["hr_scale"] or 1
        width = request["hr_resize_x"] or int(width * scale)
        height = request["hr_resize_y"] or int(height * scale)
    return width // _CELL_PIXELS * _CELL_PIXELS, height // _CELL_PIXELS * _CELL_PIXELS


def _decode(studio: Studio, job: _Job, latent: Array) -> NDArray[np.uint8]:
    width, height = _final_size(job.request)
    if studio.faults.black:
        return np.zeros((height, width, 3), np.uint8)
    return decode_latent(latent, width=width, height=height, softness=job.model.softness)


def _infotext(options: Options, job: _Job, index: int) -> str:
    request, model = job.request, job.model
    own = job.schedule.sigmas is None
    varied = request["subseed_strength"] != 0
    values = {
        "Steps": request["steps"],
        "Sampler": job.sampler.name,
        "Schedule type": request["scheduler"] if own else job.schedule.label,
        "CFG scale": request["cfg_scale"],
        "Seed": job.seeds[index],
        "Size": f"{request['width']}x{request['height']}",
        "Model hash": model.checkpoint.short_hash if options.add_model_hash_to_info else None,
        "Model": model.checkpoint.path.stem if options.add_model_name_to_info else None,
        "VAE hash": model.vae_hash if options.add_vae_hash_to_info else None,
        "VAE": model.vae.name if model.vae and options.add_vae_name_to_info else None,
        "Variation seed": job.subseeds[index] if varied else None,
        "Variation seed strength": request["subseed_strength"] if varied else None,
        "Hires upscale": request["hr_scale"] if request["enable_hr"] else None,
        "Clip skip": job.clip_skip if job.clip_skip > 1 else None,
        **job.extra,
        "Version": VERSION if options.add_version_to_infotext else None,
    }
    told = ", ".join(
        f"{key}: {_quote(value)}" for key, value in values.items() if value is not None
    )
    negative = request["negative_prompt"]
    against = f"\nNegative prompt: {negative}" if negative else ""
    return f"{job.prompts[index]}{against}\n{told}".strip()


def _quote(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(",\n:") else text


def _info(studio: Studio, job: _Job, infotexts: list[str]) -> dict[str, Any]:
    request, model = job.request, job.model
    negative = request["negative_prompt"]
    return {
        "prompt": job.prompts[0],
        "all_prompts": job.prompts,
        "negative_prompt": negative,
        "all_negative_prompts": [negative] * len(job.prompts),
        "seed": job.seeds[0],
        "all_seeds": job.seeds,
        "subseed": job.subseeds[0],
        "all_subseeds": job.subseeds,
        "subseed_strength": request["subseed_strength"],
        "width": request["width"],
        "height": request["height"],
        "sampler_name": job.sampler.name,
        "cfg_scale": request["cfg_scale"],
        "steps": request["steps"],
        "batch_size": request["batch_size"],
        "restore_faces": request["restore_faces"] or False,
        "face_restoration_model": None,
        "sd_model_name": model.checkpoint.path.stem,
        "sd_model_hash": model.checkpoint.short_hash,
        "sd_vae_name": model.vae.name if model.vae else None,
        "sd_vae_hash": model.vae_hash,
        "seed_resize_from_w": request["seed_resize_from_w"],
        "seed_resize_from_h": request["seed_resize_from_h"],
        "denoising_strength": request["denoising_strength"],
        "extra_generation_params": job.extra,
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": request["styles"] or [],
        "job_timestamp": studio.state.job_timestamp,
        "clip_skip": job.clip_skip,
        "is_using_inpainting_conditioning": False,
        "version": VERSION,
    }
