"""Writes what is published of the worker and of bake from their own tables: schema and reference tables.

`make schema` runs it; tests/unit/test_published.py fails while a written file is stale.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from bake.serve.schema import make_schema
from bake.settings import variables
from runtime.errors import CODES
from runtime.job.fields import FIELDS, LIMITS, LORA_FIELDS, OVERRIDES, Field
from runtime.settings import Settings

DOCS = Path(__file__).parent
SECTIONS = {
    "picture": "The picture",
    "sampling": "Sampling",
    "hires": "Hires fix",
    "init": "Pictures to draw over",
    "upscaling": "Upscaling",
    "model": "Models",
    "output": "Output",
    "neutral": "Accepted where they ask for nothing",
}


def _bounds(field: Field) -> str:
    if field.only is not None:
        return "only " + " or ".join(f"`{json.dumps(each)}`" for each in field.only)
    if field.choices:
        return ", ".join(f"`{each}`" for each in field.choices)
    maximum = f"limit `{field.limit}`" if field.limit else field.maximum
    parts = [
        f"from {_number(field.minimum)}" if field.minimum is not None else "",
        f"to {maximum}" if maximum is not None else "",
        f"multiple of {field.multiple_of}" if field.multiple_of else "",
        "or null" if field.nullable else "",
    ]
    return " ".join(filter(None, parts))


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def field_table(section: str) -> str:
    """The rows of one section."""
    rows = ["| field | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    rows += [_row(each) for each in FIELDS if each.section == section]
    return "\n".join(rows)


def _row(field: Field) -> str:
    default = "" if field.default is None else f"`{json.dumps(field.default)}`"
    kind = {"strings": "list of strings", "entries": "list"}
    kind.update(name="string", identifier="string", image="picture", images="list of pictures")
    return (
        f"| `{field.name}` | {kind.get(field.kind, field.kind)} | {default} |"
        f" {_bounds(field)} | {field.meaning} |"
    )


def lora_table() -> str:
    return "\n".join(
        ["| field | type | default | allowed | meaning |", "|---|---|---|---|---|"]
        + [_row(each) for each in LORA_FIELDS]
    )


def override_table() -> str:
    rows = [f"| `{each.name}` | {each.kind} | {_bounds(each)} |" for each in OVERRIDES.values()]
    return "\n".join(["| setting | type | allowed |", "|---|---|---|", *rows])


def limit_table() -> str:
    rows = [f"| `{name}` | {default} | {meaning} |" for name, (default, meaning) in LIMITS.items()]
    return "\n".join(["| limit | default | of |", "|---|---|---|", *rows])


def settings_table() -> str:
    rows = []
    for each in dataclasses.fields(Settings):
        shown = f"{each.default:g}" if isinstance(each.default, float) else each.default
        has_default = each.default not in {"", False, dataclasses.MISSING}
        default = f"`{shown}`" if has_default else ""
        rows.append(f"| `{each.metadata['variable']}` | {default} | {each.metadata['meaning']} |")
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def bake_table() -> str:
    rows = [
        f"| `{each.name}` | {f'`{each.default}`' if each.default else ''} | {each.meaning} |"
        for each in variables()
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def error_table() -> str:
    rows = [
        f"| `{name}` | {'yes' if retryable else 'no'} | {meaning} |"
        for name, (retryable, meaning) in CODES.items()
    ]
    return "\n".join(["| code | retryable | meaning |", "|---|---|---|", *rows])


def fill_in(text: str) -> str:
    """Replaces what stands between `<!-- NAME -->` and `<!-- end -->` by the table of that name."""
    tables = {
        "loras": lora_table,
        "overrides": override_table,
        "limits": limit_table,
        "settings": settings_table,
        "bake": bake_table,
        "errors": error_table,
    }

    def table(found: re.Match[str]) -> str:
        name = found[1]
        made = field_table(name) if name in SECTIONS else tables[name]()
        return f"<!-- {name} -->\n{made}\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def make_files() -> dict[Path, str]:
    """Every written file with the text that it should have."""
    pages = (DOCS / "request.md", DOCS / "operations.md", DOCS / "cli.md")
    files = {page: fill_in(page.read_text(encoding="utf-8")) for page in pages}
    files[DOCS / "request.schema.json"] = json.dumps(make_schema(), indent=2) + "\n"
    return files


if __name__ == "__main__":
    for path, text in make_files().items():
        path.write_text(text, encoding="utf-8")
