"""Roles of weights: names, places, suffixes, and what belongs together; the tables are webui v1.9.3's own."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bake.errors import ManifestError, SourceError
from bake.lock import Lock, Pin
from bake.manifest.load import parse_manifest
from bake.manifest.model import Manifest
from bake.manifest.roles import NAMED, ROLES, WeightsRole
from bake.plan.step import Options
from bake.steps.worker import describe_worker
from bake.weights.check import check_name, check_weights, inspect_weights
from runtime.worker import Webui
from tests.standins import models
from tests.unit.test_manifest import mistakes_of
from tests.unit.test_plan import plan_with

TEXT = """\
name: x
family: sdxl
checkpoint: civitai:1
MORE
warmup:
  prompt: a cat
image: example.com/x
"""
ALL = """\
allow_pickle: true
upscalers:
  4x-UltraSharp: file:a.pth
  R-ESRGAN 4x+: file:RealESRGAN_x4plus.pth
  DAT x4: file:b.pth
  SwinIR/003_realSR: file:c.pth
face_restorers:
  CodeFormer: file:d.pth
  GFPGAN: file:e.pth
  detection_Resnet50_Final: file:f.pth
  parsing_parsenet: file:g.pth
embeddings:
  bad-hands-5: file:h.pt
  EasyNegative: file:i.safetensors
hypernetworks:
  style: file:j.pt
vae_approx:
  model: file:k.pt
  taesdxl_decoder: file:l.pth
"""
PLACES = {
    "upscalers.4x-UltraSharp": "/m/ESRGAN/4x-UltraSharp.pth",
    "upscalers.R-ESRGAN 4x+": "/m/RealESRGAN/RealESRGAN_x4plus.pth",
    "upscalers.DAT x4": "/m/DAT/DAT_x4.pth",
    "upscalers.SwinIR/003_realSR": "/m/SwinIR/003_realSR.pth",
    "face_restorers.CodeFormer": "/m/Codeformer/codeformer-v0.1.0.pth",
    "face_restorers.GFPGAN": "/m/GFPGAN/GFPGANv1.4.pth",
    "face_restorers.detection_Resnet50_Final": "/m/GFPGAN/detection_Resnet50_Final.pth",
    "face_restorers.parsing_parsenet": "/m/GFPGAN/parsing_parsenet.pth",
    "embeddings.bad-hands-5": "/e/bad-hands-5.pt",
    "embeddings.EasyNegative": "/e/EasyNegative.safetensors",
    "hypernetworks.style": "/m/hypernetworks/style.pt",
    "vae_approx.model": "/m/VAE-approx/model.pt",
    "vae_approx.taesdxl_decoder": "/m/VAE-taesd/taesdxl_decoder.pth",
}
WEBUI = Webui(
    name="w", version="1", revision="r", directory="/w", python="/p", script="/s",
    checkpoint_dir="/c", vae_dir="/v", lora_dir="/l", models_dir="/m", embedding_dir="/e",
)  # fmt: skip


def manifest_with(more: str) -> Manifest:
    return parse_manifest(TEXT.replace("MORE\n", more), Path("m.yaml"))


def pins_of(manifest: Manifest) -> tuple[Pin, ...]:
    return tuple(
        Pin(
            key=entry.key,
            role=entry.role,
            name=entry.name or "base",
            source=entry.source,
            file_name=entry.source.rpartition(":")[2] if entry.name else "base.safetensors",
            size_bytes=1,
            sha256="0" * 64,
            url="",
        )
        for entry in manifest.sources()
    )


def placed(manifest: Manifest, webui: Webui = WEBUI) -> dict[str, tuple[str, str]]:
    """Name and path of each file in the image, by its key."""
    pins = pins_of(manifest)
    lock = Lock(manifest_name="x", family="sdxl", pins=pins)
    context = SimpleNamespace(manifest=manifest, store=SimpleNamespace(size_of=lambda _: 1))
    run: Any = SimpleNamespace(context=context, plan=SimpleNamespace(streamed=()), lock=lock)
    weights = describe_worker(run, webui).weights
    return {pin.key: (each.name, each.path) for pin, each in zip(pins, weights, strict=True)}


def test_each_lies_where_the_webui_looks_for_it_under_the_name_that_requests_use() -> None:
    found = placed(manifest_with(ALL))
    assert {key: path for key, (_, path) in found.items() if key != "checkpoint"} == PLACES
    assert found["upscalers.SwinIR/003_realSR"][0] == "003_realSR"
    assert found["upscalers.R-ESRGAN 4x+"][0] == "R-ESRGAN 4x+"


@pytest.mark.parametrize("name", ["None", "Lanczos", "nearest", "Latent", "LDSR", "SwinIR/LDSR"])
def test_an_upscaler_may_not_be_called_as_one_of_the_webuis_own(name: str) -> None:
    assert ROLES["upscaler"].check_name(name).endswith("is one of the webui's own; choose another")
    assert ROLES["embedding"].check_name("Latent") == ""


@pytest.mark.parametrize("role", NAMED, ids=lambda each: each.key)
def test_each_role_has_a_key_of_the_manifest_and_a_folder_of_the_webui(role: WeightsRole) -> None:
    assert role.key in Manifest.model_fields
    assert hasattr(WEBUI, role.folder)
    for name, path in role.files.items():
        assert role.check_name(name) == ""
        assert Path(path).suffix in role.suffixes


def test_an_older_base_is_refused_only_where_its_folder_is_needed() -> None:
    old = Webui(
        name="w", version="1", revision="r", directory="/w", python="/p", script="/s",
        checkpoint_dir="/c", vae_dir="/v", lora_dir="/l",
    )  # fmt: skip
    assert placed(manifest_with("loras:\n  a: file:a.safetensors\n"), old)
    for more, label in (
        ("upscalers:\n  a: file:a.pth\n", "models"),
        ("embeddings:\n  a: file:a.safetensors\n", "embedding"),
    ):
        with pytest.raises(ManifestError, match=f"it has no label bakery.path.{label}") as raised:
            placed(manifest_with(more), old)
        assert "newer base image" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "upscalers: [4x-UltraSharp]\n",
            "upscalers: ['4x-UltraSharp'] does not fit; expected name to source, such as 4x-UltraSharp: hf://",
        ),
        (
            "upscalers:\n  4x-UltraSharp:\n",
            "upscalers.4x-UltraSharp: is empty; expected name to source, such as",
        ),
        (
            "upscalers:\n  4x-UltraSharp: 4x-UltraSharp\n",
            "upscalers.4x-UltraSharp: not a known source; expected civitai:VERSION",
        ),
        (
            "upscalers:\n  LDSR/model: file:a.pth\n",
            "the name LDSR/model may have a folder before its slash: one of ESRGAN, RealESRGAN",
        ),
        ("upscalers:\n  ../x: file:a.pth\n", "the name ../x may have a folder before its slash"),
        (f"embeddings:\n  {'x' * 201}: file:a.pt\n", "dashes and underscores only, 200 at most"),
        (f"extension_models:\n  a/{'x' * 201}.pth: file:a.pth\n", "200 at most"),
        ("upscalers:\n  a b: file:a.pth\n", "the name a b may hold letters, digits, dots"),
        ("embeddings:\n  sub/x: file:a.pt\n", "the name sub/x may hold letters, digits, dots, dashes and underscores only"),
        (
            "face_restorers:\n  RestoreFormer: file:a.pth\n",
            "the name RestoreFormer is none that the webui looks for: CodeFormer, GFPGAN",
        ),
        (
            "face_restorers:\n  CodeFormer: file:a.pth\n",
            "face_restorers: nothing of it works without detection_Resnet50_Final and parsing_parsenet",
        ),
        (
            "face_restorers:\n  detection_Resnet50_Final: file:a.pth\n  parsing_parsenet: file:b.pth\n",
            "face_restorers: give CodeFormer or GFPGAN as well, or none of it",
        ),
        (
            "vae_approx:\n  taesd: file:a.pth\n",
            "the name taesd is none that the webui looks for: model, vaeapprox-sdxl, taesd_decoder",
        ),
    ],
)  # fmt: skip
def test_what_a_manifest_may_not_say(more: str, message: str) -> None:
    assert message in mistakes_of(TEXT.replace("MORE\n", more))


@pytest.mark.parametrize(
    ("role", "file_name", "message"),
    [
        ("upscaler", "a.safetensors", "the webui reads an upscaler from .pth only, not from .safetensors"),
        ("upscaler", "a.pt", "the webui reads an upscaler from .pth only, not from .pt"),
        ("hypernetwork", "a.pth", "the webui reads a hypernetwork from .pt only, not from .pth"),
        ("embedding", "a.ckpt", "from .safetensors or .pt or .bin only, not from .ckpt"),
        ("face_restorer", "a.zip", "a.zip is no file of weights"),
        ("face_restorer", "a.pth", "this is a pickle, which can run any code"),
    ],
)  # fmt: skip
def test_what_the_webui_would_not_read_is_refused_by_its_name(
    role: Any, file_name: str, message: str
) -> None:
    with pytest.raises(SourceError) as raised:
        check_name(file_name, role, allow_pickle=False, where="x")
    assert message in raised.value.what
    assert (".safetensors" in str(raised.value.hint)) == (".safetensors" in ROLES[role].suffixes)


def test_an_embedding_must_be_of_the_family(tmp_path: Path) -> None:
    manifest = manifest_with("embeddings:\n  a: file:a.safetensors\n")
    pin = pins_of(manifest)[1]

    def check(tensors: Any) -> list[str]:
        path = tmp_path / "a.safetensors"
        path.write_bytes(models.safetensors(tensors))
        return check_weights(inspect_weights(path), manifest, pin)

    assert check({"clip_l": (4, 768), "clip_g": (4, 1280)}) == []
    assert "do not tell whether it is for sdxl" in check({"emb_params": (4, 32)})[0]
    for tensors, message in (
        ({"emb_params": (4, 768)}, "the tensors are those of sd1, the manifest's family is sdxl"),
        ({"clip_l": (4, 768)}, "the webui cannot use it: it lacks clip_g"),
        ({"clip_l": (76, 768), "clip_g": (76, 1280)}, "it has 76 vectors, at most 75 fit"),
        ({"clip_l": (3, 768), "clip_g": (4, 1280)}, "other numbers of vectors"),
        ({"emb_params": (4, 32), "more": (1,)}, "it holds 2 tensors instead of one"),
        ({"emb_params": (1, 4, 32)}, "3 dimensions instead of 2"),
        (models.LORA_SDXL, "the file is a LoRA, not an embedding"),
    ):
        with pytest.raises(SourceError) as raised:
            check(tensors)
        assert message in raised.value.what


def test_without_the_store_small_pickles_go_through_it_all_the_same() -> None:
    pins = pins_of(manifest_with(ALL))
    lock = Lock(manifest_name="x", family="sdxl", pins=pins)
    options = Options(build_args={}, store=False, push=True)
    plan = plan_with(lock=lock, options=options, missing=len(pins))
    assert plan.streamed == ("checkpoint", "embeddings.EasyNegative")
    fetch = plan.step("fetch")
    assert fetch.runs
    assert "small pickles that are looked through" in fetch.why
    assert "checkpoint" not in fetch.why
    plan = plan_with(lock=lock, options=options, missing=1)
    assert plan.streamed == ()
