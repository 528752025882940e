"""What stands in prompts besides words: tags of networks, saved styles, comments. Pure.

The forms are those of webui v1.9.3 (modules/extra_networks.py, extensions-builtin/Lora/extra_networks_lora.py): a tag
that it cannot use makes it draw without any LoRA, with a line in its log only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.job.names import Names
from runtime.job.values import cut, suggest

LORA_KINDS = {"lora", "lyco"}
HYPERNET = "hypernet"
TAG_KINDS = {*LORA_KINDS, HYPERNET}
_TAG = re.compile(r"<(\w+):([^>]+)>")
_COMMENT = re.compile(r"#[^\n]*")
_POSITIONAL: tuple[Callable[[str], float], ...] = (float, float, int)
_NAMED: Mapping[str, Callable[[str], float]] = {"te": float, "unet": float, "dyn": int}
_COMFY = re.compile(r"(?<![\w.-])embedding:([\w.-]+)")
_FORM = "the forms are <lora:name:0.8> and <lora:name:0.8:0.6>, with the weights of text encoder and unet"
_FORM_HYPERNET = "the form is <hypernet:name:0.8>"


def drawn_texts(given: Mapping[str, Any], names: Names) -> dict[str, str]:
    """The texts that the webui draws, by the field that they come from; styles are in them, comments too."""
    styles = [names.styles.get(each, ("", "")) for each in given.get("styles", ())]
    texts = {key: given.get(key, "") for key in ("prompt", "negative_prompt")}
    for key in ("prompt", "negative_prompt"):
        if given.get("enable_hr") and given.get(f"hr_{key}"):
            texts[f"hr_{key}"] = given[f"hr_{key}"]
    return {
        key: _styled(text, [s["negative" in key] for s in styles]) for key, text in texts.items()
    }


def _styled(text: str, styles: list[str]) -> str:
    for style in styles:
        text = style.replace("{prompt}", text) if "{prompt}" in style else f"{text}, {style}"
    return text


def without_comments(text: str) -> str:
    """What the webui leaves of a prompt while comments are on."""
    return _COMMENT.sub("", text)


def find_tags(text: str) -> Iterator[tuple[str, list[str]]]:
    """Kind and arguments of each tag."""
    for kind, arguments in _TAG.findall(text):
        yield kind, arguments.split(":")


def find_embeddings(text: str) -> list[str]:
    """Names in the form of another program, which the webui would draw as words."""
    return _COMFY.findall(text)


@dataclass(kw_only=True)
class TagNames:
    """What the tags of one prompt name: what is baked, each once, with arguments that the webui can use."""

    loras: Collection[str]
    hypernetworks: Collection[str]
    requested: Collection[str]
    """Those of the field `loras`, which come into every prompt."""
    mentioned: list[str] = field(default_factory=list)
    """LoRAs."""
    mentioned_hypernetworks: list[str] = field(default_factory=list)

    def check(self, tags: Iterable[tuple[str, list[str]]]) -> list[str]:
        """What is wrong with the tags; fills in `mentioned`."""
        problems = []
        for kind, arguments in tags:
            try:
                self._take(kind, arguments)
            except ValueError as error:
                problems.append(str(error))
        return problems

    def _take(self, kind: str, arguments: list[str]) -> None:
        if kind == HYPERNET:
            self._take_hypernetwork(arguments)
        elif kind in LORA_KINDS:
            self._take_lora(kind, arguments)
        else:
            raise ValueError(f"<{cut(kind)}:…> is nothing that this worker has")

    def _take_lora(self, kind: str, arguments: list[str]) -> None:
        name = network_name(kind, arguments)
        if name not in self.loras:
            hint = suggest(name, self.loras)
            raise ValueError(f"no LoRA {cut(name)!r} is baked{hint}; see the field loras")
        if name in self.requested:
            raise ValueError(f"names the LoRA {name!r}, which loras has as well")
        if name in self.mentioned:
            raise ValueError(
                f"names the LoRA {name!r} twice; the webui takes the last weight for both"
            )
        self.mentioned.append(name)

    def _take_hypernetwork(self, arguments: list[str]) -> None:
        """The webui takes no named arguments here, and draws without one that it does not know."""
        name, *rest = arguments
        for text in rest[:1]:
            _check_number(HYPERNET, name, text, float, _FORM_HYPERNET)
        if rest[1:]:
            what = f"the webui makes nothing of {cut(rest[1])!r}; {_FORM_HYPERNET}"
            raise ValueError(f"<{HYPERNET}:{cut(name)}:…>: {what}")
        if name not in self.hypernetworks:
            hint = suggest(name, self.hypernetworks)
            raise ValueError(f"no hypernetwork {cut(name)!r} is baked{hint}")
        if name in self.mentioned_hypernetworks:
            raise ValueError(f"names the hypernetwork {name!r} twice")
        self.mentioned_hypernetworks.append(name)


def network_name(kind: str, arguments: list[str]) -> str:
    """The name in a tag, its other arguments checked.

    Raises:
        ValueError: the webui cannot use it, or would make nothing of a part of it.
    """
    named = [each.split("=") for each in arguments if each.count("=") == 1]
    positional = [each for each in arguments if each.count("=") != 1]
    if not positional:
        raise ValueError(f"<{kind}:{cut(arguments[0])}> has no name; {_FORM}")
    name, *rest = positional
    for text, read in zip(rest, _POSITIONAL, strict=False):
        _check_number(kind, name, text, read)
    for key, text in named:
        if key in _NAMED:
            _check_number(kind, name, text, _NAMED[key])
    unused = [*rest[len(_POSITIONAL) :], *(f"{key}=…" for key, _ in named if key not in _NAMED)]
    if unused:
        raise ValueError(
            f"<{kind}:{cut(name)}:…>: the webui makes nothing of {cut(unused[0])!r}; {_FORM}"
        )
    return name


def _check_number(
    kind: str, name: str, text: str, read: Callable[[str], float], form: str = _FORM
) -> None:
    try:
        is_number = math.isfinite(read(text))
    except ValueError:
        is_number = False
    if not is_number:
        what = "a whole number" if read is int else "a number"
        raise ValueError(f"<{kind}:{cut(name)}:…>: {cut(text)!r} is not {what}; {form}")
