"""Models around the checkpoint, as the webui (v1.9.3) has them: upscalers, face restorers, embeddings; with its faults.

What is not on disk is listed all the same, to be fetched at its first use. Here as in a worker nothing can be fetched:
a line is printed, and the picture goes on without. An embedding of another width than the model's is passed over.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from demo.webui.safetensors import read_tensors

_URL = "https://github.com/xinntao/Real-ESRGAN/releases/download/v0.1.0/RealESRGAN_x4plus.pth"
_RESTORERS = {"CodeFormer": "Codeformer", "GFPGAN": "GFPGAN"}
_FACTOR = 4
Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class Models:
    """The folder `models`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def upscalers(self) -> dict[str, str | None]:
        """Names, and what the API says of their files: a path, an address, or nothing."""
        own = {each.stem: str(each) for each in sorted((self._folder / "ESRGAN").rglob("*.pth"))}
        plain = dict.fromkeys(("None", "Lanczos", "Nearest"))
        return {**plain, **own, "LDSR": None, "R-ESRGAN 4x+": _URL}

    def enlarge(self, picture: Image.Image, name: str) -> Image.Image:
        """Four times as large; the same picture where the model is not there."""
        file = Path(self.upscalers()[name] or "LDSR")
        if name == "R-ESRGAN 4x+":
            file = self._folder / "RealESRGAN" / "RealESRGAN_x4plus.pth"
        if not file.exists():
            print(f"*** Unable to load ESRGAN model {file}", flush=True)
            return picture
        size = (picture.width * _FACTOR, picture.height * _FACTOR)
        return picture.resize(size, Image.Resampling.BICUBIC)

    def restore_faces(self, picture: Image.Image, name: str) -> Image.Image:
        """Smoother; the same picture where a model is not there."""
        own = list((self._folder / _RESTORERS[name]).glob("*.pth"))
        found = {each.stem for each in (self._folder / "GFPGAN").glob("*.pth")}
        if not own or not {"detection_Resnet50_Final", "parsing_parsenet"} <= found:
            print("Unable to load face-restoration model", flush=True)
            return picture
        return picture.filter(ImageFilter.SMOOTH)

    def finish(self, picture: Pixels, request: dict[str, Any], options: Any) -> Pixels:
        """With its faces restored, if that is asked for."""
        if not (request["restore_faces"] or options.face_restoration):
            return picture
        name = options.face_restoration_model
        return np.asarray(self.restore_faces(Image.fromarray(picture), name))


class Embedding:
    """A word, and the vectors that it stands for."""

    def __init__(self, name: str, file: Path) -> None:
        self.name = name
        (self.vec,) = read_tensors(file).values()
        self.shorthash = hashlib.sha256(file.read_bytes()).hexdigest()[:12]


class EmbeddingDatabase:
    """By the webui's own names, which boot asks for."""

    def __init__(self) -> None:
        self.folder = Path()
        self.word_embeddings: dict[str, Embedding] = {}
        self._read_at: float | None = None

    def load_textual_inversion_embeddings(self, width: int) -> None:
        """Reads the folder again when it has changed itself, whatever lies below it."""
        if not self.folder.is_dir() or self._read_at == self.folder.stat().st_mtime:
            return
        self.word_embeddings.clear()
        for file in sorted(self.folder.rglob("*.safetensors")):
            try:
                found = Embedding(file.stem, file)
            except (OSError, ValueError) as error:
                print(f"*** Error loading embedding {file.name}: {error}", flush=True)
                continue
            if found.vec.shape[-1] == width:
                self.word_embeddings[found.name] = found
        self._read_at = self.folder.stat().st_mtime

    def find(self, prompt: str) -> list[Embedding]:
        """Those whose word a prompt says, in whatever case."""
        said = set(re.findall(r"[\w.-]+", prompt.lower()))
        return [each for each in self.word_embeddings.values() if each.name.lower() in said]

    def apply(self, made: Array, prompt: str, told: dict[str, Any]) -> Array:
        """What a prompt became, moved by the words in it; their hashes go into the infotext."""
        used = self.find(prompt)
        for each in used:
            made = made + each.vec.reshape(-1, len(made)).mean(axis=0)
        hashes = [f"{each.name}: {each.shorthash}" for each in used]
        if used:
            told["TI hashes"] = ", ".join([*hashes, *filter(None, [told.get("TI hashes")])])
        return made
