"""A real Chromium, the system's, for the pages that bake writes and serves; a page that complains fails its test."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

DESKTOP, PHONE = 1200, 360
"""Widths in pixels; the narrower one is that of small phones in use."""
_NAMES = ("chromium", "chromium-browser", "google-chrome")


# Playwright keeps an event loop running in its thread, in which a later module could not call `asyncio.run`.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.fail("no Chromium to look at pages with: apt-get install chromium")
    # Chromium's own sandbox is not for root, as whom containers of CI run.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=arguments, timeout=300_000)
        yield started
        started.close()


@contextmanager
def in_context(browser: Browser, **options: Any) -> Iterator[BrowserContext]:
    """A profile of its own; what a page waits for may stand still for a while."""
    context = browser.new_context(**options)
    context.set_default_timeout(300_000)
    try:
        yield context
    finally:
        context.close()


@contextmanager
def showing(
    browser: Browser,
    url: str,
    *,
    width: int = DESKTOP,
    scheme: Literal["light", "dark"] = "light",
    media: Literal["screen", "print"] = "screen",
) -> Iterator[Page]:
    """Opens a page; fails at the end if anything was said on its console, or raised by it."""
    said: list[str] = []
    viewport = {"width": width, "height": 900}
    with in_context(browser, viewport=viewport, color_scheme=scheme) as context:
        page = context.new_page()
        page.emulate_media(media=media)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        yield page
        assert said == []


def assert_fits(page: Page) -> None:
    """Nothing is wider than the window, and no cell cuts its text off."""
    wide = page.evaluate("""() => [...document.querySelectorAll('body *')]
        .filter(each => each.getBoundingClientRect().right > innerWidth + 1
            && !each.closest('svg') && getComputedStyle(each).visibility !== 'hidden')
        .map(each => each.outerHTML.slice(0, 120))""")
    assert wide == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
