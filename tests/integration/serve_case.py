"""The page of `bake serve` before a worker with the demo's webui, for the tests that look at it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Browser, Page, expect

from bake.serve.page import Upstream, make_about, serve_page
from tests.browser import DESKTOP, in_context
from tests.integration.worker import RunningWorker, running
from tests.ports import free_port

SMALL = {"width": "64", "height": "64", "steps": "4"}
expect.set_options(timeout=120_000)


class Served:
    """The page, and the worker behind it."""

    def __init__(self, url: str, worker: RunningWorker) -> None:
        self.url = url
        self.worker = worker


def serving(
    folder: Path, about: dict[str, Any] | None = None, **environment: str
) -> Iterator[Served]:
    port = free_port()
    environment = {
        "BAKERY_SERVER": "http",
        "PORT": str(port),
        "BAKERY_HTTP_HOST": "127.0.0.1",
        "BAKERY_PROGRESS_S": "0.05",
        **environment,
    }
    with running("runtime", folder, **environment) as worker:

        def ping() -> int:
            if worker.exit_code is not None:
                return 503
            try:
                return requests.get(f"http://127.0.0.1:{port}/ping", timeout=300).status_code
            except requests.ConnectionError:
                return 204

        upstream = Upstream(port=lambda: port, ping=ping)
        made = {**make_about(worker.worker, "registry/demo:1"), **(about or {})}
        with serve_page(made, upstream) as url:
            yield Served(url, worker)


@contextlib.contextmanager
def refusing(browser: Browser, url: str) -> Iterator[Page]:
    """As `showing`, for requests that are refused: Chromium itself says that on the console."""
    raised: list[str] = []
    with in_context(browser, viewport={"width": DESKTOP, "height": 900}) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: raised.append(str(error)))
        page.goto(url)
        yield page
        assert raised == []


def ready(page: Page) -> None:
    expect(page.locator("#state")).to_have_text("Ready")


def fill(page: Page, **values: str) -> None:
    for name, value in values.items():
        page.locator(f"#f-{name}").fill(value)


def draw(page: Page) -> None:
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#report")).to_contain_text("Drawn in")
