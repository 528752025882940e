"""What a change of a manifest means, as Markdown for whoever reviews it: pins, licences, plan, bytes."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from bake.console import format_bytes
from bake.lock import Lock, Pin
from bake.plan.plan import Plan
from bake.plan.step import total_bytes
from bake.weights.licences import licence_warnings
from bake.weights.update import describe_changes

_SPECIAL = re.compile(r"([\\`*_\[\]#|~@])")


def summarise(
    name: str, lock: Lock | None, *, before: Lock | None, plan: Plan | None, problems: Sequence[str]
) -> str:
    """The page.

    Args:
        name: The manifest's.
        lock: What it is pinned to now; None where it is not locked, or the lock does not fit.
        before: What it was pinned to; None for a new manifest.
        plan: What a bake would do; None where that cannot be said here.
        problems: Texts of what is wrong, shown first.

    Returns:
        Markdown, with all that comes from elsewhere made harmless.
    """
    parts = [f"## {_plain(name)}: what this change means", *map(_problem, problems)]
    if lock:
        parts += ["### Weights", _pins(before, lock)]
        if lock.extensions or (before and before.extensions):
            parts += ["### Extensions, which are code that runs", _extensions(before, lock)]
        parts += ["### Licences", _licences(lock)]
    if plan:
        parts += ["### What a bake does", _plan(plan)]
    return "\n\n".join(parts) + "\n"


def _problem(text: str) -> str:
    return "> [!CAUTION]\n" + "\n".join(f"> {_plain(line)}" for line in text.splitlines())


def _pins(before: Lock | None, lock: Lock) -> str:
    known = {pin.key: pin for pin in before.pins} if before else {}
    pinned = {pin.sha256 for pin in known.values()}
    rows = []
    fresh: list[Pin] = []
    for pin in lock.pins:
        old = known.pop(pin.key, None)
        what = "new" if old is None else "; ".join(describe_changes(old, pin)) or "as before"
        if pin.sha256 not in pinned:
            fresh.append(pin)
        size = format_bytes(pin.size_bytes) if pin.size_bytes else "unknown"
        rows.append((pin.key, pin.title or pin.file_name, size, what))
    rows += [(key, pin.title or pin.file_name, "", "removed") for key, pin in known.items()]
    table = _table(("key", "what", "bytes", "change"), rows)
    in_all, new = _sum(lock.pins), _sum(fresh)
    return f"{table}\n\n{in_all} in all; {new if fresh else 'nothing'} to fetch that was not pinned before."  # fmt: skip


def _extensions(before: Lock | None, lock: Lock) -> str:
    known = {pin.name: pin for pin in before.extensions} if before else {}
    rows = []
    for pin in lock.extensions:
        old = known.pop(pin.name, None)
        what = "new" if old is None else "; ".join(describe_changes(old, pin)) or "as before"
        rows.append((pin.name, f"{pin.url} at {pin.commit}", pin.licence or "unknown", what))
    rows += [(pin.name, f"{pin.url} at {pin.commit}", "", "removed") for pin in known.values()]
    return _table(("extension", "what", "licence", "change"), rows)


def _sum(pins: Sequence[Pin]) -> str:
    total = total_bytes(pins)
    return "an unknown number of bytes" if total is None else format_bytes(total)


def _licences(lock: Lock) -> str:
    found = licence_warnings(lock)
    if not found:
        return "No licence here forbids what a public image does, as far as the sources say."
    return "\n".join(f"- {_plain(each)}" for each in found)


def _plan(plan: Plan) -> str:
    rows = [
        (
            step.name,
            "runs" if step.runs else "skipped",
            step.why,
            format_bytes(step.size_bytes) if step.size_bytes and step.runs else "",
        )
        for step in plan.steps
    ]
    return _table(("step", "", "why", "bytes"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: titles are of others, and may hold anything."""
    flat = " ".join(text.split())
    return html.escape(_SPECIAL.sub(r"\\\1", flat), quote=False)
