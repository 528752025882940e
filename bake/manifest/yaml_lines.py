"""YAML with the place of every key, so that an error can name its line.

PyYAML keeps marks on nodes only; `yaml.safe_load` throws them away and accepts duplicate keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A parsed YAML mapping and the line of each of its keys (1-based)."""

    data: dict[str, Any]
    lines: dict[KeyPath, int]
    duplicates: tuple[tuple[KeyPath, int], ...] = field(default=())

    def line_of(self, path: KeyPath) -> int:
        """The line of `path`, or of its nearest parent that the file has."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class YamlError(ValueError):
    """The text is no YAML mapping; `line` is where that shows."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def parse_yaml(text: str) -> Document:
    """Parses one YAML document whose top level is a mapping. Raises YamlError otherwise."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            # An alias bomb of a few lines expands to gigabytes, and no manifest needs one.
            if isinstance(event, yaml.AliasEvent):
                mark = event.start_mark
                raise YamlError(
                    "YAML aliases (*name) are not accepted", mark.line + 1 if mark else 1
                )
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(error.problem or "not valid YAML", mark.line + 1 if mark else 1) from None
    except yaml.YAMLError:
        raise YamlError("it holds a character that YAML does not allow", 1) from None
    except RecursionError:
        raise YamlError("it is nested too deeply", 1) from None
    if node is None:
        return Document(data={}, lines={})
    if not isinstance(node, yaml.MappingNode):
        raise YamlError("the top level must be a mapping of `key: value` lines", 1)
    lines: dict[KeyPath, int] = {}
    duplicates: list[tuple[KeyPath, int]] = []
    _collect_lines(node, (), lines, duplicates)
    try:
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:  # what composes may still not construct: an unknown tag
        mark = error.problem_mark
        raise YamlError(error.problem or "not valid YAML", mark.line + 1 if mark else 1) from None
    return Document(data=data, lines=lines, duplicates=tuple(duplicates))


def _collect_lines(
    node: yaml.Node,
    path: KeyPath,
    lines: dict[KeyPath, int],
    duplicates: list[tuple[KeyPath, int]],
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key_path = (*path, str(key_node.value))
            line = key_node.start_mark.line + 1
            if key_path in lines:
                duplicates.append((key_path, line))
            lines[key_path] = line
            _collect_lines(value_node, key_path, lines, duplicates)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            item_path = (*path, index)
            lines[item_path] = item.start_mark.line + 1
            _collect_lines(item, item_path, lines, duplicates)
