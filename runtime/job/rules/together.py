"""What the fields of a request may be together: sizes, seeds, steps. Each check yields what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runtime.errors import FieldError
from runtime.job.fields import BY_NAME
from runtime.job.names import BROWNIAN, LEAST_STEPS, LEAST_STEPS_HR, OWN_SCHEDULE, TIMESTEPS

_CELL_PIXELS = 8
"""Side of what one number of a latent picture stands for."""
_HUGE = 1e6
_TIMESTEPS = 1000
_SHARE_OF_ALL = 0.999


def count_images(given: Mapping[str, Any]) -> int:
    """How many pictures a request draws."""
    return int(given.get("batch_size", 1) * given.get("n_iter", 1))


def check_sizes(given: Mapping[str, Any], limits: Mapping[str, int]) -> Iterator[FieldError]:
    """Pictures and pixels against their limits, and sizes that the webui cannot draw."""
    if (images := count_images(given)) > limits["images"]:
        what = f"x n_iter is {images}, at most {limits['images']} are allowed"
        yield FieldError(field="batch_size", message=what)
    width, height = given.get("width", 512), given.get("height", 512)
    if given.get("enable_hr"):
        across, down = given.get("hr_resize_x", 0), given.get("hr_resize_y", 0)
        # The webui enlarges until both are reached, then cuts off what is too much.
        scale = min(max(across / width, down / height) or given.get("hr_scale", 2), _HUGE)
        width, height = int(width * scale), int(height * scale)
        if min(width, height) < _CELL_PIXELS:
            what = f"makes {width} x {height} pixels, {_CELL_PIXELS} are the least of a side"
            yield FieldError(field="hr_scale", message=what)
    if (pixels := width * height) > limits["pixels"]:
        what = f"x height is {pixels} pixels, at most {limits['pixels']} are allowed"
        yield FieldError(field="width", message=what)


def check_seeds(given: Mapping[str, Any], overrides: Mapping[str, Any]) -> Iterator[FieldError]:
    """The webui counts seeds up through the pictures, and adds ENSD to each."""
    further = max(count_images(given) - 1, 0)
    delta = overrides.get("eta_noise_seed_delta", 0)
    for key in ("seed", "subseed"):
        least, most = BY_NAME[key].minimum or 0, BY_NAME[key].maximum or 0
        first = given.get(key, -1)
        if first != -1 and not (
            first + min(delta, 0) >= least and first + further + max(delta, 0) <= most
        ):
            what = "is too near to its bound, for so many pictures or for eta_noise_seed_delta"
            yield FieldError(field=key, message=what)
    extras = ("subseed_strength", "seed_resize_from_w", "seed_resize_from_h")
    if given.get("seed_enable_extras") is False and any(given.get(each, 0) > 0 for each in extras):
        yield FieldError(field="seed_enable_extras", message=f"contradicts {', '.join(extras)}")
    for sampler in BROWNIAN & {given.get("sampler_name"), given.get("hr_sampler_name")}:
        if given.get("seed", -1) < -1:
            what = f"must not be negative with {sampler}; -1 is a random one"
            yield FieldError(field="seed", message=what)
            return


def check_samplers(given: Mapping[str, Any], *, is_img2img: bool = False) -> Iterator[FieldError]:
    """Steps that a sampler needs, and schedulers that it would ignore; names are the webui's own."""
    sampler = given.get("sampler_name", BY_NAME["sampler_index"].default)
    steps = given.get("steps", BY_NAME["steps"].default)
    passes = [("steps", sampler, steps, LEAST_STEPS, OWN_SCHEDULE)]
    if is_img2img:
        # It walks the last steps only, and one more.
        share = min(given.get("denoising_strength", 0.75), _SHARE_OF_ALL)
        passes = [("steps", sampler, int(share * steps) + 1, LEAST_STEPS_HR, TIMESTEPS)]
    if given.get("enable_hr"):
        second = given.get("hr_sampler_name", sampler)
        steps = given.get("hr_second_pass_steps") or steps
        passes.append(("hr_second_pass_steps", second, steps, LEAST_STEPS_HR, TIMESTEPS))
        # The second pass walks the last steps of so many that they are this share.
        share = min(given.get("denoising_strength", 1), _SHARE_OF_ALL)
        if second in TIMESTEPS and not 1 <= steps / max(share, 1e-9) < _TIMESTEPS + 1:
            what = f"must be at least {steps / _TIMESTEPS:g} for {steps} steps of {second}"
            yield FieldError(field="denoising_strength", message=what)
    for where, name, count, least, _ in passes:
        if count < least.get(name, 1):
            yield FieldError(field=where, message=f"{name} needs at least {least[name]} steps")
        elif name in TIMESTEPS and count > _TIMESTEPS:
            what = f"{name} has {_TIMESTEPS} steps at most"
            yield FieldError(field=where, message=what)
    drawn_by = {"scheduler": passes, "hr_scheduler": passes[-1:]}
    if given.get("hr_scheduler"):
        drawn_by["scheduler"] = passes[:1]
    for where, of in drawn_by.items():
        is_unused = all(name in own for _, name, _, _, own in of)
        if given.get(where) not in {None, "Automatic"} and is_unused:
            what = f"has no effect on {of[0][1]}, which has its own schedule"
            yield FieldError(field=where, message=what)
