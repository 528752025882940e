"""The demo's model draws what is asked, repeats itself, and heeds seeds, steps, LoRAs and negative prompts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from demo.train.drawings import SHAPES, Drawing, conics, draw_latent
from demo.train.evaluate import draw
from demo.train.measure import look_at, rectangularity, roundness
from demo.webui import networks
from demo.webui.catalogue import Lora
from demo.webui.decoder import decode_latent
from demo.webui.network import Network, load_network
from demo.webui.safetensors import BadWeightsError, read_metadata, read_tensors
from demo.webui.sampling import SAMPLERS, SCHEDULES, find_sampler, find_schedule, noise_levels
from demo.webui.text import MAX_TOKENS, START, tokenise

WEIGHTS = Path(__file__).resolve().parents[2] / "demo" / "weights"
Picture = NDArray[np.uint8]
# What `make demo` and its verification ask for; of the rest, one seed in five may fail.
ALWAYS = {("red", "circle"), ("blue", "square")}


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(WEIGHTS / "shapes.safetensors")


def picture(network: Network, prompt: str, seed: int, **how: Any) -> Picture:
    return decode_latent(draw(network, prompt, seed, **how), width=128, height=128)


@pytest.mark.parametrize(
    ("fill", "shape", "ground"),
    [
        ("red", "circle", "white"),
        ("blue", "square", "white"),
        ("green", "triangle", "white"),
        ("yellow", "star", "blue"),
        ("black", "heart", "white"),
        ("white", "cross", "black"),
        ("purple", "diamond", "yellow"),
        ("orange", "ring", "black"),
    ],
)
def test_draws_what_the_prompt_says(network: Network, fill: str, shape: str, ground: str) -> None:
    prompt = f"a {fill} {shape} on a {ground} background"
    found = [look_at(picture(network, prompt, seed)) for seed in range(1, 6)]
    assert {(seen.fill, seen.ground) for seen in found} == {(fill, ground)}
    right = sum(seen.shape == shape for seen in found)
    assert right == 5 if (fill, shape) in ALWAYS else right >= 4, found


def test_measure_knows_each_shape() -> None:
    for shape in SHAPES:
        drawing = Drawing(
            shape=shape,
            fill=(0.87, 0.12, 0.13),
            ground=(0.98, 0.98, 0.98),
            radius=0.24,
            centre=(0.04, -0.03),
            angle=0.05,
        )
        seen = look_at(decode_latent(draw_latent(drawing), width=128, height=128))
        assert (seen.shape, seen.fill, seen.ground) == (shape, "red", "white")


def test_measure_tells_round_from_square() -> None:
    found = {}
    for shape in ("circle", "square"):
        drawing = Drawing(
            shape=shape, fill=(0, 0, 0), ground=(1, 1, 1), radius=0.25, centre=(0.02, 0), angle=0.1
        )
        drawn = decode_latent(draw_latent(drawing), width=128, height=128)
        found[shape] = (roundness(drawn), rectangularity(drawn))
    assert found["circle"] == pytest.approx((1, np.pi / 4), abs=0.01)
    assert found["square"] == pytest.approx((np.pi / 4, 1), abs=0.025)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("radius", "centre"), [(0.13, (-0.2, 0.2)), (0.15, (0.21, -0.2)), (0.25, (0.01, 0.03))]
)
def test_few_cells_hold_each_shape_with_its_corners(
    shape: str, radius: float, centre: tuple[float, float]
) -> None:
    """What is decoded, against the same curves drawn pixel by pixel."""
    side = 256
    drawing = Drawing(
        shape=shape, fill=(0, 0, 0), ground=(1, 1, 1), radius=radius, centre=centre, angle=0.1
    )
    decoded = decode_latent(draw_latent(drawing), width=side, height=side)[..., 0] < 128
    axis = (np.arange(side) + 0.5) / side - 0.5
    y, x = np.meshgrid(axis, axis, indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    outside = np.tensordot(conics(drawing), terms, axes=1) > 0
    exact = outside.sum(axis=0) <= 1
    assert (decoded ^ exact).sum() < 0.002 * exact.sum()


def test_circles_are_round_and_squares_are_square(network: Network) -> None:
    for seed in range(1, 5):
        circle = picture(network, "a red circle on a white background", seed)
        assert roundness(circle) >= 0.92, seed
        square = picture(network, "a blue square on a white background", seed)
        assert rectangularity(square) >= 0.95, seed


def test_measure_sees_nothing_in_a_flat_picture() -> None:
    assert look_at(np.full((96, 96, 3), 250, np.uint8)).shape == "nothing"


def test_same_seed_same_picture_and_another_seed_another(network: Network) -> None:
    first = picture(network, "a red circle on a white background", 1)
    assert np.array_equal(first, picture(network, "a red circle on a white background", 1))
    assert not np.array_equal(first, picture(network, "a red circle on a white background", 2))


def test_steps_samplers_and_schedulers_change_the_picture(network: Network) -> None:
    prompt = "a red circle on a white background"
    ways = [picture(network, prompt, 1, steps=steps) for steps in (2, 8, 20)]
    ways += [picture(network, prompt, 1, sampler_name=each.name) for each in SAMPLERS[:2]]
    ways += [picture(network, prompt, 1, scheduler=label) for label in ("Karras", "Exponential")]
    assert len({each.tobytes() for each in ways}) == len(ways)


def test_more_steps_come_closer_to_the_limit(network: Network) -> None:
    def latent(steps: int) -> NDArray[np.float32]:
        return draw(network, "a blue star on a white background", 3, steps=steps, cfg_scale=1)

    limit = latent(120)
    errors = [float(np.abs(latent(steps) - limit).mean()) for steps in (2, 8, 32)]
    assert errors[0] > errors[1] > errors[2]


def test_each_sampler_draws_it(network: Network) -> None:
    for sampler in SAMPLERS:
        seen = look_at(
            picture(
                network,
                "a red circle on a white background",
                1,
                sampler_name=sampler.name,
                steps=12,
            )
        )
        assert (seen.fill, seen.shape, seen.ground) == ("red", "circle", "white"), sampler.name


def test_negative_prompt_keeps_a_colour_away(network: Network) -> None:
    """With no colour asked for, some seeds draw red; against red, none does."""
    with_red = without_red = 0
    for seed in range(12):
        plain = look_at(picture(network, "a circle on a white background", seed, cfg_scale=7))
        against = look_at(
            picture(network, "a circle on a white background", seed, negative="red", cfg_scale=7)
        )
        with_red += plain.fill == "red"
        without_red += against.fill == "red"
    assert without_red < max(1, with_red)


def with_lora(network: Network, weight: float) -> Network:
    path = WEIGHTS / "outline.safetensors"
    networks.connect(network)
    on_disk = SimpleNamespace(filename=str(path), lora=Lora(path=path, metadata={}, sha256=None))
    net = networks.load_network("outline", on_disk)
    net.unet_multiplier = weight
    networks.loaded_networks[:] = [net]
    errors: dict[str, int] = {}
    changed = networks.apply_networks(network, errors)
    assert errors == {}
    return changed


def test_lora_draws_outlines(network: Network) -> None:
    outline = with_lora(network, 1.0)
    prompt = "a large blue square on a white background"
    for seed in range(1, 4):
        whole = picture(network, prompt, seed)
        hollow = picture(outline, prompt, seed)
        assert np.argmax(whole[60:68, 60:68].mean(axis=(0, 1))) == 2
        assert whole[60:68, 60:68, 0].mean() < 90
        assert hollow[60:68, 60:68].mean() > 200, "the middle shows the ground"
        assert (hollow[..., 0] < 100).mean() > 0.03, "the edge is drawn"


def test_lora_of_weight_zero_changes_nothing(network: Network) -> None:
    same = with_lora(network, 0.0)
    prompt = "a red circle on a white background"
    assert np.array_equal(picture(network, prompt, 1), picture(same, prompt, 1))


def test_weights_are_small_and_of_the_demo_family() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.glob("*.safetensors")) < 5_000_000
    assert all(name.startswith("demo.") for name in read_tensors(WEIGHTS / "shapes.safetensors"))
    lora = read_tensors(WEIGHTS / "outline.safetensors")
    assert {name.split(".", 1)[1] for name in lora} == {
        "lora_down.weight",
        "lora_up.weight",
        "alpha",
    }
    assert all(name.startswith("lora_demo_") for name in lora)
    for name in ("shapes", "outline"):
        assert read_metadata(WEIGHTS / f"{name}.safetensors")["bakery.family"] == "demo"


def test_refuses_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(BadWeightsError, match="is not a checkpoint of the demo's model"):
        load_network(WEIGHTS / "outline.safetensors")
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"no such thing")
    with pytest.raises(BadWeightsError, match="is not a safetensors file"):
        load_network(path)


def test_words_are_found_whatever_their_dress() -> None:
    words = ["<padding>", START, "red", "gray", "circle"]
    assert tokenise("(RED:1.3), grey disc of an old fisherman", words) == [1, 2, 3, 4]
    assert len(tokenise("red " * 100, words)) == MAX_TOKENS


def test_pictures_of_every_size_keep_the_shape_round() -> None:
    drawing = Drawing(
        shape="circle", fill=(1, 0, 0), ground=(1, 1, 1), radius=0.25, centre=(0, 0), angle=0
    )
    wide = decode_latent(draw_latent(drawing), width=256, height=128)
    assert wide.shape == (128, 256, 3)
    red = wide[..., 1] < 128
    assert abs(int(red.any(axis=0).sum()) - int(red.any(axis=1).sum())) <= 1
    assert decode_latent(draw_latent(drawing), width=8, height=8).shape == (8, 8, 3)


def test_noise_levels_fall_to_nothing() -> None:
    for schedule in SCHEDULES:
        levels = noise_levels(schedule, 7)
        assert len(levels) == 8
        assert levels == sorted(levels, reverse=True)
        assert levels[-1] == 0


def test_schedulers_are_found_as_the_webui_finds_them_and_sampler_names_are_exact() -> None:
    sampler = find_sampler("DPM++ 2M")
    assert sampler is not None
    for own in (None, "", "Automatic", "karras", "Karras"):
        assert find_schedule(own, sampler).name == "karras"
    for other in ("automatic", "no such"):
        assert noise_levels(find_schedule(other, sampler), 5) == noise_levels(SCHEDULES[1], 5)
    assert find_sampler("DPM++ 2M Karras") is None
