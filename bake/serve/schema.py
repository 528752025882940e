"""The JSON Schema of a job's input, made from the worker's own table of fields: published, and what the page is made from."""

from __future__ import annotations

from typing import Any

from runtime.job.fields import EMBEDDING_FIELDS, FIELDS, LIMITS, LORA_FIELDS, OVERRIDES, Field

_TYPES: dict[str, dict[str, Any]] = {
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "string": {"type": "string"},
    "name": {"type": "string"},
    "identifier": {"type": ["string", "integer"]},
    "strings": {"type": "array", "items": {"type": "string"}},
    "object": {"type": "object"},
    "list": {"type": "array"},
    "entries": {"type": "array"},
    "image": {"type": "string"},
    "images": {"type": "array", "items": {"type": "string"}},
}


def make_schema() -> dict[str, Any]:
    """JSON Schema of a job's `input` in its plain spelling, with the default limits.

    Numbers and booleans as strings, which the worker takes as well, are left out for the sake of code generators.
    """
    properties = {field.name: _property(field) for field in FIELDS}
    properties["override_settings"]["properties"] = {
        name: _property(field) for name, field in OVERRIDES.items()
    }
    for name, fields in (("loras", LORA_FIELDS), ("embeddings", EMBEDDING_FIELDS)):
        entry: dict[str, Any] = {
            "type": "object",
            "additionalProperties": False,
            "required": ["name"],
            "properties": {field.name: _property(field) for field in fields},
        }
        properties[name]["items"] = {"anyOf": [{"type": "string"}, entry]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A job's input",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _property(field: Field) -> dict[str, Any]:
    made: dict[str, Any] = {"description": field.meaning, **_TYPES[field.kind]}
    if field.only is not None:
        return {"description": field.meaning, "enum": list(field.only)}
    if field.nullable:
        types = made["type"]
        made["type"] = [*([types] if isinstance(types, str) else types), "null"]
    if field.default is not None:
        made["default"] = field.default
    if field.choices:
        made["enum"] = list(field.choices)
    maximum = LIMITS[field.limit][0] if field.limit else field.maximum
    if field.form is not None:
        made["pattern"] = f"^({field.form[0]})$"
    longest = {"string": "maxLength", "entries": "maxItems", "images": "maxItems"}.get(
        field.kind, "maximum"
    )
    for key, value in (
        ("minimum", field.minimum),
        (longest, maximum),
        ("multipleOf", field.multiple_of),
    ):
        if value is not None:
            made[key] = value
    return made
