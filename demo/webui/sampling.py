"""Samplers and schedules, by the webui's names. x is a list of latents that go through their steps together.

Noise levels follow Karras et al. 2022; the second-order sampler is DPM-Solver++ (Lu et al. 2022).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Denoise = Callable[[list[Array], float, int], list[Array]]
"""(latents, noise level, step from 0) to clean latents."""
Noise = Callable[[int], Array]
"""Fresh noise for the picture of that index."""

SIGMA_MIN, SIGMA_MAX = 0.02, 40.0


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A sampler as `/sdapi/v1/samplers` lists it."""

    name: str
    aliases: Sequence[str]
    run: Callable[[list[Array], list[float], Denoise, Noise], list[Array]]
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A scheduler as `/sdapi/v1/schedulers` lists it."""

    name: str
    label: str
    sigmas: Callable[[int], NDArray[Any]] | None = None
    """Falling noise levels for so many steps, without the final 0; None: the model's own."""
    default_rho: float = -1
    need_inner_model: bool = False
    aliases: Sequence[str] | None = None


def _uniform(steps: int) -> NDArray[Any]:
    """Even steps of the angle whose tangent is the noise level."""
    return np.tan(np.linspace(np.arctan(SIGMA_MAX), np.arctan(SIGMA_MIN), steps))


def _sgm_uniform(steps: int) -> NDArray[Any]:
    return np.tan(np.linspace(np.arctan(SIGMA_MAX), np.arctan(SIGMA_MIN), steps + 1)[:-1])


def _power(steps: int, rho: float) -> NDArray[Any]:
    ramp = np.linspace(0, 1, steps)
    high, low = SIGMA_MAX ** (1 / rho), SIGMA_MIN ** (1 / rho)
    levels: NDArray[Any] = (high + ramp * (low - high)) ** rho
    return levels


def _karras(steps: int) -> NDArray[Any]:
    return _power(steps, 7.0)


def _exponential(steps: int) -> NDArray[Any]:
    return np.exp(np.linspace(np.log(SIGMA_MAX), np.log(SIGMA_MIN), steps))


SCHEDULES = (
    Schedule(name="automatic", label="Automatic"),
    Schedule(name="uniform", label="Uniform", sigmas=_uniform, need_inner_model=True),
    Schedule(name="karras", label="Karras", sigmas=_karras, default_rho=7.0),
    Schedule(name="exponential", label="Exponential", sigmas=_exponential),
    Schedule(name="polyexponential", label="Polyexponential", sigmas=_exponential, default_rho=1.0),
    Schedule(
        name="sgm_uniform",
        label="SGM Uniform",
        sigmas=_sgm_uniform,
        need_inner_model=True,
        aliases=("SGMUniform",),
    ),
)
_SCHEDULES = {name: each for each in SCHEDULES for name in (each.name, each.label)}


def find_schedule(name: str | None, sampler: Sampler) -> Schedule:
    """The scheduler that a sampler draws with, as the webui finds it.

    None and the label Automatic are the sampler's own choice. The name `automatic` is not, nor is an unknown one:
    both draw with the model's own levels, in silence.
    """
    if name in (None, "", "Automatic"):
        name = sampler.options.get("scheduler")
    return _SCHEDULES.get(name or "", SCHEDULES[0])


def noise_levels(schedule: Schedule, steps: int) -> list[float]:
    """The levels that a sampler goes through, from the highest to 0: steps + 1 of them."""
    levels = schedule.sigmas or _uniform
    return [*(float(level) for level in levels(steps)), 0.0]


def _euler(x: list[Array], sigmas: list[float], denoise: Denoise, _noise: Noise) -> list[Array]:
    for step, (now, then) in enumerate(itertools.pairwise(sigmas)):
        clean = denoise(x, now, step)
        ratio = np.float32(then / now)
        x = [each * ratio + goal * (1 - ratio) for each, goal in zip(x, clean, strict=True)]
    return x


def _euler_ancestral(
    x: list[Array], sigmas: list[float], denoise: Denoise, noise: Noise
) -> list[Array]:
    for step, (now, then) in enumerate(itertools.pairwise(sigmas)):
        clean = denoise(x, now, step)
        up = min(then, (then**2 * (now**2 - then**2) / now**2) ** 0.5)
        ratio = np.float32((then**2 - up**2) ** 0.5 / now)
        x = [each * ratio + goal * (1 - ratio) for each, goal in zip(x, clean, strict=True)]
        if up:
            x = [each + noise(index) * np.float32(up) for index, each in enumerate(x)]
    return x


def _dpmpp_2m(x: list[Array], sigmas: list[float], denoise: Denoise, _noise: Noise) -> list[Array]:
    before: list[Array] | None = None
    h_before = 0.0
    for step, (now, then) in enumerate(itertools.pairwise(sigmas)):
        clean = denoise(x, now, step)
        goal = clean
        h = np.log(now / then) if then else 0.0
        if before is not None and then:
            share = h / h_before / 2
            goal = [
                new * np.float32(1 + share) - old * np.float32(share)
                for new, old in zip(clean, before, strict=True)
            ]
        ratio = np.float32(then / now)
        x = [each * ratio + aim * (1 - ratio) for each, aim in zip(x, goal, strict=True)]
        before, h_before = clean, h
    return x


def _ddim(x: list[Array], sigmas: list[float], denoise: Denoise, noise: Noise) -> list[Array]:
    """Deterministic DDIM on its own levels: even steps of time, from below the highest."""
    angles = np.arctan(sigmas[0]) * (np.arange(len(sigmas) - 1, -1, -1) / (len(sigmas) - 1)) ** 1.2
    return _euler(x, [float(level) for level in np.tan(angles)], denoise, noise)


SAMPLERS = (
    Sampler(
        name="DPM++ 2M", aliases=("k_dpmpp_2m",), options={"scheduler": "karras"}, run=_dpmpp_2m
    ),
    Sampler(
        name="Euler a",
        aliases=("k_euler_a", "k_euler_ancestral"),
        options={"uses_ensd": "True"},
        run=_euler_ancestral,
    ),
    Sampler(name="Euler", aliases=("k_euler",), run=_euler),
    Sampler(name="DDIM", aliases=("ddim",), run=_ddim),
)
_SAMPLERS = {each.name: each for each in SAMPLERS}


def find_sampler(name: str | None) -> Sampler | None:
    """A sampler by its exact name; the API knows no aliases."""
    return _SAMPLERS.get(name or "")
