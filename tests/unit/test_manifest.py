"""The manifest: what is accepted, and that every mistake is named with its line, key and remedy."""

import json
from pathlib import Path

import pytest

from bake.errors import ManifestError
from bake.manifest.load import load_manifest, parse_manifest
from bake.manifest.model import Manifest

ROOT = Path(__file__).parents[2]
GOOD = """\
name: a-model
family: sdxl
gpu: rtx-6000-ada
checkpoint: civitai:1590699
checkpoints:
  other: file:other.safetensors
vae: hf://owner/repo/vae.safetensors
loras:
  detail: civitai:135867
warmup:
  prompt: a red circle
image: ghcr.io/you/a-model
"""


def mistakes_of(text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text, Path("m.yaml"))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_good_manifest_lists_its_sources_in_image_order() -> None:
    manifest = parse_manifest(GOOD, Path("m.yaml"))
    assert [(each.key, each.role, each.name, each.line) for each in manifest.sources()] == [
        ("checkpoint", "checkpoint", None, 4),
        ("checkpoints.other", "checkpoint", "other", 6),
        ("vae", "vae", None, 7),
        ("loras.detail", "lora", "detail", 9),
    ]


def test_five_mistakes_are_five_messages_in_one_run() -> None:
    text = """\
name: Bad Name
family: sdlx
chekpoint: civitai:1
checkpoint: 1590699
warmup:
  width: 500
image: ghcr.io/you/x
"""
    shown = mistakes_of(text)
    assert "the manifest has 6 mistakes:" in shown
    assert "m.yaml:1: name: 'Bad Name' does not fit; expected lower-case letters" in shown
    assert (
        "m.yaml:2: family: 'sdlx' does not fit; expected one of sd1 (SD 1.4 and 1.5), sd2, sdxl (Pony and Illustrious, too), "
        "demo; did you mean sdxl?" in shown
    )
    assert "m.yaml:3: chekpoint: is not a known key; did you mean checkpoint?" in shown
    assert "m.yaml:4: checkpoint: 1590699 does not fit; expected a source such as civitai:" in shown
    assert "m.yaml:6: warmup.width: 500 does not fit; expected 64 to 4096, a multiple of 8" in shown
    assert (
        "m.yaml:5: warmup.prompt: is missing; expected a prompt that the model draws well" in shown
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: a-model", "name: a-model\nname: b", "m.yaml:2: name: this key is given twice"),
        ("gpu: rtx-6000-ada", "gpu: rtx-6000-adaa", "did you mean rtx-6000-ada?"),
        (
            "image: ghcr.io/you/a-model",
            "image: GHCR.io/You",
            "is not an image repository|does not fit",
        ),
        ("  detail:", "  ../detail:", "letters, digits, dots, dashes and underscores only"),
        ("civitai:1590699", "civitai:1590699.safetensor", "glued to the id; write civitai:1590699"),
        ("civitai:1590699", "'1590699'", "did you mean civitai:1590699?"),
        (
            "image:",
            "webui: {args: [--port=1]}\nimage:",
            "--port cannot be given: the base image sets it",
        ),
        (
            "image:",
            "webui: {args: [--embeddings-dir=/e]}\nimage:",
            "--embeddings-dir cannot be given: the base image says where models lie",
        ),
        (
            "image:",
            "webui: {args: [--esrgan-models-path, /e]}\nimage:",
            "--esrgan-models-path cannot be given: the base image says where models lie",
        ),
        ("image:", "base: {image: x, dockerfile: y}\nimage:", "not both"),
        ("image:", "base: {context: y}\nimage:", "`context` needs `dockerfile`"),
        ("image:", "base: {image: ''}\nimage:", "'' does not fit; expected a ready base image"),
        ("image:", "base: {dockerfile: ''}\nimage:", "'' does not fit; expected a Dockerfile"),
        (
            "warmup:\n  prompt: a red circle\n",
            "",
            "warmup: is missing; expected a mapping with prompt",
        ),
        ("name: a-model", "name: &a x\nfamily: *a", "aliases"),
        ("name: a-model", "name: [", "not valid YAML"),
        ("name: a-model", "name: !!python/object:os.system x", "not valid YAML"),
        ("name: a-model", "name: a\x00b", "m.yaml:1: not valid YAML: it holds a character"),
        (
            "name: a-model",
            "name: " + "[" * 3000 + "]" * 3000,
            "not valid YAML: it is nested too deeply",
        ),
        ("name: a-model", "1: a-model", "m.yaml:1: 1: the key 1 is not text; put it in quotes"),
        ("  detail:", "  true:", "the key True is not text; put it in quotes"),
    ],
)
def test_each_mistake_says_what_and_where(old: str, new: str, message: str) -> None:
    assert old in GOOD
    shown = mistakes_of(GOOD.replace(old, new))
    assert any(each in shown for each in message.split("|")), shown


def test_every_mistake_inside_one_key_is_named_too() -> None:
    text = """\
name: a-model
family: sdxl
checkpoint: civitai:1590699
loras:
  ../detail: civitai:135867
  fine: civitai:2
  b/c: civitai:x
  fine: file:other.safetensors
  detail: ftp://host/file
warmup:
  prompt: ""
  steps: many
  seed: -1
  colour: red
webui:
  args: [--xformers, --port=1, --medvram, --share, 5]
limits: {step: 20, steps: 0, pixels: many}
base: {image: x, dockerfile: y, contxt: z}
image: ghcr.io/you/a-model
"""
    shown = mistakes_of(text)
    for each in (
        "m.yaml:5: loras: the name ../detail may hold",
        "m.yaml:7: loras: the name b/c may hold",
        "m.yaml:7: loras.b/c: ",
        "m.yaml:8: fine: this key is given twice",
        "m.yaml:9: loras.detail: ",
        "m.yaml:11: warmup.prompt: '' does not fit",
        "m.yaml:12: warmup.steps: 'many' does not fit; expected 1 to 150",
        "m.yaml:13: warmup.seed: -1 does not fit",
        "m.yaml:14: warmup.colour: is not a known key",
        "m.yaml:16: webui.args.1: --port cannot be given",
        "m.yaml:16: webui.args.3: --share cannot be given",
        "m.yaml:16: webui.args.4: 5 does not fit",
        "m.yaml:17: limits: step is not a limit; did you mean steps?",
        "m.yaml:17: limits.steps: 0 does not fit",
        "m.yaml:17: limits.pixels: 'many' does not fit",
        "m.yaml:18: base: give either `image` or `dockerfile`",
        "m.yaml:18: base.contxt: is not a known key; did you mean context?",
    ):
        assert f"  {each}" in shown, shown
    assert "the manifest has 17 mistakes:" in shown


@pytest.mark.parametrize("word", ["yes", "no", "on", "off"])
def test_words_are_words_as_in_yaml_1_2(word: str) -> None:
    manifest = parse_manifest(GOOD.replace("  detail:", f"  {word}:"), Path("m.yaml"))
    assert list(manifest.loras) == [word]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("{step: 20}", "limits: step is not a limit; did you mean steps?"),
        ("{steps: 0}", "limits.steps: 0 does not fit; must be 1 or more"),
        ("{steps: many}", "limits.steps: 'many' does not fit"),
    ],
)
def test_limits_are_those_that_the_worker_knows(limits: str, message: str) -> None:
    assert message in mistakes_of(f"{GOOD}limits: {limits}\n")


@pytest.mark.parametrize("text", ["", "just text", "- a list", "1: 2"])
def test_what_is_no_mapping_of_keys_is_a_clear_error(text: str) -> None:
    assert "m.yaml" in mistakes_of(text)


def test_a_missing_file_suggests_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "jib-mix.yaml").write_text(GOOD)
    with pytest.raises(ManifestError, match=r"did you mean .*jib-mix\.yaml"):
        load_manifest(tmp_path / "jibmix.yaml")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "manifests").glob("*.yaml")), ids=lambda path: path.name
)
def test_the_manifests_of_this_repository_are_good(path: Path) -> None:
    assert load_manifest(path).name == path.stem


def test_the_published_schema_is_not_stale() -> None:
    committed = json.loads((ROOT / "docs" / "manifest.schema.json").read_text(encoding="utf-8"))
    assert committed == Manifest.model_json_schema(), "run `make schema` and commit the result"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # indentation
        ("  prompt: a red circle\n", "prompt: a red circle\n", "m.yaml:10: warmup: is empty; expected a mapping with prompt"),
        ("  prompt: a red circle\n", "prompt: a red circle\n", "m.yaml:11: prompt: is not a known key here; it belongs to `warmup`, indented below that"),
        ("image:", "  image:", "warmup.image: is not a known key here; it belongs to the manifest itself, not indented"),
        ("checkpoint: ", "  checkpoint: ", "m.yaml:4: not valid YAML: this line is indented deeper than the key before it"),
        ("  prompt", "\tprompt", "m.yaml:11: not valid YAML: a tab indents this line; indent with spaces"),
        ("  prompt: a", "  steps: 8\n   prompt: a", "m.yaml:12: not valid YAML: this line is indented deeper"),
        ("  prompt: a", "   steps: 8\n  prompt: a", "m.yaml:12: not valid YAML: this line's indentation is that of no line before it"),
        # quotes
        ("a red circle", "a cat: sitting", "m.yaml:11: not valid YAML: this line is indented deeper than the key before it, or its text has `: ` in it and needs quotes"),
        ("a red circle", "@cat", "m.yaml:11: not valid YAML: a text that begins with @, ` or % needs quotes"),
        ("a red circle", "*cat", "m.yaml:11: not valid YAML: YAML aliases (*name) are not accepted; put a text that begins with * in quotes"),
        ("a red circle", "#cat", "m.yaml:11: warmup.prompt: is empty; expected a prompt that the model draws well"),
        ("name: a-model", "name: 15", "m.yaml:1: name: 15 does not fit; expected lower-case letters, digits and dashes; put it in quotes"),
        ("image:", "deploy: {cuda: 12.1}\nimage:", "deploy.cuda: 12.1 does not fit; expected lowest CUDA version of a host's driver, in quotes, such as '12.1'"),
        ("image:", "---\nimage:", "a manifest is one document; take the line --- out"),
        ("checkpoint: ", 'checkpoint: "', "m.yaml:4: not valid YAML: a quotation mark is opened here and not closed"),
        ("image:", "webui: {args: [xformers]}\nimage:", "webui.args: xformers is no flag; did you mean --xformers?"),
        # sources
        ("civitai:1590699", "1590699", "checkpoint: 1590699 does not fit; expected a source such as civitai:1590699,"),
        ("civitai:135867", "135867", "loras.detail: 135867 does not fit; expected a mapping of name to source, such as detail: civitai:135867; did you mean civitai:135867?"),
        # cards and families
        ("rtx-6000-ada", "RTX 6000 Ada", "RTX 6000 Ada is not a known card; did you mean rtx-6000-ada?"),
        ("rtx-6000-ada", "rtx_6000_ada", "did you mean rtx-6000-ada?"),
        ("rtx-6000-ada", "NVIDIA RTX 6000 Ada Generation", "did you mean rtx-6000-ada?"),
        ("rtx-6000-ada", "NVIDIA A100 80GB PCIe", "did you mean a100?"),
        ("rtx-6000-ada", "rtx-6000", "did you mean rtx-6000-ada?"),
        ("rtx-6000-ada", "4090", "gpu: 4090 does not fit; expected a card of bake/manifest/gpus.json, such as rtx-6000-ada; did you mean rtx-4090?"),
        ("rtx-6000-ada", "T4", "T4 is not a known card; known are a100, a30, "),
        ("family: sdxl", "family: SD1.5", "family: 'SD1.5' does not fit; expected one of sd1 (SD 1.4 and 1.5), sd2, sdxl (Pony and Illustrious, too), demo; did you mean sd1?"),
        # kinds of values
        ("image:", "deploy: {scaling: 4}\nimage:", "deploy.scaling: 4 does not fit; expected a mapping of queue_delay, requests"),
        ("image:", "deploy: {scaling: {queue_delay: 4s}}\nimage:", "deploy.scaling.queue_delay: '4s' does not fit; expected 0.5 to 3600 seconds that a job may wait"),
        ("image:", "deploy: {workers: 3}\nimage:", "deploy.workers: 3 does not fit; expected a mapping of min, max, idle_timeout"),
        ("image:", "deploy: {disk: 50GB}\nimage:", "deploy.disk: '50GB' does not fit; expected 1 to 4000, the GB of the container's disk"),
        ("image:", "deploy: {pools: ADA_48_PRO}\nimage:", "deploy.pools: 'ADA_48_PRO' does not fit; expected a list of GPU pools, such as [ADA_48_PRO]"),
        ("image:", "deploy: {pools: [RTX 6000 Ada]}\nimage:", "RTX 6000 Ada is no pool, which is called as in ADA_48_PRO"),
        ("image:", "deploy: {env: {BAKERY_OOM: 5}}\nimage:", "deploy.env.BAKERY_OOM: 5 does not fit; expected variables of the worker, name to text; put it in quotes"),
        ("image:", "webui: [--xformers]\nimage:", "expected a mapping of args"),
        ("image:", "webui: {args: [--xformers --no-half-vae]}\nimage:", "webui.args.0: --xformers --no-half-vae is several flags in one text; each is an item of its own"),
        ("ghcr.io/you/a-model", "https://ghcr.io/you/a-model", "'https://ghcr.io/you/a-model' does not fit; expected the repository that the image goes to, in lower case, without https:// and digest, such as"),
    ],
)  # fmt: skip
def test_a_newcomers_mistake_says_what_to_do(old: str, new: str, message: str) -> None:
    assert old in GOOD
    shown = mistakes_of(GOOD.replace(old, new, 1))
    assert message in shown, shown


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("civitai_token: SECRET\nimage:", "civitai_token: is not a known key; a token is no part of a manifest, and is given in the environment: CIVITAI_TOKEN, HF_TOKEN"),
        ("deploy: {secrets: {HF_TOKEN: SECRET}}\nimage:", "a secret is given by its name in RunPod, such as civitai_token"),
        ("deploy: {env: {MODEL_KEY: SECRET}}\nimage:", "deploy.env.MODEL_KEY: holds what looks like a Hugging Face token; name it under `secrets`"),
        ("gpu: SECRET\nimage:", "this key is given twice"),
        ("image: https://me:SECRET@ghcr.io/me/x\nfoo:", "image: the value does not fit; expected the repository"),
        ("deploy: {pools: SECRET}\nimage:", "deploy.pools: the value does not fit"),
        ("SECRET: 1\nimage:", "***: is not a known key"),
        ("webui: {args: [SECRET]}\nimage:", "***"),
    ],
)  # fmt: skip
def test_a_token_is_refused_and_not_repeated(new: str, message: str) -> None:
    token = "hf_" + "aB3dE6gH9j" * 3 + "xyz1"
    shown = mistakes_of(GOOD.replace("image:", new.replace("SECRET", token), 1))
    assert message in shown, shown
    assert token[-8:] not in shown


def test_a_token_in_the_place_of_a_card_is_not_repeated() -> None:
    token = "hf_" + "aB3dE6gH9j" * 3 + "xyz1"
    line = next(each for each in GOOD.splitlines() if each.startswith("gpu:"))
    shown = mistakes_of(GOOD.replace(line, f"gpu: {token}"))
    assert "gpu: *** is not a known card" in shown, shown
    assert token[-8:] not in shown
