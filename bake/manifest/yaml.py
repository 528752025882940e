"""YAML 1.2 with the place of every key, so that an error can name its line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import ConstructorError, RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

KeyPath = tuple[str | int, ...]
_DEEPEST = 50


@dataclass(frozen=True, kw_only=True)
class Document:
    """A parsed YAML mapping, and the places of its keys."""

    data: CommentedMap
    duplicates: tuple[tuple[str, int], ...] = ()
    """Keys that are given twice in one mapping, each with the line of the later one."""

    def line_of(self, path: KeyPath) -> int:
        """The line (from 1) of `path`, or of its nearest parent that the file has."""
        line, node = 0, self.data
        for part in path:
            place = _place(node, part)
            if place is None:
                break
            line, node = place[0], node[part]
        return line + 1

    def value_of(self, path: KeyPath) -> tuple[int, int] | None:
        """Line and column (both from 0) at which the value of a mapping's key begins, if it has it."""
        node: Any = self.data
        for part in path[:-1]:
            node = node[part] if _place(node, part) else None
        if not isinstance(node, CommentedMap) or path[-1] not in node:
            return None
        line, column = node.lc.value(path[-1])
        return line, column


class YamlError(ValueError):
    """The text is no YAML mapping; `line` is where that shows."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def parse_yaml(text: str) -> Document:
    """Parses one YAML document whose top level is a mapping. Raises YamlError otherwise."""
    try:
        _refuse_what_no_manifest_needs(text)
        yaml = YAML(typ="rt")
        yaml.Constructor = _Constructor
        data = yaml.load(text)
    except MarkedYAMLError as error:
        raise YamlError(_in_words(error), _line(error)) from error
    except YAMLError as error:
        raise YamlError("it holds a character that YAML does not allow", 1) from error
    except RecursionError as error:
        raise YamlError("it is nested too deeply", 1) from error
    if data is None:
        return Document(data=CommentedMap())
    if not isinstance(data, CommentedMap):
        raise YamlError("the top level must be a mapping of `key: value` lines", 1)
    return Document(data=data, duplicates=tuple(yaml.constructor.duplicates))


class _Constructor(RoundTripConstructor):
    """Notes keys that are given twice, where ruamel.yaml would stop at the first; knows no foreign tags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.duplicates: list[tuple[str, int]] = []

    def check_mapping_key(
        self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any
    ) -> bool:
        del node, value
        if key in mapping:
            self.duplicates.append((str(key), key_node.start_mark.line + 1))
            return False
        return True

    def construct_undefined(self, node: Any) -> NoReturn:
        raise ConstructorError(None, None, f"the tag {node.tag} is not known", node.start_mark)


_Constructor.add_constructor(None, _Constructor.construct_undefined)


def _refuse_what_no_manifest_needs(text: str) -> None:
    """An alias bomb of a few lines expands to gigabytes; 3,000 open brackets take ruamel.yaml 20 seconds."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent):
            what = "YAML aliases (*name) are not accepted; put a text that begins with * in quotes"
            raise YamlError(what, line)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _DEEPEST:
            raise YamlError("it is nested too deeply", line)


_IN_WORDS = {
    "mapping values are not allowed": "this line is indented deeper than the key before it,"
    " or its text has `: ` in it and needs quotes",
    r"found character '\\t'": "a tab indents this line; indent with spaces",
    "found character": "a text that begins with @, ` or % needs quotes",
    "expected <block end>": "this line's indentation is that of no line before it",
    "could not find expected ':'": "this line is no `key: value`, or the text before it needs quotes",
    "found unexpected end of stream": "a quotation mark is opened here and not closed",
    "but found another document": "a manifest is one document; take the line --- out",
}
"""What ruamel.yaml calls the mistakes that people make, by how that begins, and what they are."""


def _in_words(error: MarkedYAMLError) -> str:
    problem = error.problem or "not valid YAML"
    known = (words for begin, words in _IN_WORDS.items() if re.match(begin, problem))
    return next(known, problem)


def _place(node: Any, part: str | int) -> tuple[int, int] | None:
    """Line and column of a key or an item, if `node` has it."""
    if isinstance(node, CommentedMap) and part in node:
        line, column = node.lc.key(part)
    elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
        line, column = node.lc.item(part)
    else:
        return None
    return line, column


def _line(error: MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    if error.problem and error.problem.startswith("found unexpected end of stream"):
        mark = error.context_mark  # where the quotation mark is, and not the end of the file
    return mark.line + 1 if mark else 1
