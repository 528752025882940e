"""Weights are checked before they are believed: the header, the family, the manifest."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bake.errors import SourceError
from bake.manifest.load import parse_manifest
from bake.manifest.model import Manifest
from bake.weights.check import check_stored, inspect_start, inspect_weights
from bake.weights.kinds import recognise
from runtime.files.errors import WeightsError
from runtime.files.safetensors import read_header
from tests.standins import models
from tests.unit.test_lock import pin

CROSS = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def write(folder: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(start: int, end: int, *, dtype: str = "U8", shape: list[int] | None = None) -> object:
    size = [end - start] if shape is None else shape
    return {"dtype": dtype, "shape": size, "data_offsets": [start, end]}


def test_the_reference_implementation_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros((2, 3), np.float16), "b": np.zeros((), np.float32)}, path, {"k": "v"})
    header = read_header(path)
    assert {name: each.shape for name, each in header.tensors.items()} == {"a": (2, 3), "b": ()}
    assert header.tensors["a"].size_bytes == 12
    assert header.metadata == {"k": "v"}
    assert header.size_bytes == path.stat().st_size


def chunked(data: bytes, seen: list[int], *, size: int = 100) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        seen.append(at)
        yield data[at : at + size]


def test_the_start_of_a_stream_tells_as_much_as_the_file(tmp_path: Path) -> None:
    data = models.safetensors(models.SDXL, seed=1)
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    seen: list[int] = []
    found = inspect_start(chunked(data, seen), len(data), where="x")
    assert found == inspect_weights(path)
    (length,) = struct.unpack("<Q", data[:8])
    assert seen[-1] < max(512, 8 + length), "no more than the header is read"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"<!doctype html><html>" + b" " * 9999, "this is an HTML page"),
        (b"", "this is empty"),
        (struct.pack("<Q", 1 << 30) + b"{" + b" " * 9999, "its header claims"),
        (struct.pack("<Q", 500) + b"{" + b" " * 99, "breaks off within the header"),
    ],
)
def test_a_stream_of_something_else_is_refused_by_its_start(data: bytes, text: str) -> None:
    with pytest.raises(SourceError, match=text):
        inspect_start(chunked(data, []), len(data), where="x")


def test_a_stream_of_a_pickle_is_known_as_one() -> None:
    seen: list[int] = []
    found = inspect_start(chunked(b"PK\x03\x04" + bytes(9999), seen), 10003, where="x")
    assert found.format == "pickle"
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("header", "data", "text"),
    [
        ({"a": entry(0, 4)}, b"1234x", "1 bytes follow the last tensor"),
        ({"a": entry(0, 4), "b": entry(3, 5)}, b"12345", "the tensor b overlaps another"),
        ({"a": entry(0, 2), "b": entry(3, 5)}, b"12345", "the tensor b follows a hole"),
        ({"a": entry(1, 5)}, b"12345", "the tensor a follows a hole"),
        ({"a": entry(0, 4, dtype="F16", shape=[3])}, b"1234", "do not agree"),
        ({"a": entry(0, 4, dtype="Q9")}, b"1234", "has the unknown type Q9"),
        ({"a": entry(0, 4, shape=[-4])}, b"1234", "no whole number"),
        ({"a": entry(0, 4, shape=[True, 4])}, b"1234", "no whole number"),
        ({"a": {"dtype": "U8", "shape": [1]}}, b"1", "is not of its form"),
        ({"a": 1}, b"", "is not of its form"),
        ({"__metadata__": {"a": 1}, "a": entry(0, 1)}, b"1", "metadata is not a mapping"),
        (b'{"__metadata__": {}, "__metadata__": {}}', b"", "its metadata is given twice"),
        (
            b'{"a": {"dtype": "U8", "dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}',
            b"1",
            "says something twice",
        ),
        (b'{"a": ', b"", "not valid JSON"),
        (b"{" + b'"a":{' * 9000, b"", "not valid JSON"),
    ],
)
def test_headers_that_are_wrong(tmp_path: Path, header: object, data: bytes, text: str) -> None:
    with pytest.raises(WeightsError) as raised:
        read_header(write(tmp_path, header, data))
    assert raised.value.kind == "not_weights"
    assert text in raised.value.what
    assert raised.value.what.startswith("not a valid safetensors file: ")


def test_a_truncated_file_says_how_much_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="breaks off 2 bytes before its end") as raised:
        read_header(write(tmp_path, {"a": entry(0, 4)}, b"12"))
    assert raised.value.kind == "truncated"
    with pytest.raises(WeightsError, match="breaks off within the header"):
        read_header(write(tmp_path, {"a": entry(0, 4)}, length=5000))
    with pytest.raises(WeightsError, match="its header claims"):
        read_header(write(tmp_path, {"a": entry(0, 4)}, length=1 << 30))


def zip_of(name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, "x")
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        (b"", "not_weights", "empty"),
        (b"<!DOCTYPE html><html>", "page", "an HTML page, not a model"),
        (b"\n <HTML lang=en>", "page", "an HTML page, not a model"),
        (b'{"error":"Unauthorized"}', "page", "a JSON answer, not a model"),
        (b"<?xml version='1.0'?><Error>", "page", "an XML answer, not a model"),
        (b"PK\x03\x04", "pickle", "a pickle (.ckpt, .pt), which can run code"),
        (b"\x80\x02}q", "pickle", "a pickle (.ckpt, .pt), which can run code"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n",
            "page",
            "a Git LFS pointer, the text that stands for a large file in its repository, not a model; "
            "fetch the file itself: git lfs pull, or an address with /resolve/",
        ),
        (b"version https://hawser.github.com/spec/v1\n", "page", "a Git LFS pointer"),
        (b"\x1f\x8b\x08\0" * 9, "not_weights", "this is packed with gzip"),
        (b"\x28\xb5\x2f\xfd" * 9, "not_weights", "this is packed with zstd"),
        (b"7z\xbc\xaf\x27\x1c" * 9, "not_weights", "this is a 7z archive"),
        (b"Rar!\x1a\x07\1\0" * 9, "not_weights", "this is a RAR archive"),
        (b"GGUF\3\0\0\0" * 9, "not_weights", "a GGUF file, which the webui cannot load"),
        (b"\x89PNG\r\n\x1a\n" * 9, "not_weights", "this is a picture"),
        (zip_of("notes.txt"), "not_weights", "this is a zip archive"),
        (zip_of("archive/data.pkl"), "pickle", "a pickle (.ckpt, .pt), which can run code"),
        (
            b"<?xml version='1.0'?>\n<Error><Code>NoSuchKey</Code><Message>secret</Message></Error>",
            "page",
            "this is an object store's error in XML (NoSuchKey), not a model",
        ),
        (b"Access to this file is denied.\n", "page", "this is a text, not a model"),
        (b"\xef\xbb\xbf\n <html>", "page", "an HTML page"),
        (b'[{"error": 1}]', "page", "a JSON answer"),
    ],
)
def test_what_is_no_safetensors_file_is_named(
    tmp_path: Path, content: bytes, kind: str, text: str
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as raised:
        read_header(path)
    assert raised.value.kind == kind
    assert text in str(raised.value)


def lora(key: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{key}.lora_down.weight": (4, width), f"{key}.lora_up.weight": (8, 4)}


UNET = models.UNET
EVERYTHING: list[tuple[Mapping[str, tuple[int, ...]], str, str | None, str]] = [
    (models.SD1, "checkpoint", "sd1", "checkpoint"),
    (models.SD2, "checkpoint", "sd2", "checkpoint"),
    (models.SDXL, "checkpoint", "sdxl", "checkpoint"),
    (models.VAE, "vae", None, "VAE"),
    (
        {f"first_stage_model.{name}": shape for name, shape in models.VAE.items()},
        "vae",
        None,
        "VAE",
    ),
    (models.DEMO, "checkpoint", "demo", "checkpoint"),
    (lora("lora_demo_conv", 4), "lora", "demo", "LoRA"),
    (models.LORA_SDXL, "lora", "sdxl", "LoRA"),
    (models.LORA_SD1, "lora", "sd1", "LoRA"),
    (lora(CROSS, 1024), "lora", "sd2", "LoRA"),
    (lora("lora_te2_text_model_encoder_layers_0_mlp_fc1", 1280), "lora", "sdxl", "LoRA"),
    (lora("lora_te_text_model_encoder_layers_0_mlp_fc1", 768), "lora", None, "LoRA"),
    (lora("lora_unet_double_blocks_0_img_attn_qkv", 3072), "lora", "flux", "LoRA"),
    (
        {"unet.down_blocks.1.attn2.to_k.lora_A.weight": (4, 2048)},
        "lora",
        "sdxl",
        "LoRA",
    ),
    ({**lora(CROSS, 768), f"{CROSS}.dora_scale": (1,)}, "lora", "sd1", "DoRA"),
    ({**lora(CROSS, 768), f"{CROSS}.lora_mid.weight": (1,)}, "lora", "sd1", "LoCon"),
    (
        {**models.SD1, UNET + "input_blocks.0.0.weight": (32, 9, 3, 3)},
        "checkpoint",
        "sd1",
        "inpainting checkpoint",
    ),
    (
        {
            UNET + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (4, 1280),
            "conditioner.embedders.0.model.ln_final.weight": (4,),
        },
        "checkpoint",
        "sdxl-refiner",
        "checkpoint",
    ),
    ({UNET + "joint_blocks.0.x": (1,)}, "checkpoint", "sd3", "checkpoint"),
    ({UNET + "double_blocks.0.x": (1,)}, "checkpoint", "flux", "checkpoint"),
    (
        {UNET + "input_blocks.1.1.attn2.to_k.weight": (4, 768)},
        "unknown",
        "sd1",
        "a UNet without its text encoder",
    ),
    (
        {"down_blocks.0.x": (1,)},
        "unknown",
        None,
        "a bare UNet or transformer without its text encoder and VAE",
    ),
    ({"emb_params": (2, 768)}, "embedding", "sd1", "embedding"),
    ({"emb_params": (768,)}, "embedding", "sd1", "embedding"),
    ({"<a-concept>": (1, 1024)}, "embedding", "sd2", "embedding"),
    ({"emb_params": (2, 32)}, "embedding", None, "embedding"),
    ({"clip_g": (2, 1280), "clip_l": (2, 768)}, "embedding", "sdxl", "embedding"),
    ({"control_model.x": (1,)}, "unknown", None, "a ControlNet"),
    ({"x": (1,)}, "unknown", None, "a file of tensors that are not known here"),
]


@pytest.mark.parametrize(("tensors", "role", "family", "kind"), EVERYTHING)
def test_families_are_recognised_by_their_tensors(
    tmp_path: Path,
    tensors: Mapping[str, tuple[int, ...]],
    role: str,
    family: str | None,
    kind: str,
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(models.safetensors(tensors))
    found = recognise(read_header(path))
    assert (found.role, found.family, found.kind) == (role, family, kind)


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"ss_base_model_version": "sd_v1"}, "sd1"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "sd2"),
        ({}, None),
    ],
)
def test_metadata_helps_where_no_tensor_tells(
    tmp_path: Path, metadata: Mapping[str, str], family: str | None
) -> None:
    path = tmp_path / "x.safetensors"
    tensors = lora("lora_te_text_model_encoder_layers_0_mlp_fc1", 768)
    path.write_bytes(models.safetensors(tensors, metadata=metadata))
    assert recognise(read_header(path)).family == family


@pytest.mark.parametrize(
    ("dtype", "precision"), [("F16", "fp16"), ("F32", "fp32"), ("BF16", "bf16")]
)
def test_precision_and_ema(tmp_path: Path, dtype: str, precision: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(models.safetensors({**models.SD1, "model_ema.x": (1,)}, dtype=dtype))
    found = recognise(read_header(path))
    assert found.precision == precision
    assert found.has_ema


def manifest(folder: Path, family: str = "sdxl", more: str = "") -> Manifest:
    text = (
        f"name: x\nfamily: {family}\ncheckpoint: civitai:1\n{more}"
        "warmup:\n  prompt: a cat\nimage: example.com/x\n"
    )
    return parse_manifest(text, folder / "x.yaml")


def check(
    folder: Path,
    data: bytes,
    *,
    key: str = "checkpoint",
    family: str = "sdxl",
    file_name: str = "x.safetensors",
    more: str = "",
) -> list[str]:
    path = folder / "stored"
    path.write_bytes(data)
    return check_stored(
        path, manifest(folder, family, more), pin(key, "civitai:1", file_name=file_name)
    )


def test_what_fits_gives_no_warning(tmp_path: Path) -> None:
    assert check(tmp_path, models.safetensors(models.SDXL)) == []
    assert check(tmp_path, models.safetensors(models.VAE), key="vae") == []
    assert check(tmp_path, models.safetensors(models.LORA_SDXL), key="loras.a") == []
    assert check(tmp_path, models.safetensors(models.DEMO), family="demo") == []


@pytest.mark.parametrize(
    ("data", "options", "text"),
    [
        (
            models.safetensors(models.SD1),
            {},
            "the tensors are those of sd1, the manifest's family is sdxl",
        ),
        (models.safetensors(models.LORA_SD1), {"key": "loras.a"}, "those of sd1"),
        (models.safetensors(models.LORA_SDXL), {}, "the file is a LoRA, not a checkpoint"),
        (
            models.safetensors({"unet.x.attn2.to_k.lora_A.weight": (4, 2048)}),
            {"key": "loras.a"},
            "its names are those of diffusers (unet.x.attn2.to_k.lora_A.weight): the webui maps none",
        ),
        (models.safetensors(models.SDXL), {"key": "vae"}, "the file is a checkpoint, not a vae"),
        (models.safetensors({"emb_params": (2, 768)}), {}, "an embedding, not a checkpoint"),
        (models.safetensors(models.SDXL), {"file_name": "x.ckpt"}, "its name ends in .ckpt"),
        (b"PK\x03\x04..", {"file_name": "x.ckpt"}, "a pickle, which can run any code"),
        (
            b"PK\x03\x04..",
            {"more": "allow_pickle: true\n"},
            "ends in .safetensors, but its content is a pickle",
        ),
        (b"<html>..", {}, "this is an HTML page, not a model"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, data: bytes, options: dict[str, str], text: str) -> None:
    with pytest.raises(SourceError) as raised:
        check(tmp_path, data, **options)
    assert text in raised.value.what
    assert (raised.value.where or "").startswith(options.get("key", "checkpoint"))


def test_warnings(tmp_path: Path) -> None:
    tensors = {**models.SD1, "model_ema.x": (1,), UNET + "input_blocks.0.0.weight": (32, 9, 3, 3)}
    shown = "\n".join(check(tmp_path, models.safetensors(tensors, dtype="F32"), family="sd1"))
    assert "carries EMA weights" in shown
    assert "an fp16 file is half of that" in shown
    assert "an inpainting checkpoint draws badly from text alone" in shown
    unknown = models.safetensors(lora("lora_te_text_model_encoder_layers_0_mlp_fc1", 768))
    assert "do not tell whether it is for sdxl" in check(tmp_path, unknown, key="loras.a")[0]
    allowed = check(tmp_path, pickle.dumps({}), file_name="x.ckpt", more="allow_pickle: true\n")
    assert "a pickle can run code" in allowed[0]


def test_inspect_says_pickle_without_opening_it(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"PK\x03\x04")
    assert inspect_weights(path).format == "pickle"
