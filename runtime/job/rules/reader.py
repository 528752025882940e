"""Reading fields by their tables: errors and notes are collected, what is right is given. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from runtime.errors import FieldError
from runtime.job.fields import BY_NAME, SYNONYMS, Field
from runtime.job.rules.models import check_entry
from runtime.job.values import cut, describe, read_value, suggest

MAX_ERRORS = 50
_WORDS = {"loras": "LoRA", "embeddings": "embedding"}


class Reader:
    """Of one request."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.errors: list[FieldError] = []
        self._notes: list[str] = []
        self._unused: dict[str, Any] = {}
        self._limits = limits

    def _wrong(self, field: str, message: str) -> None:
        self.errors.append(FieldError(field=field, message=message))

    def _know(self, where: str, item: str, known: Collection[str], problem: str) -> None:
        if item not in known:
            self._wrong(where, problem + self._suggest(item, known))

    def _suggest(self, item: str, known: Iterable[str]) -> str:
        """For the errors that are shown only: a million unknown keys would take minutes."""
        return suggest(item, known) if len(self.errors) < MAX_ERRORS else ""

    def _read(
        self, value: Mapping[Any, object], table: Mapping[str, Field], where: str, unknown: str
    ) -> dict[str, Any]:
        """The given fields with checked types and bounds; nulls and wrong ones are left out."""
        for key in value:
            if key not in table and value[key] is not None:  # null asks for nothing
                meant = SYNONYMS.get(key)
                hint = f" (use {meant!r})" if meant in table else self._suggest(str(key), table)
                self._wrong(f"{where}{cut(key)}", unknown + hint)
        given = {}
        for name, field in table.items():
            item = value.get(name)
            is_empty = item is None or (item == "" and field.kind == "name") or item in field.empty
            if name not in value or (is_empty and field.nullable):
                continue
            try:
                given[name] = read_value(field, item, self._limits)
            except ValueError as error:
                self._wrong(f"{where}{name}", str(error))
                continue
            if field.note and given[name] != field.default:
                self._notes.append(f"{where}{name}: {field.note}")
        return given

    def _set_aside(self, given: dict[str, Any], names: Collection[str], switch: str) -> None:
        """Fields of what is off: sent on as they are, since the webui makes nothing of them either."""
        unused = {each: given.pop(each) for each in list(given) if each in names}
        self._unused.update(unused)
        asked = [each for each in unused if unused[each] != BY_NAME[each].default]
        if asked:
            self._notes.append(f"{', '.join(asked)}: not used without {switch}")

    def _read_entries(
        self,
        given: Mapping[str, Any],
        key: str,
        table: Mapping[str, Field],
        baked: Mapping[str, Mapping[str, str]],
    ) -> list[dict[str, Any]]:
        """The entries of a list of files that are right; `baked`: names and SHA-256, by the list."""
        entries = []
        for number, item in enumerate(given.get(key, ())):
            where = f"{key}[{number}]"
            entry = {"name": item} if isinstance(item, str) else item
            if not isinstance(entry, dict):
                self._wrong(where, f"must be an object or a name, not {describe(item)}")
                continue
            before = len(self.errors)
            read = self._read(entry, table, f"{where}.", "there is no such field")
            weight = read.pop("weight", None)
            if weight is not None and read.setdefault("scale", weight) != weight:
                self._wrong(f"{where}.weight", "contradicts scale")
            if len(self.errors) == before:
                self.errors += check_entry(read, where, word=_WORDS[key], baked=baked[key])
            if len(self.errors) == before:
                entries.append({"sha256_prefix": read.pop("hash", "").lower() or None, **read})
        return entries
