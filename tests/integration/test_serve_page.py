"""The page of `bake serve` in a real Chromium, before a worker with the demo's webui."""

import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import requests
from playwright.sync_api import Browser, expect

from bake.serve.page import Upstream, make_about, serve_page
from runtime.worker import Extension, Role, Weights
from tests.browser import DESKTOP, PHONE, assert_fits, in_context, showing
from tests.integration.serve_case import SMALL, Served, draw, fill, ready, refusing, serving

Scheme = Literal["light", "dark"]

_PLACES = """() => scrollTo(0, 0) ?? ["#stage", "#report", ".request", "#rest"].map(each => {
    const box = document.querySelector(each).getBoundingClientRect();
    return [each, box.left, box.top + scrollY, box.width];
})"""
"""Where things are on the page, from its top: half of them stay in sight when it is scrolled."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from serving(tmp_path_factory.mktemp("serve"), BAKERY_LORA_LOOPBACK="1")


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Served]:
    yield from serving(tmp_path, DEMO_FAULT="slow=400")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_a_picture_is_drawn_and_nothing_moves(
    served: Served, browser: Browser, width: int, scheme: Scheme
) -> None:
    with showing(browser, served.url, width=width, scheme=scheme) as page:
        ready(page)
        assert_fits(page)
        fill(page, prompt="a red circle on a white background", seed="7", **SMALL)
        before = page.evaluate(_PLACES)
        draw(page)
        assert page.evaluate(_PLACES) == before
        image = page.locator("#image")
        expect(image).to_be_visible()
        assert image.evaluate("each => each.naturalWidth") == 64
        assert image.get_attribute("alt") == "a red circle on a white background"
        expect(page.locator("#facts")).to_contain_text(re.compile("Seed7Size64 . 64Sampler"))
        assert page.locator("#save").get_attribute("download") == "demo-7.png"
        assert_fits(page)
        colours = "() => getComputedStyle(document.body).backgroundColor"
        dark = sum(map(int, re.findall(r"\d+", page.evaluate(colours)))) < 3 * 128
        assert dark == (scheme == "dark")


def test_an_error_is_shown_at_its_field(served: Served, browser: Browser) -> None:
    with refusing(browser, served.url) as page:
        ready(page)
        fill(page, prompt="a circle", width="4", height="64", steps="many", sampler_name="Eulr")
        page.get_by_role("button", name="Draw", exact=True).click()
        width = page.locator("#f-width")
        expect(page.locator("#f-width-error")).to_contain_text("must be at least 8")
        expect(page.locator("#f-steps-error")).to_contain_text("whole number")
        expect(page.locator("#f-sampler_name-error")).to_contain_text("did you mean")
        expect(width).to_be_focused()
        assert width.get_attribute("aria-invalid") == "true"
        assert "f-width-error" in (width.get_attribute("aria-describedby") or "")
        expect(page.locator("#f-height-error")).to_have_text("")
        # One in a folded part unfolds it; one of a LoRA stands at the LoRA.
        fill(page, width="64", steps="4", sampler_name="")
        page.locator("#f-override_settings").evaluate("each => each.value = '{\"x\": 1}'")
        page.get_by_role("button", name="Add a LoRA").click()
        page.locator(".lora .where").fill("nowhere")
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.locator("#f-override_settings-error")).to_be_visible()
        expect(page.locator(".lora .error")).not_to_have_text("")
        expect(page.locator("#f-width-error")).to_have_text("")
        page.locator("#f-override_settings").fill("{")
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.locator("#f-override_settings-error")).to_have_text("is no JSON")


def test_the_keyboard_alone(served: Served, browser: Browser) -> None:
    with showing(browser, served.url) as page:
        ready(page)
        expect(page.locator("#f-prompt")).to_be_focused()
        page.keyboard.type("a blue square")
        seen: list[str] = []
        for _ in range(80):
            page.keyboard.press("Tab")
            name = page.evaluate(
                "() => { const at = document.activeElement; return at.id || at.className || at.tagName; }"
            )
            visible = "() => getComputedStyle(document.activeElement).outlineStyle"
            if name != "BODY":
                assert page.evaluate(visible) != "none", name
            seen.append(name)
            if name == "f-width":
                page.keyboard.type("64")
            if name == "f-height":
                page.keyboard.type("64")
            if name == "f-steps":
                page.keyboard.type("2")
            if name == "copy":
                break
        order = [
            each
            for each in ("f-width", "f-seed", "add-lora", "draw", "tab-json", "copy")
            if each in seen
        ]
        assert order == ["f-width", "f-seed", "add-lora", "draw", "tab-json", "copy"], seen
        page.locator("#tab-json").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#tab-curl")).to_be_focused()
        expect(page.locator("#code")).to_contain_text("curl --fail-with-body")
        page.keyboard.press("End")
        expect(page.locator("#code")).to_contain_text("import requests")
        page.locator("#f-prompt").focus()
        page.keyboard.press("Control+Enter")
        expect(page.locator("#report")).to_contain_text("Drawn in")


def test_what_is_to_be_copied_draws_the_same(
    served: Served, browser: Browser, tmp_path: Path
) -> None:
    with showing(browser, served.url) as page:
        ready(page)
        fill(page, prompt="a 'red' circle, $HOME \"quoted\" ü", seed="3", **SMALL)
        code = page.locator("#code")
        shown = json.loads(code.inner_text())
        assert shown["input"]["steps"] == 4
        page.get_by_role("tab", name="curl").click()
        curl = code.inner_text()
        page.get_by_role("tab", name="Python").click()
        python = code.inner_text()
    answer = requests.post(f"{served.url}/txt2img", json=shown, timeout=300)
    assert answer.status_code == 200, answer.text
    assert answer.json()["info"]
    for command in (["bash", "-c", curl], [sys.executable, "-c", python]):
        subprocess.run(command, cwd=tmp_path, check=True, timeout=300, capture_output=True)
        picture = tmp_path / "picture.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        picture.unlink()


def test_every_field_of_the_schema_is_there(served: Served, browser: Browser) -> None:
    about = requests.get(f"{served.url}/about", timeout=60).json()
    names = {name for name, section in about["sections"].items() if section != "neutral"}
    with showing(browser, served.url) as page:
        ready(page)
        found = page.eval_on_selector_all("form [name]", "all => all.map(each => each.name)")
    assert set(found) == names - {"loras"}


def test_what_is_baked_beside_the_checkpoint(served: Served, browser: Browser) -> None:
    beside: tuple[tuple[Role, str], ...] = (
        ("embedding", "easyneg"), ("hypernetwork", "ink"), ("upscaler", "sharp"),
    )  # fmt: skip
    more = [
        Weights(role=role, name=name, path="/x", sha256="0" * 64, size_bytes=1)
        for role, name in beside
    ]
    scripts = Extension(name="faces", path="/x", commit="0" * 40, scripts=("ADetailer",))
    worker = dataclasses.replace(served.worker.worker, weights=more, extensions=(scripts,))
    upstream = Upstream(port=lambda: 9, ping=lambda: 200)
    with serve_page(make_about(worker, ""), upstream) as url, showing(browser, url) as page:
        ready(page)
        expect(page.locator("#f-prompt-hint")).to_have_text(
            "Baked, by name: easyneg, <hypernet:ink:1>"
        )
        page.get_by_text("Models", exact=True).click()
        field = page.get_by_label("Scripts of extensions")
        assert field.get_attribute("placeholder") == '{"ADetailer":{"args":[]}}'
        field.fill('{"ADetailer": {"args": [true]}}')
        page.get_by_label("Embeddings").fill('[{"name": "one", "civitai": 5}]')
        asked = json.loads(page.locator("#code").inner_text())["input"]
        assert asked["alwayson_scripts"] == {"ADetailer": {"args": [True]}}
        assert asked["embeddings"] == [{"name": "one", "civitai": 5}]
        page.get_by_label("Embeddings").fill("one, two")
        asked = json.loads(page.locator("#code").inner_text())["input"]
        assert asked["embeddings"] == ["one", "two"]
        assert page.locator("#f-upscaler_1-known option").first.get_attribute("value") == "sharp"


def test_several_pictures_and_a_baked_lora(served: Served, browser: Browser) -> None:
    with showing(browser, served.url) as page:
        ready(page)
        fill(page, prompt="a red circle", batch_size="2", seed="1", **SMALL)
        page.get_by_role("button", name="Add a LoRA").click()
        page.locator(".lora .where").fill("outline")
        page.locator(".lora .scale").fill("0.8")
        draw(page)
        expect(page.locator("#strip button")).to_have_count(2)
        expect(page.locator("#facts")).to_contain_text("outline 0.8")
        page.locator("#strip button").nth(1).click()
        expect(page.locator("#facts")).to_contain_text("Seed2")
        page.get_by_role("button", name="Use this seed").click()
        expect(page.locator("#f-seed")).to_have_value("2")


def test_the_start(tmp_path: Path, browser: Browser) -> None:
    for hanging in serving(tmp_path, DEMO_FAULT="hang-load"):
        with showing(browser, hanging.url) as page:
            expect(page.locator("#state")).to_contain_text("Loading the model")


def test_progress_and_stop(slow: Served, browser: Browser) -> None:
    with showing(browser, slow.url) as page:
        ready(page)
        fill(page, prompt="a circle", **{**SMALL, "steps": "150"})
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.locator("#report")).to_contain_text(re.compile(r"Step \d+ of 150"))
        expect(page.locator("#state")).to_have_text("Drawing")
        bar = page.get_by_role("progressbar")
        expect(bar).not_to_have_attribute("aria-valuenow", "0")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#report")).to_have_text("Stopped.")
        expect(page.locator("#draw")).to_be_focused()
        # The worker has stopped too: the next one is drawn at once.
        fill(page, steps="2")
        draw(page)


def test_motion_is_left_out_where_it_is_not_wanted(served: Served, browser: Browser) -> None:
    with showing(browser, served.url) as page:
        page.emulate_media(reduced_motion="reduce")
        moving = "() => getComputedStyle(document.getElementById('fill')).transitionDuration"
        assert page.evaluate(moving) == "0s"


def test_the_policy_lets_nothing_else_run(served: Served, browser: Browser) -> None:
    answer = requests.get(served.url, timeout=60)
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert not re.findall(r"(?:src|href)=[\"'](?:https?:)?//|url\(|@import", answer.text)
    with in_context(browser) as context:
        page = context.new_page()
        page.goto(served.url)
        page.evaluate(
            "() => { const each = document.createElement('script'); each.textContent = 'window.bad = 1';"
            " document.body.append(each); }"
        )
        assert page.evaluate("() => window.bad") is None


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "says"),
    [
        ("GET", "/", {"Host": "evil.example"}, b"", 403, "this server is http://127.0.0.1"),
        ("POST", "/txt2img", {"Host": "evil.example"}, b"{}", 403, "this server is"),
        ("POST", "/txt2img", {"Content-Type": "text/plain"}, b"{}", 415, "application/json"),
        ("GET", "/etc/passwd", {}, b"", 404, "GET /ping"),
        ("POST", "/", {"Content-Type": "application/json"}, b"{}", 404, "POST /txt2img"),
    ],
)
def test_other_sites_and_other_paths_are_refused(
    served: Served, method: str, path: str, headers: dict[str, str], body: bytes, status: int, says: str,
) -> None:  # fmt: skip
    answer = requests.request(method, served.url + path, headers=headers, data=body, timeout=60)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert says in answer.json()["detail"]


def test_a_browser_that_goes_away_cancels_its_job(slow: Served) -> None:
    url = f"{slow.url}/txt2img"
    end = time.monotonic() + 120
    while requests.get(f"{slow.url}/ping", timeout=60).status_code != 200:
        assert time.monotonic() < end, slow.worker.log
        time.sleep(0.05)
    job = {"prompt": "a circle", "steps": 150, "width": 64, "height": 64}

    with pytest.raises(requests.ReadTimeout):
        # JSON: nothing comes before the whole answer, in a minute.
        requests.post(url, json=job, timeout=3)
    answer = requests.post(url, json={**job, "steps": 1}, timeout=300)
    assert answer.status_code == 200, answer.text
    slow.worker.wait_for_log('"done"')
    assert len(slow.worker.entries(message="done", failed=False)) == 1, "the other one is not drawn"
