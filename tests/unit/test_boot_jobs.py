"""What boot adds to every job inside the webui, on stand-ins of the modules that it hooks into."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.boot import applied, jobs
from runtime.boot.applied import Passes
from tests.standins.models import safetensors


class Processing:
    """AUTOMATIC1111's `modules.processing`, as far as jobs are watched: it caches by prompt and steps alone."""

    def __init__(self) -> None:
        self.opts = SimpleNamespace(
            data={"kept": 1}, data_labels={"lost": SimpleNamespace(default=5)}
        )
        self.state = SimpleNamespace(interrupted=False, skipped=False)
        self.model_hijack = SimpleNamespace(extra_generation_params={})
        self.made: list[str] = []
        made, opts = self.made, self.opts

        class StableDiffusionProcessing:
            caches: tuple[Any, ...] = ([None, None], [None, None])

            def __init__(self, prompt: str = "p", **more: Any) -> None:
                self.prompt = prompt
                self.result: Any = None
                self.info: dict[str, Any] = {}
                self.override_settings = more.pop("override_settings", {})
                self.disable_extra_networks = more.pop("disable_extra_networks", False)
                self.size = more.pop("size", 64)
                self.during = more.pop("during", lambda: None)

            def get_conds_with_caching(
                self, function: Any, required_prompts: Any, steps: int, caches: Any, extra: Any
            ) -> Any:
                key = (list(required_prompts), steps, extra)
                for cache in caches:
                    if cache[0] == key:
                        return cache[1]
                caches[0][1] = function(required_prompts)
                caches[0][0] = key
                return caches[0][1]

        class Processed:
            def js(self) -> str:
                return json.dumps({"seed": 1, "settings": opts.data})

        def process_images(p: Any) -> Processed:
            p.during()
            prompts = Prompts([p.prompt])
            prompts.width = prompts.height = p.size

            def make(required_prompts: list[str]) -> str:
                made.append(required_prompts[0])
                self.model_hijack.extra_generation_params["TI hashes"] = f"h{len(made)}"
                return f"conditioning {len(made)}"

            self.model_hijack.extra_generation_params = {}
            first, second = StableDiffusionProcessing.caches
            p.conds = p.get_conds_with_caching(make, prompts, 3, [first, second], {})
            p.infotext = dict(self.model_hijack.extra_generation_params)
            return Processed()

        self.seeds: list[Any] = []
        self.torch = SimpleNamespace(manual_seed=self.seeds.append)
        seeds = self.seeds

        class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
            def init(self, all_prompts: Any, all_seeds: Any, all_subseeds: Any) -> None:
                seeds.append(("encodes", all_prompts, all_subseeds))

        self.StableDiffusionProcessing = StableDiffusionProcessing
        self.StableDiffusionProcessingImg2Img = StableDiffusionProcessingImg2Img
        self.Processed = Processed
        self.process_images = process_images


class Prompts(list[str]):
    width = height = 64


@pytest.fixture
def processing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Processing:
    monkeypatch.setenv("BAKERY_TIMELINE", str(tmp_path / "timeline"))
    module = Processing()
    jobs._watch(module, Passes(), [])
    return module


def draw(processing: Processing, *args: Any, **more: Any) -> Any:
    p = processing.StableDiffusionProcessing(*args, **more)
    p.result = processing.process_images(p)
    p.info = json.loads(p.result.js())
    return p


def test_equal_jobs_share_a_conditioning_and_its_infotext(processing: Processing) -> None:
    first, second = draw(processing), draw(processing)
    assert processing.made == ["p"]
    assert first.conds == second.conds
    assert first.infotext == second.infotext == {"TI hashes": "h1"}


def test_a_pictures_encoder_begins_with_the_jobs_seed(processing: Processing) -> None:
    processing.StableDiffusionProcessingImg2Img().init(["p"], [7, 8], [9])
    assert processing.seeds == [7, ("encodes", ["p"], [9])]


@pytest.mark.parametrize("fails", [False, True])
def test_pictures_that_were_made_larger_are_forgotten(fails: bool) -> None:
    kept = ["a picture"]

    def run_extras(extras_mode: int, *, image: str) -> str:
        assert kept
        if fails:
            raise RuntimeError(image)
        return f"{image} {extras_mode}"

    scripts = SimpleNamespace(scripts_postproc=SimpleNamespace(image_changed=kept.clear))
    module = SimpleNamespace(run_extras=run_extras, scripts=scripts)
    jobs._forget_pictures(module)
    if fails:
        with pytest.raises(RuntimeError):
            module.run_extras(0, image="x")
    else:
        assert module.run_extras(0, image="x") == "x 0"
    assert kept == []


def test_settings_and_size_shape_a_conditioning(processing: Processing) -> None:
    draw(processing)
    draw(processing, override_settings={"comma_padding_backtrack": 1})
    draw(processing, override_settings={"comma_padding_backtrack": 1})
    draw(processing, override_settings={"comma_padding_backtrack": 2})
    draw(processing, override_settings={"comma_padding_backtrack": 2}, size=128)
    draw(processing)
    assert len(processing.made) == 5


def test_loras_shape_a_conditioning(
    processing: Processing, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = SimpleNamespace(name="x", mtime=1.0, te_multiplier=1.0, unet_multiplier=1.0, dyn_dim=None)
    networks = SimpleNamespace(loaded_networks=[net], load_networks=lambda _: None)
    monkeypatch.setitem(sys.modules, "networks", networks)
    draw(processing)
    networks.loaded_networks = []
    draw(processing)
    assert len(processing.made) == 2


def test_a_job_without_extra_networks_takes_the_last_ones_off(
    processing: Processing, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    networks = SimpleNamespace(loaded_networks=[], load_networks=asked.append)
    monkeypatch.setitem(sys.modules, "networks", networks)
    draw(processing)
    assert asked == []
    draw(processing, disable_extra_networks=True)
    assert asked == [[]]


def test_the_default_of_a_setting_is_there_to_be_put_back(processing: Processing) -> None:
    info = draw(processing, override_settings={"kept": 2, "lost": 3, "unknown": 4}).info
    assert info["settings"] == {"kept": 1, "lost": 5}


def test_the_answer_says_whether_it_was_interrupted(processing: Processing) -> None:
    def interrupt() -> None:
        processing.state.interrupted = True

    told = draw(processing).info["bakery"]
    empty: dict[str, Any] = {"loras": [], "scripts": [], "embeddings": [], "hypernetworks": []}
    assert told == {**empty, "interrupted": False}
    assert draw(processing, during=interrupt).info["bakery"]["interrupted"]
    assert "bakery" not in json.loads(processing.Processed().js())


def test_a_checkpoint_is_loaded_over_the_schedule_of_its_own() -> None:
    seen = []
    sd_models = SimpleNamespace(
        load_model_weights=lambda model, *_: seen.append(model.alphas_cumprod)
    )
    jobs._keep_schedule(sd_models)
    sd_models.load_model_weights(
        SimpleNamespace(alphas_cumprod="rescaled", alphas_cumprod_original="own")
    )
    sd_models.load_model_weights(SimpleNamespace(alphas_cumprod="own"))
    assert seen == ["own", "own"]


class Change:
    """A tensor, as far as it is looked at."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def any(self) -> bool:
        return self.value != 0


class Module:
    """A layer of a network: `result` is what it changes, or what it raises."""

    def __init__(self, result: Any = None) -> None:
        self.result = Change() if result is None else result
        self.bias: Any = None
        self.sd_module = SimpleNamespace(bias="its own")

    def calc_updown(self, _target: Any) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result, self.bias

    def forward(self, _x: Any, y: Any) -> Any:
        return y


class Lora:
    """AUTOMATIC1111's extension: `networks` and `extra_networks_lora`, which draw on whatever happens."""

    def __init__(self, folder: Path, files: dict[str, Any]) -> None:
        self.files = files
        self.folder = folder
        self.loaded_networks: list[Any] = []
        outer = self

        class ExtraNetworkLora:
            def __init__(self) -> None:
                self.errors: dict[str, int] = {}

            def activate(self, _p: Any, params_list: list[Any]) -> None:
                self.errors.clear()
                names = [each.positional[0] for each in params_list]
                weights = [float(each.positional[1]) for each in params_list]
                outer.networks.load_networks(names, weights, weights)

        self.networks = SimpleNamespace(
            load_network=self.load_network,
            load_networks=self.load_networks,
            loaded_networks=self.loaded_networks,
        )
        self.passes = Passes()
        applied._watch_networks(self.networks, self.passes)
        extension = SimpleNamespace(ExtraNetworkLora=ExtraNetworkLora)
        applied._watch_activation(extension, self.passes)
        self.extra = ExtraNetworkLora()
        self.passes.begin()

    def load_network(self, name: str, on_disk: Any) -> Any:
        content = self.files[name]
        if isinstance(content, Exception):
            raise content
        modules = {layer: Module(result) for layer, result in content.items()}
        return SimpleNamespace(
            name=name, mtime=1.0, modules=modules, bundle_embeddings={}, mentioned_name=None
        )

    def load_networks(self, names: list[str], te: Any = None, unet: Any = None) -> None:
        self.loaded_networks.clear()
        for number, name in enumerate(names):
            if name not in self.files:
                continue
            path = self.folder / f"{name}.safetensors"
            if not path.exists():
                path.write_bytes(
                    safetensors({f"l{number}.lora_up.weight": (1,) for number in range(4)})
                )
            try:
                net = self.networks.load_network(name, SimpleNamespace(filename=str(path)))
            except Exception:  # the webui prints it and goes on
                continue
            net.mentioned_name, net.te_multiplier, net.unet_multiplier = (
                name,
                te[number],
                unet[number],
            )
            self.loaded_networks.append(net)

    def draw(self, *tags: str, layers: tuple[str, ...] | None = None) -> None:
        """One pass: activates `name:weight` of each tag, then every layer, or `layers`, makes its change."""
        params = [SimpleNamespace(positional=tag.split(":")) for tag in tags]
        try:
            self.extra.activate(None, params)
        except ValueError:
            self.extra.activate(None, [])
        for net in self.loaded_networks:
            for layer, module in net.modules.items():
                if layers is not None and layer not in layers:
                    continue
                try:
                    module.calc_updown(None)
                except RuntimeError:
                    self.extra.errors[net.name] = self.extra.errors.get(net.name, 0) + 1


GOOD = {"l0": None, "l1": None, "l2": None, "l3": None}
HALF = RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'")


@pytest.mark.parametrize(
    ("content", "counts"),
    [
        (GOOD, {"matched": 4, "applied": 4, "failed": 0, "has_effect": True}),
        ({"l0": None}, {"matched": 1, "applied": 1, "failed": 0, "has_effect": True}),
        ({}, {"matched": 0, "applied": 0, "failed": 0, "has_effect": False}),
        ({"l0": Change(0)}, {"matched": 1, "applied": 1, "failed": 0, "has_effect": False}),
        ({"l0": HALF, "l1": None}, {"matched": 2, "applied": 1, "failed": 1, "reason": str(HALF)}),
        ({"l0": TypeError("no")}, {"applied": 0, "failed": 1, "reason": "TypeError: no"}),
        (AssertionError("no type"), {"layers": 0, "reason": "AssertionError: no type"}),
        (None, {"layers": 0, "reason": "the webui has no such file"}),
    ],
)
def test_layers_are_counted(tmp_path: Path, content: Any, counts: dict[str, Any]) -> None:
    lora = Lora(tmp_path, {} if content is None else {"x": content})
    lora.draw("x:1")
    (entry,) = lora.passes.end()
    assert entry["name"] == "x"
    assert {"layers": 4, **counts}.items() <= entry.items()


def test_a_tag_that_fails_the_activation_is_counted_as_not_applied(tmp_path: Path) -> None:
    lora = Lora(tmp_path, {"x": GOOD})
    lora.draw("x:strong")
    (entry,) = lora.passes.end()
    assert entry["applied"] == 0
    assert entry["reason"] == "ValueError: could not convert string to float: 'strong'"


def test_each_pass_counts_and_the_worst_is_told(tmp_path: Path) -> None:
    lora = Lora(tmp_path, {"x": GOOD, "y": GOOD, "z": {}})
    lora.draw("x:1", "y:1")
    lora.draw("z:1", "y:1", layers=("l0",))
    told = {each["name"]: each["applied"] for each in lora.passes.end()}
    assert told == {"x": 4, "y": 4, "z": 0}
    lora.passes.begin()
    assert lora.passes.end() == []


def test_what_a_cached_conditioning_leaves_alone_was_applied_before(tmp_path: Path) -> None:
    lora = Lora(tmp_path, {"x": GOOD, "y": GOOD})
    for tag, layers in (("x:1", None), ("y:1", None), ("x:1", ("l2",))):
        lora.passes.begin()
        lora.draw(tag, layers=layers)
        assert lora.passes.end()[0]["applied"] == 4


def test_a_model_of_another_kind_is_counted_anew(tmp_path: Path) -> None:
    lora = Lora(tmp_path, {"x": {}})
    lora.draw("x:1")
    assert lora.passes.end()[0]["matched"] == 0
    lora.files["x"] = GOOD
    lora.passes.begin()
    lora.draw("x:1", layers=("l0", "l1"))
    (entry,) = lora.passes.end()
    assert (entry["matched"], entry["applied"]) == (4, 2)


def test_a_lora_of_weight_zero_needs_no_effect(tmp_path: Path) -> None:
    lora = Lora(tmp_path, {"x": {"l0": Change(0)}})
    lora.draw("x:0")
    assert lora.passes.end()[0]["has_effect"]


def test_the_functional_way_counts_too(tmp_path: Path) -> None:
    lora = Lora(tmp_path, {"x": GOOD})
    lora.draw("x:1", layers=())
    for module in lora.loaded_networks[0].modules.values():
        assert module.forward("in", "out") == "out"
    assert lora.passes.end()[0]["applied"] == 4


def test_bundled_embeddings_count_as_layers(tmp_path: Path) -> None:
    lora = Lora(tmp_path, {"x": {"l0": None}})
    lora.draw("x:1")
    lora.loaded_networks[0].bundle_embeddings["word"] = SimpleNamespace(loaded=True)
    lora.loaded_networks[0].bundle_embeddings["other"] = SimpleNamespace(loaded=False)
    (entry,) = lora.passes.end()
    assert (entry["layers"], entry["matched"], entry["applied"]) == (6, 2, 2)


def test_a_bias_that_a_layer_had_not_is_taken_back(tmp_path: Path) -> None:
    lora = Lora(tmp_path, {"x": GOOD})
    lora.draw("x:1", layers=())
    converted: list[str] = []

    def convert(kind: str) -> str:
        converted.append(kind)
        return "bias"

    (module,) = [m for name, m in lora.loaded_networks[0].modules.items() if name == "l0"]
    module.bias = SimpleNamespace(any=lambda: True, to=convert)
    layer = module.sd_module
    layer.bias = None
    layer.network_weights_backup = "weights"
    assert module.calc_updown(SimpleNamespace(dtype="float32"))[1] == "bias"
    assert converted == ["float32"]
    # What the webui does with it, and notes as the layer's own at the next step.
    layer.bias = layer.network_bias_backup = "bias"
    lora.draw()
    assert (layer.bias, layer.network_bias_backup) == (None, None)
    assert layer.network_current_names == ("",)
