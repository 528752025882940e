"""`python make_models.py CHECKPOINT FOLDER [faces]`: random models around a checkpoint, in the webui's own interpreter.

Each in the architecture that the webui expects, the face restorers at full size, since theirs are fixed. The detector
is made to see one face in whatever picture, and the parser to take all of it for skin.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from facexlib.detection.retinaface import RetinaFace
from facexlib.parsing.parsenet import ParseNet
from safetensors import safe_open
from safetensors.torch import save_file
from spandrel.architectures.CodeFormer.arch.codeformer import CodeFormer
from spandrel.architectures.ESRGAN.arch.RRDB import RRDBNet
from spandrel.architectures.GFPGAN.arch.gfpganv1_clean_arch import GFPGANv1Clean
from spandrel.architectures.SwinIR.arch.SwinIR import SwinIR

_SIZE, _ANCHOR, _STEP = 640, 512, 32
_FACE = ((200, 250), (440, 250), (320, 340), (230, 440), (410, 440))
"""Eyes, nose and mouth, in the detector's square of `_SIZE` pixels."""


def save(model: Any, path: Path) -> None:
    """In torch's older format: the webui refuses what its own torch has put into a zip since 2.1 (modules/safe.py)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = model.state_dict() if hasattr(model, "state_dict") else model
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def make_detector() -> Any:
    """One face: of its anchors the last counts, whose box is larger than the picture."""
    net = RetinaFace("resnet50", device="cpu")
    for heads in (net.ClassHead, net.BboxHead, net.LandmarkHead):
        for head in heads:
            torch.nn.init.zeros_(head.conv1x1.weight)
            torch.nn.init.zeros_(head.conv1x1.bias)
    with torch.no_grad():
        for head in net.ClassHead:
            head.conv1x1.bias[:] = torch.tensor([9.0, -9.0, 9.0, -9.0])
        net.ClassHead[2].conv1x1.bias[2:] = torch.tensor([-9.0, 9.0])
        net.BboxHead[2].conv1x1.bias[6:] = 15.0
        last = _SIZE - _STEP / 2
        places = [(each - last) / (0.1 * _ANCHOR) for point in _FACE for each in point]
        net.LandmarkHead[2].conv1x1.bias[10:] = torch.tensor(places)
    return net


def make_parser() -> Any:
    net = ParseNet(in_size=512, out_size=512, parsing_ch=19)
    with torch.no_grad():
        net.out_mask_conv.conv2d.bias[1] = 1000.0
    return net


def make_gfpgan() -> Any:
    net = GFPGANv1Clean(
        out_size=512, num_style_feat=512, channel_multiplier=2, decoder_load_path=None, fix_decoder=False,
        num_mlp=8, input_is_latent=True, different_w=True, narrow=1, sft_half=True,
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "style_conv" in name and name.endswith(".weight") and weight.numel() == 1:
                weight.fill_(0.1)  # so that its noise is seen
    return net


def make_words(checkpoint: Path, folder: Path) -> None:
    """Two embeddings and two hypernetworks, by the widths of the checkpoint."""
    widths = set()
    with safe_open(str(checkpoint), "pt") as file:
        for name in file.keys():  # noqa: SIM118  # it is no mapping
            if name.endswith((".attn1.to_k.weight", ".attn2.to_k.weight")):
                widths.add(file.get_slice(name).get_shape()[1])
            if name.endswith("text_model.embeddings.token_embedding.weight"):
                width = file.get_slice(name).get_shape()[1]
    for number, place in enumerate(("embeddings/fogword", "by-address/frostword")):
        path = folder / f"{place}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(number)
        save_file({"emb_params": torch.randn(3, width)}, str(path))
    for number, name in enumerate(("style", "other")):
        torch.manual_seed(10 + number)
        layers: dict[Any, Any] = {
            size: tuple(
                {
                    "linear.0.weight": 0.2 * torch.randn(2 * size, size),
                    "linear.0.bias": torch.zeros(2 * size),
                    "linear.1.weight": 0.2 * torch.randn(size, 2 * size),
                    "linear.1.bias": torch.zeros(size),
                }
                for _ in "kv"
            )
            for size in sorted(widths)
        }
        # The one that its trainer called like the other's file.
        layers |= {"layer_structure": [1, 2, 1], "activation_func": "linear", "name": "other"}
        save(layers, folder / "models" / "hypernetworks" / f"{name}.pt")


UPSCALERS = {
    "ESRGAN/tiny-esrgan.pth": lambda: RRDBNet(num_filters=8, num_blocks=1),
    "RealESRGAN/RealESRGAN_x4plus.pth": lambda: RRDBNet(num_filters=8, num_blocks=1),
    "SwinIR/tiny-swinir.pth": lambda: SwinIR(
        upscale=2, img_size=64, window_size=8, depths=[1], embed_dim=12, num_heads=[2],
        mlp_ratio=2, upsampler="nearest+conv", resi_connection="1conv",
    ),
}  # fmt: skip
RESTORERS = {
    "Codeformer/codeformer-v0.1.0.pth": CodeFormer,
    "GFPGAN/GFPGANv1.4.pth": make_gfpgan,
    "GFPGAN/detection_Resnet50_Final.pth": make_detector,
    "GFPGAN/parsing_parsenet.pth": make_parser,
}


def main() -> None:
    checkpoint, folder, *faces = sys.argv[1:]
    make_words(Path(checkpoint), Path(folder))
    for number, (place, make) in enumerate((UPSCALERS | (RESTORERS if faces else {})).items()):
        path = Path(folder, "models", place)
        if not path.exists():
            torch.manual_seed(100 + number)
            save(make(), path)


if __name__ == "__main__":
    main()
