"""Every job begins from the same state, and its answer says what was applied; on with every choice of tricks.

What a job of webui v1.9.3 leaves behind for the next one, and what is done about it:

- Conditionings are cached by a key that lacks settings (`comma_padding_backtrack` and others), the size that
  hires fix enlarges to (which SDXL is told) and whether LoRAs were on. Here the key has all that a request
  can set. A cached one also gives back what its making would have added to the infotext.
- `disable_extra_networks` leaves the last job's LoRAs on. Here they are taken off first.
- A LoRA's bias stays in a layer that has none of its own. Here it is taken back.
- A setting that config.json lacks is not put back. Here its default is noted before it is overridden.
- A picture's encoder draws from torch's own generator, which holds what the last job left of its seed: one
  request draws another picture each time. Here it begins with the job's seed.
- The upscaling script keeps pictures, under a key that lacks their size. Here they are forgotten.
- Conditionings do not know which embeddings there were. Here they are part of the key.
- `disable_extra_networks` leaves the last job's hypernetworks on, too; and the webui knows a loaded one by the name that
  its trainer gave it, so that it may be taken for another file. Here it has its file's name.
- GFPGAN takes its noise from torch's own generator. Here it begins anew for each picture.
- A noise schedule that a setting rescaled becomes the next checkpoint's own, if that file has none. Here a
  checkpoint is loaded over the schedule of its own.
- Where a script fails, the webui draws on without it, with a line in its log only. Here the answer says so.

The answer's `info` gets `"bakery": {"loras": […], "scripts": […], "embeddings": […], "hypernetworks": […],
"interrupted": …}` (see `runtime.boot.applied`): of embeddings and hypernetworks the names that the webui could load.
A script may draw again while a job runs (ADetailer does): that belongs to the job.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from runtime.boot import applied, timeline
from runtime.boot.applied import Passes
from runtime.boot.hooks import after_import

_HYPERNETWORKS: dict[str, None] = {}
"""Names of those that the running job could load."""
EVENT = "jobs"
"""In the timeline: jobs are watched."""
_Infotext = dict[str, Any]
_FAILED = re.compile(r"Error running (\w+): (.*)", re.DOTALL)
"""What `modules/scripts.py` says of a script that failed, with its method and its file."""
_REASON_CHARS = 300


def install() -> None:
    """Hooks into the webui's modules as they are imported; another script is left alone."""
    passes = applied.install()
    failures: list[dict[str, Any]] = []
    for name in ("modules.processing", "demo.webui.processing"):
        after_import(name, lambda module: _watch(module, passes, failures), trick=EVENT)
    for name in ("modules.scripts", "demo.webui.scripts"):
        after_import(name, lambda module: _watch_scripts(module, failures), trick=EVENT)
    after_import("modules.sd_models", _keep_schedule, trick=EVENT)
    for name in ("modules.postprocessing", "demo.webui.postprocessing"):
        after_import(name, _forget_pictures, trick=EVENT)
    after_import("modules.hypernetworks.hypernetwork", _name_by_file, trick=EVENT)
    after_import("modules.gfpgan_model", _seed_restorer, trick=EVENT)


def _watch(processing: Any, passes: Passes, failures: list[dict[str, Any]]) -> None:
    draw, base = processing.process_images, processing.StableDiffusionProcessing
    make_conds, make_json = base.get_conds_with_caching, processing.Processed.js
    running: list[Any] = []

    def process_images(p: Any) -> Any:
        if running:
            _begin(processing, p)
            return draw(p)
        running.append(p)
        passes.begin()
        failures.clear()
        _HYPERNETWORKS.clear()
        try:
            _begin(processing, p)
            result = draw(p)
        finally:
            running.clear()
        state = processing.state
        was_interrupted = bool(state.interrupted or state.skipped)
        result.bakery = {
            "loras": passes.end(),
            "scripts": list(failures),
            "embeddings": [each.name for each in _embeddings(processing)],
            "hypernetworks": list(_HYPERNETWORKS),
            "interrupted": was_interrupted,
        }
        return result

    def get_conds_with_caching(
        self: Any, function: Any, required_prompts: Any, steps: Any, caches: Any, *rest: Any
    ) -> Any:
        return _make_once(
            caches,
            (*_shape(self, required_prompts), _embeddings(processing)),
            lambda usable: make_conds(self, function, required_prompts, steps, usable, *rest),
            processing.model_hijack.extra_generation_params,
        )

    def js(self: Any) -> str:
        text: str = make_json(self)
        said = getattr(self, "bakery", None)
        return text if said is None else f'{text[:-1]}, "bakery": {json.dumps(said)}}}'

    processing.process_images, processing.Processed.js = process_images, js
    base.get_conds_with_caching = get_conds_with_caching
    if (from_picture := getattr(processing, "StableDiffusionProcessingImg2Img", None)) is not None:
        _seed_encoder(processing, from_picture, running)
    timeline.write(EVENT, 0.0, 0.0)


def _seed_encoder(processing: Any, kind: Any, running: Sequence[Any]) -> None:
    upstream = kind.init

    def init(self: Any, all_prompts: Any, all_seeds: Any, all_subseeds: Any) -> None:
        if list(running) in ([], [self]):  # else the job that runs has set torch's generator
            processing.torch.manual_seed(all_seeds[0])
        upstream(self, all_prompts, all_seeds, all_subseeds)

    kind.init = init


def _watch_scripts(scripts: Any, failures: list[dict[str, Any]]) -> None:
    errors, upstream = scripts.errors, scripts.errors.report

    def report(message: str, *args: Any, **kwargs: Any) -> None:
        if found := _FAILED.fullmatch(message):
            names, reason = _names_of(scripts, found[2]), _last_words(sys.exc_info()[1])
            failures.append({"names": names, "method": found[1], "reason": reason})
        upstream(message, *args, **kwargs)

    errors.report = report


def _last_words(error: BaseException | None) -> str:
    """Kind and text of an error; its end, where the text is a traceback in a frame (ADetailer's)."""
    kind = f"{type(error).__name__}: "
    text = re.sub("[\u2500-\u257f]+", " ", f"{kind}{error}")
    return " ".join((kind + text.rpartition(kind)[2]).split())[:_REASON_CHARS]


def _names_of(scripts: Any, file: str) -> list[str]:
    """Of the scripts that a file has; its own name where it has none."""
    runners = (scripts.scripts_txt2img, scripts.scripts_img2img)
    known = [e.name for each in runners for e in each.scripts if e.filename == file and e.name]
    return sorted(set(known)) or [file.replace("\\", "/").rpartition("/")[2]]


def _begin(processing: Any, p: Any) -> None:
    opts = processing.opts
    for key in p.override_settings:
        if key not in opts.data and (option := opts.data_labels.get(key)) is not None:
            opts.data[key] = option.default
    if p.disable_extra_networks:
        if (networks := _networks()) is not None:
            networks.load_networks([])
        if loaded := getattr(getattr(processing, "shared", None), "loaded_hypernetworks", None):
            loaded.clear()


def _embeddings(processing: Any) -> list[Any]:
    """Those that prompts may say. A new look at the files makes new ones, so they equal no earlier list."""
    database = getattr(processing.model_hijack, "embedding_db", None)
    return list(database.word_embeddings.values()) if database else []


def _networks() -> Any:
    return next(filter(None, map(sys.modules.get, applied.NETWORKS)), None)


def _shape(p: Any, prompts: Any) -> tuple[Any, ...]:
    """What shapes a conditioning beside the webui's own key."""
    loaded = getattr(_networks(), "loaded_networks", ())
    networks = [(n.name, n.mtime, n.te_multiplier, n.unet_multiplier, n.dyn_dim) for n in loaded]
    size = getattr(prompts, "width", None), getattr(prompts, "height", None)
    return dict(p.override_settings), networks, size


def _make_once(
    caches: Sequence[list[Any]],
    shape: tuple[Any, ...],
    make: Callable[[list[list[Any]]], Any],
    infotext: _Infotext,
) -> Any:
    """From a cache whose third entry is `shape`; else made, and kept in the first.

    A cache is the webui's own `[key, conditioning]`, to which the shape and the infotext are added.
    """
    first, *others = caches
    if first[2:3] != [shape]:
        first[0] = None
    before, outer = first[0], dict(infotext)
    infotext.clear()
    result = make([first, *(cache for cache in others if cache[2:3] == [shape])])
    if first[0] is not before or len(first) < 4:
        first[2:] = [shape, dict(infotext)]
        own = first[3]
    else:
        own = next((cache[3] for cache in caches if cache[1] is result and len(cache) > 3), {})
    infotext.clear()
    infotext.update(_join(outer, own))
    return result


def _join(outer: _Infotext, own: _Infotext) -> _Infotext:
    """As the webui joins the hashes of embeddings: the new ones in front, each prompt's once."""
    joined = {**outer, **own}
    for key in outer.keys() & own.keys():
        if key == "TI hashes":
            new, old = own[key], outer[key]
            joined[key] = old if old == new or old.startswith(f"{new}, ") else f"{new}, {old}"
    return joined


def _name_by_file(hypernetwork: Any) -> None:
    load_one, load_all = hypernetwork.load_hypernetwork, hypernetwork.load_hypernetworks

    def load_hypernetwork(name: str) -> Any:
        if (loaded := load_one(name)) is not None:
            loaded.name = name
        return loaded

    def load_hypernetworks(names: Sequence[str], multipliers: Any = None) -> None:
        load_all(names, multipliers)
        there = {each.name for each in hypernetwork.shared.loaded_hypernetworks}
        _HYPERNETWORKS.update(dict.fromkeys(name for name in names if name in there))

    hypernetwork.load_hypernetwork = load_hypernetwork
    hypernetwork.load_hypernetworks = load_hypernetworks


def _seed_restorer(gfpgan_model: Any) -> None:
    """At the first face: a restorer that is only now loaded has drawn its first weights by then."""
    kind, torch = gfpgan_model.FaceRestorerGFPGAN, gfpgan_model.torch
    upstream = kind.restore_with_helper

    def restore_with_helper(self: Any, np_image: Any, restore_face: Any) -> Any:
        faces: list[Any] = []

        def restore_one(face: Any) -> Any:
            if not faces:
                torch.manual_seed(0)
            faces.append(None)
            return restore_face(face)

        with torch.random.fork_rng():
            return upstream(self, np_image, restore_one)

    kind.restore_with_helper = restore_with_helper


def _forget_pictures(postprocessing: Any) -> None:
    upstream = postprocessing.run_extras

    def run_extras(*args: Any, **kwargs: Any) -> Any:
        try:
            return upstream(*args, **kwargs)
        finally:
            postprocessing.scripts.scripts_postproc.image_changed()

    postprocessing.run_extras = run_extras


def _keep_schedule(sd_models: Any) -> None:
    upstream = sd_models.load_model_weights

    def load_model_weights(model: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(model, "alphas_cumprod_original"):
            model.alphas_cumprod = model.alphas_cumprod_original
        return upstream(model, *args, **kwargs)

    sd_models.load_model_weights = load_model_weights
