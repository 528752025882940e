"""The report's page."""

from typing import Any

from bake.steps.report import render_html

REPORT: dict[str, Any] = {
    "name": "<demo>",
    "reference": "host/demo:1",
    "digest": "sha256:abc",
    "size_bytes": 1536,
    "webui": {"name": "webui", "version": "1.9.3"},
    "steps": [
        {"step": "base", "runs": True, "seconds": 2.04, "why": "context changed"},
        {"step": "load", "runs": False, "seconds": None, "why": "nothing changed"},
    ],
    "layers": [{"what": "", "kind": "base", "size_bytes": 10, "digest": "sha256:def"}],
    "warmup": {"harvest": "own", "device": "cpu", "loaded_s": 3.0, "drawn_s": 1.0},
}


def test_the_page_has_the_picture_and_every_row() -> None:
    page = render_html(REPORT, b"png")
    assert "data:image/png;base64,cG5n" in page
    for text in ("host/demo:1", "sha256:abc", "1.5 KiB", "2.0 s", "context changed", "sha256:def"):
        assert text in page


def test_without_a_warm_up_the_page_says_so_and_has_no_picture() -> None:
    page = render_html({**REPORT, "warmup": {"harvest": "none"}}, None)
    assert "none: the worker starts slower" in page
    assert "<img" not in page


def test_text_is_escaped_and_nothing_is_fetched() -> None:
    page = render_html(REPORT, b"png")
    assert "&lt;demo&gt;" in page
    assert "<demo>" not in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
