"""The report in a real Chromium: it fits a desk and a phone, by day and by night, says what the bake said, and runs nothing."""

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page

from bake.report.page import render_comparison, render_report
from tests.browser import DESKTOP, PHONE, assert_fits, showing
from tests.integration.bakery_case import Bakery, Events, digest_of
from tests.integration.conftest import run
from tests.report_case import HOSTILE, make_hostile, make_png, make_report, make_reported

Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def again(bakery: Bakery, baked: Events, tmp_path_factory: pytest.TempPathFactory) -> Bakery:
    """Where a red circle was baked, and then a blue square."""
    copy = bakery.copy(tmp_path_factory.mktemp("again"))
    copy.manifest.write_text(copy.manifest.read_text().replace("red circle", "blue square"))
    return copy


@pytest.fixture(scope="module")
def bakes(again: Bakery, baked: Events) -> tuple[Events, Events]:
    """What both bakes said."""
    return baked, again.bake()


def url_of(path: Path) -> str:
    return path.absolute().as_uri()


def values(page: Page, selector: str) -> list[float]:
    found = page.eval_on_selector_all(f"{selector} data", "all => all.map(each => each.value)")
    return [float(each) for each in found]


def test_the_numbers_are_those_of_the_events(
    again: Bakery, bakes: tuple[Events, Events], browser: Browser
) -> None:
    events = bakes[1]
    with showing(browser, url_of(again.build / "demo" / "report.html")) as page:
        assert page.inner_text("#digest") == digest_of(events)
        assert page.text_content("#digest") == digest_of(events), "and is copied as one word"
        for event in events:
            if event["event"] == "step.ended":
                row = f'[data-step="{event["step"]}"]'
                assert values(page, row) == [event["seconds"]]
                assert page.inner_text(f"{row} .label") == event["step"]
            elif event["event"] == "step.skipped" and event["step"] != "lock":
                assert page.inner_text(f'[data-step="{event["step"]}"] .number') == "kept"
        verdict = next(event for event in events if event["event"] == "verdict")
        shown = page.locator("#checks li")
        assert shown.count() == len(verdict["checks"])
        names = sorted(page.locator("#checks strong").all_inner_texts())
        assert names == sorted(check["name"] for check in verdict["checks"])
        assert page.locator(".timeline").count() == 2, "of the warm-up and of the worker"
        assert page.locator("#start .lane.draw").count() == 2
        assert "blue square" in page.inner_text(".hero figcaption")
        assert page.evaluate("document.querySelector('.hero img').naturalWidth") == 512
        same = digest_of(bakes[0]) == digest_of(events)
        said = "Every layer is as in the bake of" if same else "layers are new since the bake of"
        assert said in page.inner_text("#layers")
        assert "a red circle on a white background" in page.inner_text("#layers .changes")


def test_two_bakes_are_shown_side_by_side(
    again: Bakery, bakes: tuple[Events, Events], browser: Browser
) -> None:
    ended = run(*again.command("report", "--compare"), env=again.environment)
    assert ended.returncode == 0, ended.stderr
    path = Path(ended.stdout.splitlines()[-1])
    for width in (DESKTOP, PHONE):
        with showing(browser, url_of(path), width=width) as page:
            digests = page.locator(".pair .digest").all_inner_texts()
            assert [each.replace("\n", "") for each in digests] == [*map(digest_of, bakes)]
            first, second = (each.bounding_box() for each in page.locator(".pair img").all())
            assert first is not None
            assert second is not None
            assert (first["y"] == second["y"]) == (width == DESKTOP), "below each other on a phone"
            assert_fits(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, 768, PHONE])
def test_the_page_fits_and_can_be_read(
    browser: Browser, tmp_path: Path, width: int, scheme: Scheme
) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_report(make_reported(picture=make_png("red")), make_reported()))
    with showing(browser, url_of(path), width=width, scheme=scheme) as page:
        assert_fits(page)
        for selector in ("body", ".soft", "a", "td .warning", ".tag, .kicker"):
            assert contrast(page, selector) >= 4.5, selector


def test_it_is_printed_on_white(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_report(make_reported(picture=make_png("red"))))
    with showing(browser, url_of(path), scheme="dark", media="print") as page:
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(255, 255, 255)"
        assert len(page.pdf()) > 1000


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_hostile_values_do_nothing(browser: Browser, tmp_path: Path, width: int) -> None:
    report, other = (
        make_hostile(make_report()),
        make_hostile(make_report(digest="sha256:" + "0" * 64)),
    )
    long = "x" * 400
    report["pins"][0]["title"] = report["request"]["prompt"] = report["name"] = long + HOSTILE
    report["layers"][1]["what"] = report["steps"][1]["why"] = long
    pages = {
        "one": render_report(make_reported(report), make_reported(other)),
        "two": render_comparison(make_reported(report), make_reported(other)),
    }
    for name, text in pages.items():
        path = tmp_path / f"{name}.html"
        path.write_text(text)
        with showing(browser, url_of(path), width=width) as page:
            assert reload(page) == {url_of(path)}
            assert page.locator("script, img").count() == 0
            assert HOSTILE in page.inner_text("main")
            assert_fits(page)


def reload(page: Page) -> set[str]:
    """Loads the page again; the addresses that it asks for. A script that opens a dialog fails the test."""
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(request.url))
    page.on("dialog", lambda dialog: pytest.fail("a script has run"))
    page.reload()
    return {url for url in asked if not url.startswith("data:")}


def contrast(page: Page, selector: str) -> float:
    """The ratio of WCAG between an element's text and the page."""
    ratio: float = page.evaluate(
        """selector => {
            const light = text => {
                const parts = text.match(/[0-9.]+/g).slice(0, 3).map(each => each / 255)
                    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
                return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
            };
            const one = light(getComputedStyle(document.querySelector(selector)).color);
            const other = light(getComputedStyle(document.body).backgroundColor);
            return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        }""",
        selector,
    )
    return ratio
