"""Pickles, read without running them: what is in them, and what the webui would refuse or make nothing of."""

import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bake.errors import SourceError
from bake.lock import Pin
from bake.weights.check import check_stored, scan_pickle
from bake.weights.pickles import UnreadableError, read_pickle
from tests.standins.pickles import Global, Tensor, dumps, state, torch_legacy, torch_zip
from tests.unit.test_roles import manifest_with, pins_of

ESRGAN = {"model.0.weight": (64, 3, 3, 3)}
SWINIR = {"layers.0.residual_group.blocks.0.attn.relative_position_index": (64, 64)}
CODEFORMER = {"quantize.embedding.weight": (1024, 256)}
WORD = {"string_to_token": {"*": Tensor()}, "string_to_param": {"*": Tensor(4, 768)}, "step": 9}
HYPERNETWORK = {768: (state({"linear.0.weight": (1536, 768)}),) * 2, "layer_structure": [1, 2, 1]}
RESTORERS = """\
allow_pickle: true
face_restorers:
  CodeFormer: file:a.pth
  detection_Resnet50_Final: file:b.pth
  parsing_parsenet: file:c.pth
"""


def read(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    return read_pickle(path)


@pytest.mark.parametrize("form", [torch_zip, torch_legacy])
def test_both_of_torchs_formats_are_read(tmp_path: Path, form: Any) -> None:
    assert read(tmp_path, form(state(ESRGAN))).tensors.keys() == ESRGAN.keys()
    nested = read(tmp_path, form({"params_ema": state(ESRGAN), "epoch": 3}))
    assert {name: each.shape for name, each in nested.tensors.items()} == ESRGAN
    assert nested.keys == {"params_ema", "epoch"}
    word = read(tmp_path, form(WORD))
    assert {name: each.shape for name, each in word.tensors.items()} == {"emb_params": (4, 768)}
    assert 768 in read(tmp_path, form(HYPERNETWORK)).keys


def test_a_pickle_that_holds_itself_is_read_once(tmp_path: Path) -> None:
    loop: dict[str, Any] = state(ESRGAN)
    for number in range(100):
        loop[f"again{number}"] = loop
    assert read(tmp_path, torch_zip(loop)).tensors.keys() == ESRGAN.keys()


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("false",)


BOMB = b"\x80\x02" + b"]" + b"(" + b"\x8b" + (1 << 30).to_bytes(4, "little")
# From Python 3.15 on pickle reads what is long in pieces, and meets the end before it asks for too much.
HUGE = "its pickle is huge, or broken" if sys.version_info < (3, 15) else "it is broken (EOFError)"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch_zip(state(ESRGAN), "byteorder"), "torch 2.1 or newer has put archive/byteorder into it"),
        (torch_zip(state(ESRGAN), ".data/serialization_id"), "torch 2.1 or newer has put"),
        (torch_zip(state(ESRGAN), "code/x.py"), "it holds archive/code/x.py, which the webui refuses"),
        (torch_zip({"a": Global("torch", "float64")}), "it asks for torch.float64, which the webui forbids"),
        (torch_legacy(Global("os", "system")), "it asks for os.system"),
        (pickle.dumps(Evil()), "it asks for posix.system"),
        (torch_zip([Tensor(1)]), "it holds no mapping of names to tensors"),
        (torch_legacy(state(ESRGAN))[:-80], "it is broken"),
        (torch_zip(state(ESRGAN))[:-9], "it is broken"),
        (b"", "it is broken (EOFError)"),
        (dumps({})[:-1], "it is broken"),
        (BOMB, HUGE),
        (b"\x80\x02\x8d" + (1 << 40).to_bytes(8, "little"), HUGE),
    ],
)  # fmt: skip
def test_what_the_webui_would_not_read(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UnreadableError) as raised:
        read(tmp_path, data)
    assert message in str(raised.value)


def check(tmp_path: Path, more: str, key: str, data: bytes) -> list[str]:
    manifest = manifest_with(more)
    pin: Pin = next(each for each in pins_of(manifest) if each.key == key)
    path = tmp_path / "stored"
    path.write_bytes(data)
    return check_stored(path, manifest, pin)


def one(key: str, name: str, file: str, more: str = "") -> tuple[str, str]:
    return f"allow_pickle: true\n{key}:\n  {name}: file:{file}\n{more}", f"{key}.{name}"


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (one("upscalers", "4x", "a.pth"), state(ESRGAN)),
        (one("upscalers", "R-ESRGAN 4x+", "a.pth"), {"params_ema": state(ESRGAN)}),
        (one("upscalers", "SwinIR/x", "a.pth"), {"params": state(SWINIR)}),
        ((RESTORERS, "face_restorers.CodeFormer"), {"params_ema": state(CODEFORMER)}),
        (
            (RESTORERS, "face_restorers.detection_Resnet50_Final"),
            state({"module.ClassHead.0.conv1x1.weight": (4, 256, 1, 1)}),
        ),
        (one("embeddings", "word", "a.pt"), {"clip_l": Tensor(2, 768), "clip_g": Tensor(2, 1280)}),
        (one("hypernetworks", "style", "a.pt"), {2048: (state({"a": (1,)}),), 32: ()}),
        (one("vae_approx", "model", "a.pt"), state({"conv8.weight": (3, 8, 3, 3)})),
        (one("vae_approx", "taesd_decoder", "a.pth"), state({"3.conv.0.weight": (64, 64, 3, 3)})),
    ],
)  # fmt: skip
def test_what_fits_is_taken(tmp_path: Path, at: tuple[str, str], value: Any) -> None:
    (warning,) = check(tmp_path, *at, torch_zip(value))
    assert "a pickle can run code" in warning


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (one("upscalers", "4x", "a.pth"), state(SWINIR), "it is a SwinIR model, which the webui draws otherwise there: write SwinIR/4x"),
        (one("upscalers", "DAT/x", "a.pth"), state(SWINIR), "write SwinIR/x"),
        (one("upscalers", "DAT x4", "a.pth"), state(ESRGAN), "it is no DAT model"),
        (one("upscalers", "4x", "a.pth"), {"model.diffusion_model.x": Tensor(1)}, "it holds no upscaler"),
        (one("upscalers", "4x", "a.pth"), {}, "it holds no upscaler"),
        ((RESTORERS, "face_restorers.CodeFormer"), state(ESRGAN), "it holds no CodeFormer: quantize.embedding.weight is missing"),
        (one("embeddings", "word", "a.pt"), WORD, "the embedding is for sd1, the manifest's family is sdxl"),
        (one("embeddings", "word", "a.pt"), state(ESRGAN), "it holds no embedding"),
        (one("hypernetworks", "style", "a.pt"), HYPERNETWORK, "the hypernetwork is for sd1, the manifest's family is sdxl"),
        (one("hypernetworks", "style", "a.pt"), WORD, "it holds no hypernetwork"),
        (one("vae_approx", "taesd_encoder", "a.pth"), state({"3.conv.0.weight": (1,)}), "it holds no taesd_encoder"),
    ],
)  # fmt: skip
def test_what_the_webui_would_make_nothing_of_is_refused(
    tmp_path: Path, at: tuple[str, str], value: Any, message: str
) -> None:
    with pytest.raises(SourceError) as raised:
        check(tmp_path, *at, torch_legacy(value))
    assert message in raised.value.what


def test_a_file_of_a_newer_torch_needs_the_webuis_own_switch(tmp_path: Path) -> None:
    data = torch_zip(state(ESRGAN), "byteorder")
    with pytest.raises(SourceError) as raised:
        check(tmp_path, *one("upscalers", "4x", "a.pth"), data)
    assert "the webui would not read this pickle: torch 2.1 or newer" in raised.value.what
    assert "--disable-safe-unpickle to webui.args" in str(raised.value.hint)
    switched = "webui:\n  args: [--disable-safe-unpickle]\n"
    assert check(tmp_path, *one("upscalers", "4x", "a.pth", switched), data)


def test_a_small_zip_that_unpacks_to_much_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"N0" * (9 << 20) + b"N.")
    with pytest.raises(SourceError, match="unpacks to more than can be looked through"):
        scan_pickle(path, ".pth", where="x")
