"""Draws every shape in many colours with several seeds and measures what is to be seen, and how crisp it is.

From the repository's root, needs no torch: `python -m demo.train.evaluate`
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo.train.drawings import COLOURS, SHAPES
from demo.train.measure import look_at, rectangularity, roundness
from demo.webui.decoder import decode_latent
from demo.webui.guidance import guided, noise_source
from demo.webui.network import Network, load_network
from demo.webui.sampling import SAMPLERS, find_sampler, find_schedule, noise_levels

CORNERS = ("top left", "top right", "bottom left", "bottom right")
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"


def draw(
    network: Network,
    prompt: str,
    seed: int,
    *,
    negative: str = "",
    steps: int = 8,
    sampler_name: str = "Euler",
    scheduler: str | None = None,
    cfg_scale: float = 7,
) -> NDArray[np.float32]:
    """The latent of one picture, as the webui makes it."""
    sampler = find_sampler(sampler_name)
    assert sampler is not None
    text, against = network.encode(prompt), network.encode(negative)
    model = guided(network, text=text, against=against, cfg_scale=cfg_scale)
    noise = noise_source(seed)
    levels = noise_levels(find_schedule(scheduler, sampler), steps)
    return sampler.run(
        [noise() * np.float32(levels[0])],
        levels,
        lambda latents, sigma, _step: [model(each, sigma) for each in latents],
        lambda _index: noise(),
    )[0]


def subjects(count: int) -> list[tuple[str, str, str]]:
    """So many of (fill, shape, ground); each shape and each colour as often as the others."""
    names = list(COLOURS)
    found = []
    for number, shape in zip(range(count), itertools.cycle(SHAPES)):  # one is endless
        fill = names[number % len(names)]
        ground = names[(number + 5 + number // len(names)) % len(names)]
        found.append((fill, shape, ground))
    return found


def say_how_crisp(network: Network, seeds: int) -> None:
    """Prints how many circles are round, squares square, and small shapes in corners what they should be."""

    def pictures(prompt: str, count: int = seeds) -> list[NDArray[np.uint8]]:
        latents = (draw(network, prompt, seed) for seed in range(1, count + 1))
        return [decode_latent(each, width=128, height=128) for each in latents]

    for prompt in ("a red circle", "a red circle on a white background"):
        found = [roundness(each) for each in pictures(prompt)]
        print(f"{prompt}: roundness at least 0.92 in {sum(each >= 0.92 for each in found)} of {seeds}, least {min(found):.2f}")  # fmt: skip
    found = [rectangularity(each) for each in pictures("a blue square on a white background")]
    print(f"a blue square: rectangularity at least 0.92 in {sum(each >= 0.92 for each in found)} of {seeds}, least {min(found):.2f}")  # fmt: skip
    for shape in SHAPES:
        seen = []
        for corner in CORNERS:
            prompt = f"a small green {shape} on a white background in the {corner} corner"
            seen += [look_at(each) for each in pictures(prompt, max(1, seeds // 5))]
        clear = sum(each.shape == shape and each.overlap >= 0.8 for each in seen)
        print(f"a small green {shape} in a corner: seen as such, 0.8 of it covered, in {clear} of {len(seen)}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--cfg-scale", type=float, default=7)
    options = parser.parse_args()
    network = load_network(options.weights / "shapes.safetensors")
    say_how_crisp(network, 20 * options.seeds)
    for sampler in SAMPLERS:
        right = total = 0
        for fill, shape, ground in subjects(options.prompts):
            prompt = f"a {fill} {shape} on a {ground} background"
            for seed in range(1, options.seeds + 1):
                latent = draw(
                    network,
                    prompt,
                    seed,
                    steps=options.steps,
                    cfg_scale=options.cfg_scale,
                    sampler_name=sampler.name,
                )
                seen = look_at(decode_latent(latent, width=128, height=128))
                total += 1
                if (seen.fill, seen.shape, seen.ground) == (fill, shape, ground):
                    right += 1
                elif sampler.name == "Euler":
                    print(f"{prompt}, seed {seed}: {seen.fill} {seen.shape} on {seen.ground}")
        print(f"{sampler.name}: {right} of {total} pictures show what the prompt says", flush=True)


if __name__ == "__main__":
    main()
