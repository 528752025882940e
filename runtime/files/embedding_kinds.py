"""What an embedding (textual inversion) file is, by its tensors: which family, and whether the webui can use it.

The webui (v1.9.3, modules/textual_inversion) takes a file of one tensor, whatever its name, or SDXL's two. One that
has another width than the model's text encoder is passed over without a word to whoever asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.files.safetensors import Tensor

_WIDTHS = {768: "sd1", 1024: "sd2"}
_SDXL = {"clip_l": 768, "clip_g": 1280}
_NAME = "emb_params"
_MOST_VECTORS = 75
"""Of a prompt's chunk, none of which an embedding may be longer than."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingFacts:
    """What an embedding file is."""

    family: str | None
    """None where its width is none of those known here."""
    problem: str = ""
    """Why the webui would draw without it; empty if it can use it."""


def recognise_embedding(tensors: Mapping[str, Tensor]) -> EmbeddingFacts | None:
    """None where nothing looks like an embedding."""
    if tensors.keys() & _SDXL.keys():
        return _sdxl(tensors)
    if len(tensors) != 1:
        others = f"it holds {len(tensors)} tensors instead of one"
        return EmbeddingFacts(family=None, problem=others) if _NAME in tensors else None
    ((name, tensor),) = tensors.items()
    family = _WIDTHS.get(tensor.shape[-1]) if len(tensor.shape) in {1, 2} else None
    if name != _NAME and (family is None or "." in name):
        return None
    return EmbeddingFacts(family=family, problem=_problem(tensor))


def _sdxl(tensors: Mapping[str, Tensor]) -> EmbeddingFacts:
    for name, width in _SDXL.items():
        tensor = tensors.get(name)
        problem = _problem(tensor) if tensor else f"it lacks {name}"
        if tensor and not problem and tensor.shape[-1] != width:
            # Of a model smaller than any that is known.
            return EmbeddingFacts(family=None)
        if problem:
            return EmbeddingFacts(family="sdxl", problem=problem)
    if len({tensors[name].shape[0] for name in _SDXL}) > 1:
        return EmbeddingFacts(family="sdxl", problem="its two parts have other numbers of vectors")
    return EmbeddingFacts(family="sdxl")


def _problem(tensor: Tensor) -> str:
    if len(tensor.shape) not in {1, 2}:
        return f"its tensor has {len(tensor.shape)} dimensions instead of 2"
    vectors = tensor.shape[0] if len(tensor.shape) == 2 else 1
    if not 0 < vectors <= _MOST_VECTORS:
        return f"it has {vectors} vectors, at most {_MOST_VECTORS} fit into a part of a prompt"
    return ""
