"""The page that a pull request gets: what changes, what licences say, what a bake does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bake.lock import ExtensionPin, Licence, Lock, Pin
from bake.plan.plan import Plan
from bake.plan.step import Step
from bake.plan.summary import summarise
from bake.weights.licences import licence_warnings
from tests.command import call_bake


def pin(key: str, digit: str, **more: Any) -> Pin:
    role: Any = {"vae": "vae", "checkpoint": "checkpoint"}.get(key, "lora")
    known: dict[str, Any] = {
        "source": "civitai:1", "file_name": "m.safetensors", "size_bytes": 2_000_000_000,
        "url": "https://civitai.com/api/download/models/1", **more,
    }  # fmt: skip
    return Pin(key=key, role=role, name=key.rpartition(".")[2], sha256=digit * 64, **known)


def lock(*pins: Pin) -> Lock:
    return Lock(manifest_name="shapes", family="sd1", pins=pins)


FREE = Licence(name="cc0-1.0")
BEFORE = lock(pin("checkpoint", "a", title="Shapes 1", licence=FREE), pin("vae", "c", licence=FREE))
AFTER = lock(
    pin("checkpoint", "b", title="Shapes 2", licence=FREE),
    pin("loras.ink", "d", size_bytes=100_000_000, licence=Licence(name="cc-by-nc-4.0")),
)


def test_the_whole_page() -> None:
    """Every heading and every column, as a reviewer sees them."""
    steps = (
        Step(name="fetch", document={}, runs=True, why="the store lacks 1", size_bytes=100_000_000),
        Step(name="push", document={}, runs=False, why='"done"', size_bytes=100_000_000),
    )
    extension = ExtensionPin(
        name="tint", url="https://example.com/tint", commit="1" * 40, sha256="2" * 64, size_bytes=1,
        files_sha256="3" * 64, licence=None, resolved_on="2026-01-01",
    )  # fmt: skip
    of_ink = lock(pin("loras.ink", "d", size_bytes=100_000_000, licence=Licence(name="cc-by-nc-4.0")), pin("vae", "e", size_bytes=None, licence=FREE))  # fmt: skip
    after = dataclasses.replace(of_ink, extensions=(extension,))
    before = dataclasses.replace(after, pins=(), manifest_name="x")
    page = summarise(
        "shapes", after, before=before, plan=Plan(steps=steps), problems=["one\ntwo", "three"]
    )
    warnings = "\n".join(f"- {each}" for each in licence_warnings(after))
    assert len(warnings.splitlines()) == 2
    assert (
        page
        == f"""\
## shapes: what this change means

> [!CAUTION]
> one
> two

> [!CAUTION]
> three

### Weights

| key | what | bytes | change |
| --- | --- | --- | --- |
| loras.ink | m.safetensors | 95.4 MiB | new |
| vae | m.safetensors | unknown | new |

an unknown number of bytes in all; an unknown number of bytes to fetch that was not pinned before.

### Extensions, which are code that runs

| extension | what | licence | change |
| --- | --- | --- | --- |
| tint | https://example.com/tint at {"1" * 40} | unknown | as before |

### Licences

{warnings}

### What a bake does

| step |  | why | bytes |
| --- | --- | --- | --- |
| fetch | runs | the store lacks 1 | 95.4 MiB |
| push | skipped | "done" |  |
"""
    )


def test_it_says_what_changes() -> None:
    steps = (
        Step(name="fetch", document={}, runs=True, why="the store lacks 2", size_bytes=2_100_000_000),
        Step(name="base", document={}, runs=False, why="nothing that it depends on has changed"),
    )  # fmt: skip
    page = summarise("shapes", AFTER, before=BEFORE, plan=Plan(steps=steps), problems=[])
    assert page.startswith("## shapes: what this change means\n")
    (changed,) = [line for line in page.splitlines() if line.startswith("| checkpoint |")]
    assert "title: Shapes 1 → Shapes 2" in changed
    assert f"sha256: {'a' * 64} → {'b' * 64}" in changed
    assert "| loras.ink | m.safetensors | 95.4 MiB | new |" in page
    assert "| vae | m.safetensors |  | removed |" in page
    assert "2.0 GiB in all; 2.0 GiB to fetch that was not pinned before." in page
    assert "- loras.ink (m.safetensors): its licence cc-by-nc-4.0 forbids commercial use" in page  # fmt: skip
    assert "| fetch | runs | the store lacks 2 | 2.0 GiB |" in page
    assert "| base | skipped |" in page


def test_without_a_change_it_says_so() -> None:
    page = summarise("shapes", BEFORE, before=BEFORE, plan=None, problems=[])
    assert page.count("| as before |") == 2
    assert "nothing to fetch that was not pinned before" in page
    assert "No licence here forbids" in page
    assert "What a bake does" not in page


def test_the_same_file_under_another_name_is_not_fetched_again() -> None:
    after = lock(*BEFORE.pins, pin("loras.again", "a"))
    page = summarise("shapes", after, before=BEFORE, plan=None, problems=[])
    assert "| loras.again | m.safetensors | 1.9 GiB | new |" in page
    assert "nothing to fetch that was not pinned before" in page


def test_what_others_write_stays_text() -> None:
    title = "a|b `c` <img src=x> @everyone [x](http://evil)\n## heading"
    page = summarise("shapes", lock(pin("vae", "a", title=title)), before=None, plan=None, problems=[])  # fmt: skip
    (row,) = [line for line in page.splitlines() if line.startswith("| vae |")]
    assert row.count(" | ") == 3
    for harmful in ("<img", " @everyone", "`c`", "[x](", "\n##  heading"):
        assert harmful not in page
    assert "\\#\\# heading" in row


def test_the_command_writes_the_page_and_ends_with_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    manifest = tmp_path / "shapes.yaml"
    manifest.write_text(
        "name: shapes\nfamily: sd1\ngpu: rtx-6000-ada\ncheckpoint: civitai:1\n"
        "warmup: {prompt: a}\nimage: ghcr.io/you/shapes\n"
    )

    def say(*arguments: str) -> tuple[int, str, str]:
        build = str(tmp_path / "build")
        code = call_bake("summary", str(manifest), "--build-dir", build, *arguments)
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    code, page, said = say()
    assert code == 2
    assert "## shapes" in page
    assert "[!CAUTION]" in page
    assert "the manifest is not locked yet" in page
    assert "bake lock" in said
    pinned = dataclasses.replace(BEFORE, pins=BEFORE.pins[:1])
    manifest.with_suffix(".lock.json").write_text(pinned.to_json())
    (tmp_path / "empty").write_text("")
    code, page, said = say("--before", str(tmp_path / "empty"))
    assert code == 0, said
    assert "| checkpoint | Shapes 1 | 1.9 GiB | new |" in page
    assert "What a bake would do is not known here:" in page
    assert not (tmp_path / "build").exists()
    code, _, said = say("--before", str(tmp_path / "misspelt"))
    assert code == 2
    assert "misspelt' does not exist" in said


def test_it_says_what_changes_of_extensions() -> None:
    def extension(name: str, digit: str) -> ExtensionPin:
        return ExtensionPin(
            name=name, url=f"https://example.com/{name}", commit=digit * 40, sha256=digit * 64,
            size_bytes=1, files_sha256=digit * 64, licence="MIT", resolved_on="2026-01-01",
        )  # fmt: skip

    before = dataclasses.replace(BEFORE, extensions=(extension("a", "1"), extension("b", "2")))
    after = dataclasses.replace(BEFORE, extensions=(extension("a", "3"), extension("c", "4")))
    page = summarise("shapes", after, before=before, plan=None, problems=[])
    assert "### Extensions, which are code that runs" in page
    (changed,) = [line for line in page.splitlines() if line.startswith("| a |")]
    assert f"https://example.com/a at {'3' * 40} | MIT |" in changed
    assert f"commit: {'1' * 40} → {'3' * 40}; " in changed
    assert changed.endswith(f"files\\_sha256: {'1' * 64} → {'3' * 64} |")
    assert f"| c | https://example.com/c at {'4' * 40} | MIT | new |" in page
    assert f"| b | https://example.com/b at {'2' * 40} |  | removed |" in page
    assert "### Extensions" not in summarise("x", AFTER, before=BEFORE, plan=None, problems=[])
    first = summarise("shapes", after, before=None, plan=None, problems=[])
    assert f"| a | https://example.com/a at {'3' * 40} | MIT | new |" in first
    last = summarise("shapes", BEFORE, before=before, plan=None, problems=[])
    assert f"| a | https://example.com/a at {'1' * 40} |  | removed |" in last
