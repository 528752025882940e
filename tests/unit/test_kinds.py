"""Files that the webui would load without a word and draw noise with, or not load at all, and what helps."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bake.console import Console
from bake.errors import ManifestError, SourceError
from bake.manifest.load import parse_manifest
from bake.manifest.yaml import parse_yaml
from bake.settings import Settings
from bake.weights.check import check_config, check_stored, check_together, inspect_start
from bake.weights.resolve import resolve_lock
from bake.weights.sources import CONFIGS
from bake.weights.store import Store
from tests.standins import models
from tests.unit.test_lock import pin

Tensors = Mapping[str, tuple[int, ...]]
REFINER = {
    models.UNET + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (4, 1280),
    "conditioner.embedders.0.model.ln_final.weight": (4,),
    **models.OWN_VAE,
}
WITHOUT_VAE = {key: each for key, each in models.SDXL.items() if key not in models.OWN_VAE}


def check(
    folder: Path, tensors: Tensors, *, key: str = "checkpoint", more: str = "", **file: object
) -> list[str]:
    path = folder / "stored"
    metadata = file.pop("metadata", None)
    family = str(file.pop("family", "sdxl"))
    path.write_bytes(models.safetensors(tensors, metadata=metadata))  # type: ignore[arg-type]
    text = (
        f"name: x\nfamily: {family}\ncheckpoint: civitai:1\n{more}"
        "warmup:\n  prompt: a cat\nimage: example.com/x\n"
    )
    role = key.split(".", maxsplit=1)[0].rstrip("s")
    manifest = parse_manifest(text, folder / "x.yaml")
    return check_stored(path, manifest, pin(key, "civitai:1", role=role, **file))


def refusal(folder: Path, tensors: Tensors, **options: str) -> str:
    with pytest.raises(SourceError) as raised:
        check(folder, tensors, **options)
    return str(raised.value)


DIFFUSERS = {
    "encoder.conv_in.weight": (4, 3, 3, 3),
    "decoder.conv_in.weight": (4, 4, 3, 3),
    "decoder.mid_block.attentions.0.to_q.weight": (4, 4),
    "quant_conv.weight": (8, 8, 1, 1),
    "post_quant_conv.weight": (4, 4, 1, 1),
}


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        (DIFFUSERS, "the VAE has the names of diffusers"),
        (
            {**models.VAE, "decoder.conv_in.weight": (4, 16, 3, 3)},
            "has 16 latent channels instead of 4",
        ),
        ({**models.VAE, "decoder.conv_in.weight": (4, 4, 3, 3, 3)}, "is one of videos (3D)"),
        ({"decoder.conv_in.conv.weight": (4, 16, 3, 3, 3)}, "is one of videos (3D)"),
        ({"decoder.conv1.weight": (4, 16, 3, 3, 3)}, "is one of videos (3D)"),
        (
            {"vae." + key: each for key, each in models.VAE.items()},
            "has names that begin with vae.",
        ),
        (models.OWN_VAE, "has names that begin with first_stage_model."),
        ({"decoder.conv_in.weight": (4, 4, 3, 3)}, "the VAE lacks encoder.conv_in.weight"),
        ({**models.VAE, "discriminator.x": (1,)}, "holds discriminator.x as well"),
        ({**models.VAE, "decoder.mid.attn_1.q.weight": (4, 4)}, "has an attention of another form"),
    ],
)
def test_a_vae_that_the_webui_cannot_load(tmp_path: Path, tensors: Tensors, text: str) -> None:
    shown = refusal(tmp_path, tensors, key="vae")
    assert text in shown
    assert "so that the webui cannot load it; take the file in the webui's own layout" in shown


def test_a_vae_with_what_the_webui_leaves_out(tmp_path: Path) -> None:
    more = {
        "loss.logvar": (1,),
        "model_ema.decay": (1,),
        "decoder.mid.attn_1.q.weight": (4, 4, 1, 1),
    }
    assert check(tmp_path, {**models.VAE, **more}, key="vae") == []


def test_a_checkpoint_needs_a_vae_from_somewhere(tmp_path: Path) -> None:
    shown = refusal(tmp_path, WITHOUT_VAE)
    assert (
        "the checkpoint holds no VAE and the manifest names none: the webui would draw noise"
        in shown
    )
    assert "add vae:" in shown
    assert check(tmp_path, WITHOUT_VAE, more="vae: civitai:2\n") == []


def test_a_refiner_is_a_further_checkpoint(tmp_path: Path) -> None:
    (warning,) = check(tmp_path, REFINER, key="checkpoints.r")
    assert "requests name it in refiner_checkpoint" in warning
    assert "the tensors are those of sdxl-refiner" in refusal(tmp_path, REFINER)
    shown = refusal(tmp_path, REFINER, key="checkpoints.r", family="sd1")
    assert "the tensors are those of sdxl-refiner" in shown


@pytest.mark.parametrize(
    ("marks", "metadata"),
    [
        ({"v_pred": (0,)}, None),
        ({"v_pred": (0,), "ztsnr": (0,)}, None),
        ({}, {"modelspec.prediction_type": "v"}),
    ],
)
@pytest.mark.parametrize(("model", "family"), [(models.SDXL, "sdxl"), (models.SD1, "sd1")])
def test_v_prediction_needs_a_config(
    tmp_path: Path, marks: Tensors, metadata: dict[str, str] | None, model: Tensors, family: str
) -> None:
    tensors = {**model, **marks}
    with pytest.raises(SourceError) as raised:
        check(tmp_path, tensors, metadata=metadata, family=family)
    assert "predicts v, which the webui cannot tell: it would draw noise" in raised.value.what
    remedy = f"config: builtin:{family}-v-prediction"
    assert remedy in (raised.value.hint or "")
    warnings = check(tmp_path, tensors, metadata=metadata, family=family, more=f"{remedy}\n")
    assert ["Zero Terminal SNR" in each for each in warnings] == [True] * ("ztsnr" in marks)


def test_sd2_tells_by_itself_what_it_predicts(tmp_path: Path) -> None:
    said = {"modelspec.prediction_type": "v"}
    assert check(tmp_path, models.SD2, family="sd2", metadata=said) == []


@pytest.mark.parametrize("mark", ["edm_mean", "edm_vpred.sigma_max"])
def test_edm_needs_a_config_of_its_own(tmp_path: Path, mark: str) -> None:
    shown = refusal(tmp_path, {**models.SDXL, mark: (1,)}, key="checkpoints.c")
    assert "EDM model" in shown
    assert "write configs.c: file:NAME.yaml" in shown


def test_a_name_that_says_v_prediction_is_believed_a_little(tmp_path: Path) -> None:
    (warning,) = check(tmp_path, models.SDXL, file_name="noob_vPred10.safetensors")
    assert "config: builtin:sdxl-v-prediction" in warning


TEXT = "conditioner.embedders.0.transformer.text_model."
WHOLE = {
    **models.SDXL,
    TEXT + "encoder.layers.11.mlp.fc1.weight": (4, 4),
    TEXT + "embeddings.position_ids": (1, 77),
    "conditioner.embedders.1.model.logit_scale": (),
    models.UNET + "time_embed.cond_proj.weight": (4, 4),
    "first_stage_model.encoder.conv_in.weight": (4, 3, 3, 3),
    "first_stage_model.loss.logvar": (1,),
}


def without(*names: str) -> Tensors:
    return {name: shape for name, shape in WHOLE.items() if name not in names}


def see_together(
    folder: Path, files: Mapping[str, Tensors], *, more: str = "", family: str = "sdxl"
) -> None:
    """Holds checkpoints of these tensors against each other; the first is `checkpoint`."""
    keys = {name: f"checkpoints.{name}" if at else "checkpoint" for at, name in enumerate(files)}
    pins = [pin(key, "civitai:1", role="checkpoint") for key in keys.values()]
    chunks = {keys[name]: models.safetensors(tensors) for name, tensors in files.items()}
    seen = {key: inspect_start(iter([data]), len(data), where=key) for key, data in chunks.items()}
    text = f"name: x\nfamily: {family}\ncheckpoint: civitai:1\n"
    more += f"checkpoints: {json.dumps(dict.fromkeys(list(files)[1:], 'civitai:1'))}\n"
    text += f"{more}warmup:\n  prompt: a cat\nimage: example.com/x\n"
    check_together(parse_manifest(text, folder / "x.yaml"), pins, Store(folder / "store"), seen)


def test_checkpoints_are_held_against_each_other_at_lock(tmp_path: Path) -> None:
    for name, tensors in {
        "a": WHOLE,
        "b": without("first_stage_model.encoder.conv_in.weight"),
    }.items():
        (tmp_path / f"{name}.safetensors").write_bytes(models.safetensors(tensors))
    text = (
        "name: x\nfamily: sdxl\ncheckpoint: file:a.safetensors\ncheckpoints: {b: file:b.safetensors}\n"
        "warmup:\n  prompt: a cat\nimage: example.com/x\n"
    )
    settings = Settings.from_environment({"BAKE_STORE": str(tmp_path / "store")})
    with pytest.raises(SourceError, match="lacks 1 tensors that checkpoint has"):
        resolve_lock(
            parse_manifest(text, tmp_path / "x.yaml"),
            previous=None, settings=settings, store=Store(settings.store), console=Console(quiet=True),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("lacking", "part"),
    [
        (TEXT + "encoder.layers.11.mlp.fc1.weight", "text encoder"),
        ("first_stage_model.encoder.conv_in.weight", "VAE"),
        (models.UNET + "input_blocks.0.0.weight", "UNet"),
    ],
)
def test_a_checkpoint_that_would_keep_weights_of_the_one_before(
    tmp_path: Path, lacking: str, part: str
) -> None:
    for files in ({"a": WHOLE, "b": without(lacking)}, {"a": without(lacking), "b": WHOLE}):
        with pytest.raises(SourceError) as raised:
            see_together(tmp_path, files)
        bad, good = ("checkpoints.b", "checkpoint") if "b" in str(raised.value.where) else ("checkpoint", "checkpoints.b")  # fmt: skip
        assert str(raised.value.where).startswith(bad)
        assert (
            f"lacks 1 tensors that {good} has, such as {lacking} of its {part}" in raised.value.what
        )
        assert "a picture depends on the job before it" in raised.value.what
        assert "an image of its own" in (raised.value.hint or "")
        assert ("vae: gives all of them a VAE" in (raised.value.hint or "")) == (part == "VAE")
    see_together(tmp_path, {"a": without(lacking)})
    see_together(tmp_path, {"a": without(lacking), "b": without(lacking)})


def test_checkpoints_that_lack_nothing_of_each_other(tmp_path: Path) -> None:
    idle = (TEXT + "embeddings.position_ids", "conditioner.embedders.1.model.logit_scale",
            "first_stage_model.loss.logvar", models.UNET + "time_embed.cond_proj.weight")  # fmt: skip
    see_together(tmp_path, {"a": WHOLE, "b": without(*idle), "r": REFINER})
    vae = "first_stage_model.encoder.conv_in.weight"
    see_together(tmp_path, {"a": WHOLE, "b": without(vae)}, more="vae: civitai:3\n")
    # A config beside it gives it a model of its own.
    config = "configs:\n  b: builtin:sdxl-v-prediction\n"
    see_together(tmp_path, {"a": WHOLE, "b": without(vae)}, more=config)


def test_older_names_of_a_text_encoder_are_the_same(tmp_path: Path) -> None:
    older = {name.replace("text_model.", ""): shape for name, shape in models.SD1.items()}
    assert older != models.SD1
    see_together(tmp_path, {"a": models.SD1, "b": older}, family="sd1")


def test_types_that_the_webui_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    data = models.safetensors(models.SDXL).replace(b'"F16"', b'"U16"')
    path.write_bytes(data)
    text = (
        "name: x\nfamily: sdxl\ncheckpoint: civitai:1\nwarmup:\n  prompt: a\nimage: a.example/x\n"
    )
    with pytest.raises(SourceError, match="tensors of type U16, which the webui cannot read"):
        check_stored(path, parse_manifest(text, path), pin("checkpoint", "civitai:1"))


@pytest.mark.parametrize(
    "name",
    [
        "scaled_fp8",
        "x.scale_weight",
        "x.weight_scale",
        "x.comfy_quant",
        "x.weight.absmax",
        "x.qweight",
    ],
)
def test_weights_that_the_webui_does_not_unpack(tmp_path: Path, name: str) -> None:
    shown = refusal(tmp_path, {**models.SDXL, name: (1,)})
    assert f"its weights are packed ({name}), which the webui does not undo" in shown
    assert "choose a file in fp16" in shown


@pytest.mark.parametrize("name", ["sdxl-v-prediction", "sd1-v-prediction"])
def test_the_built_in_configs_are_the_webuis_own(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    check_config(path, where="config")
    text = path.read_text(encoding="utf-8")
    assert parse_yaml(text).data["model"]["target"].startswith(("sgm.", "ldm."))
    assert ("denoiser_scaling.VScaling" in text) == name.startswith("sdxl")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[", "this is no config of a model"),
        ("model: 1", "this is no config of a model"),
        ("x: 1\n" * 40_000, "this is no config of a model"),
        ("model: {params: {}}", "the config's target names nothing"),
        ("a: &a [1]\nmodel: {target: ldm.x, b: *a}", "this is no config of a model"),
        ("model: {target: os.system}", "the config's target names os.system"),
        (
            "model: {target: ldm.x, params: {a: [{target: subprocess.run}]}}",
            "the config's target names subprocess.run",
        ),
        ("model: !!python/object/apply:os.system [ls]", "this is no config of a model"),
    ],
)
def test_configs_that_are_none(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(SourceError, match=error):
        check_config(path, where="config (x.yaml)")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("config: builtin:nothing", "there is builtin:sd1-v-prediction, builtin:sdxl-v-prediction"),
        ("config: builtin:../x", "there is no such built-in config"),
        ("config: file:x.json", r"a config is builtin:NAME or file:NAME\.yaml"),
        ("config: civitai:7", r"a config is builtin:NAME or file:NAME\.yaml"),
        ("configs:\n  other: file:x.yaml", "configs.other: names no checkpoint of `checkpoints`"),
    ],
)
def test_configs_in_a_manifest(tmp_path: Path, line: str, error: str) -> None:
    text = (
        f"name: x\nfamily: sdxl\ncheckpoint: civitai:1\n{line}\n"
        "warmup:\n  prompt: a cat\nimage: example.com/x\n"
    )
    with pytest.raises(ManifestError, match=error):
        parse_manifest(text, tmp_path / "x.yaml")


class Harm:
    """Unpickled, it would run a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def torch_zip(value: object) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))
        archive.writestr("archive/version", "3\n")
    return packed.getvalue()


def check_pickle(folder: Path, data: bytes) -> list[str]:
    path = folder / "stored"
    path.write_bytes(data)
    text = (
        "name: x\nfamily: sdxl\ncheckpoint: civitai:1\nallow_pickle: true\n"
        "warmup:\n  prompt: a cat\nimage: example.com/x\n"
    )
    pinned = pin("checkpoint", "civitai:1", file_name="x.ckpt")
    return check_stored(path, parse_manifest(text, folder / "x.yaml"), pinned)


@pytest.mark.parametrize("pack", [torch_zip, lambda value: pickle.dumps(value, protocol=2)])
def test_an_allowed_pickle_is_looked_through(
    tmp_path: Path, pack: Callable[[object], bytes]
) -> None:
    (warning,) = check_pickle(tmp_path, pack({"state_dict": {"a": 1}}))
    assert "a pickle can run code" in warning
    with pytest.raises(SourceError, match=r"calls in it that no weights need: \w+\.system"):
        check_pickle(tmp_path, pack({"state_dict": {"a": Harm()}}))


def test_a_pickle_that_cannot_be_looked_through(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="picklescan cannot look through this pickle"):
        check_pickle(tmp_path, b"PK\x03\x04" + bytes(400))
