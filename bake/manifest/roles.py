"""The roles of weights: the manifest's key of each, where the webui looks for it, what it reads there.

One row a role, by the source of webui v1.9.3 (modules/modelloader.py, *_model.py, face_restoration_utils.py,
textual_inversion.py, hypernetworks, sd_vae_approx.py, sd_vae_taesd.py, extensions-builtin). What is not at its place
there is not missed with an error: the webui fetches it at its first use, and draws without it where it cannot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from runtime.worker import Role, Webui

SAFETENSORS = ".safetensors"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ -]{0,199}")
"""A file system takes 255 bytes, of which the webui and a download add some."""
_EXTENSIONS = "extensions"
"""The first part of a path in an extension's own folder; others lie in the webui's folder of models."""


@dataclass(frozen=True, kw_only=True)
class WeightsRole:
    """One role."""

    role: Role
    key: str
    """Of the manifest's mapping from names to sources; empty where there is only a single one."""
    folder: str
    """The field of `Webui` with the folder that it is looked for in."""
    label: str
    """Of the base contract, which that field is read from (`bakery.path.…`)."""
    below: tuple[str, ...] = ()
    """Folders in it, for names without and with one of them before a slash; the first is for those without."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Names that the webui finds under a file of its own choice only, with that file."""
    taken: tuple[str, ...] = ()
    """Names, in lower case, that the webui has for something else."""
    is_closed: bool = False
    """Whether `files` has all names that there are."""
    needed: tuple[str, ...] = ()
    """Names without which none of the others does anything, nor they without one of those."""
    suffixes: tuple[str, ...] = (SAFETENSORS, *PICKLES)
    """What the webui reads there."""
    is_path: bool = False
    """Whether a name is a path with the file's own name at its end."""
    is_small: bool = False
    """Whether a pickle of it goes through the store in any case, where it can be looked through."""

    def check_name(self, name: str) -> str:
        """What is wrong with a name; empty if nothing is."""
        if name in self.files:
            return ""
        if self.is_path:
            return self._check_path(name)
        if self.is_closed:
            return f"the name {name} is none that the webui looks for: {', '.join(self.files)}"
        before, slash, plain = name.rpartition("/")
        if slash and self.below and before not in self.below:
            known = ", ".join(self.below)
            return f"the name {name} may have a folder before its slash: one of {known}"
        if not _NAME.fullmatch(plain if self.below else name):
            return f"the name {name} may hold letters, digits, dots, dashes and underscores only, 200 at most"
        is_taken = plain.lower() in self.taken
        return f"the name {name} is one of the webui's own; choose another" if is_taken else ""

    def _check_path(self, name: str) -> str:
        parts = name.split("/")
        if len(parts) < 2 or not all(map(_PART.fullmatch, parts)):
            return (
                f"{name} is no path such as ControlNet/NAME.safetensors: folders and a file of letters, digits,"
                " dots, dashes, underscores, plus signs and spaces, 200 at most"
            )
        if parts[0] == _EXTENSIONS and len(parts) < 3:
            return f"{name} is no path in an extension's folder: {_EXTENSIONS}/NAME/…"
        suffix = PurePosixPath(name).suffix.lower()
        known = f"{', '.join(self.suffixes[:-1])} or {self.suffixes[-1]}"
        return "" if suffix in self.suffixes else f"the name {name} must end in {known}"

    def request_name(self, name: str) -> str:
        """What requests call it: the webui knows nothing of the folder. A path, which none asks for, stays whole."""
        return name if self.is_path else name.rpartition("/")[2]

    def place(self, name: str, suffix: str) -> PurePosixPath:
        """Where the webui looks for it, from its folder on.

        Args:
            name: As the manifest has it.
            suffix: Of the file at its source.
        """
        if name in self.files:
            return PurePosixPath(self.files[name])
        if self.is_path:
            return PurePosixPath(name)
        before, _, plain = name.rpartition("/")
        return PurePosixPath(before or next(iter(self.below), ""), f"{plain}{suffix}")


_ROLES = (
    WeightsRole(role="checkpoint", key="checkpoints", folder="checkpoint_dir", label="checkpoint"),
    WeightsRole(role="vae", key="", folder="vae_dir", label="vae"),
    WeightsRole(role="lora", key="loras", folder="lora_dir", label="lora"),
    WeightsRole(role="config", key="configs", folder="checkpoint_dir", label="checkpoint", suffixes=(".yaml",)),
    WeightsRole(
        role="upscaler",
        key="upscalers",
        folder="models_dir",
        label="models",
        below=("ESRGAN", "RealESRGAN", "SwinIR", "DAT", "HAT", "ScuNET"),
        files={
            "R-ESRGAN 4x+": "RealESRGAN/RealESRGAN_x4plus.pth",
            "R-ESRGAN 4x+ Anime6B": "RealESRGAN/RealESRGAN_x4plus_anime_6B.pth",
            "DAT x2": "DAT/DAT_x2.pth",
            "DAT x3": "DAT/DAT_x3.pth",
            "DAT x4": "DAT/DAT_x4.pth",
        },
        taken=("none", "lanczos", "nearest", "latent", "ldsr"),
        suffixes=(".pth",),  # a .pt would be run as TorchScript (spandrel)
        is_small=True,
    ),
    WeightsRole(
        role="face_restorer",
        key="face_restorers",
        folder="models_dir",
        label="models",
        files={
            "CodeFormer": "Codeformer/codeformer-v0.1.0.pth",
            "GFPGAN": "GFPGAN/GFPGANv1.4.pth",
            "detection_Resnet50_Final": "GFPGAN/detection_Resnet50_Final.pth",
            "parsing_parsenet": "GFPGAN/parsing_parsenet.pth",
        },
        is_closed=True,
        needed=("detection_Resnet50_Final", "parsing_parsenet"),
        suffixes=(".pth",),
        is_small=True,
    ),
    WeightsRole(
        role="embedding",
        key="embeddings",
        folder="embedding_dir",
        label="embedding",
        suffixes=(SAFETENSORS, ".pt", ".bin"),
        is_small=True,
    ),
    WeightsRole(
        role="hypernetwork",
        key="hypernetworks",
        folder="models_dir",
        label="models",
        below=("hypernetworks",),
        suffixes=(".pt",),
        is_small=True,
    ),
    WeightsRole(
        role="vae_approx",
        key="vae_approx",
        folder="models_dir",
        label="models",
        files={
            "model": "VAE-approx/model.pt",
            "vaeapprox-sdxl": "VAE-approx/vaeapprox-sdxl.pt",
            "taesd_decoder": "VAE-taesd/taesd_decoder.pth",
            "taesd_encoder": "VAE-taesd/taesd_encoder.pth",
            "taesdxl_decoder": "VAE-taesd/taesdxl_decoder.pth",
            "taesdxl_encoder": "VAE-taesd/taesdxl_encoder.pth",
        },
        is_closed=True,
        suffixes=(".pt", ".pth"),
        is_small=True,
    ),
    WeightsRole(
        role="extension_model",
        key="extension_models",
        folder="models_dir",
        label="models",
        is_path=True,
        is_small=True,
    ),
)  # fmt: skip
ROLES: Mapping[Role, WeightsRole] = {each.role: each for each in _ROLES}
NAMED = tuple(each for each in _ROLES if each.key)
"""Those that a manifest maps names to sources of."""


def folder_of(webui: Webui, role: Role) -> str:
    """The folder that a base looks for a role in; empty where it does not say."""
    folder: str = getattr(webui, ROLES[role].folder)
    return folder
