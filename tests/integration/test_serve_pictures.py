"""Pictures that go in, on the page of `bake serve` in a real Chromium, before a worker with the demo's webui."""

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Request, expect

from tests.browser import DESKTOP, PHONE, assert_fits, in_context, showing
from tests.conformance.pictures import draw as picture
from tests.conformance.pictures import mask
from tests.integration.serve_case import SMALL, Served, draw, fill, ready, refusing, serving
from tests.standins.storage import Blob, Storage

TIMES = "\N{MULTIPLICATION SIGN}"
DROP = """([text, name, where, kind]) => {
    const data = new DataTransfer();
    const bytes = Uint8Array.from(atob(text), each => each.charCodeAt(0));
    data.items.add(new File([bytes], name, {type: "image/png"}));
    const event = kind === "paste" ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true})
        : new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true});
    document.querySelector(where).dispatchEvent(event);
}"""


DROP_TEXT = """([text, where, kind]) => {
    const data = new DataTransfer();
    data.setData("text/plain", text);
    const event = kind === "paste" ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true})
        : new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true});
    document.querySelector(where).dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    made = Storage(blobs={"x.png": Blob(data=base64.b64decode(picture()))})
    yield made
    made.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from serving(tmp_path_factory.mktemp("serve"), BAKERY_LORA_LOOPBACK="1")


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Served]:
    yield from serving(tmp_path, DEMO_FAULT="slow=400")


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Served]:
    """With little room for a request."""
    yield from serving(tmp_path, {"max_body_bytes": 30_000})


def choose(page: Page, field: str, *names_and_texts: tuple[str, str]) -> None:
    files: list[Any] = [
        {"name": name, "mimeType": "image/png", "buffer": base64.b64decode(text)}
        for name, text in names_and_texts
    ]
    page.locator(f"#f-{field}").set_input_files(files)
    expect(page.locator(f"[data-picture={field}] .chosen").last).to_contain_text(
        files[-1]["name"].rpartition(".")[0]
    )


def rows(page: Page, field: str) -> Locator:
    return page.locator(f"[data-picture={field}] .chosen")


def asked(page: Page) -> Any:
    """The request as it is shown."""
    page.get_by_role("tab", name="JSON").click()
    return json.loads(page.locator("#code").inner_text())["input"]


def sent(page: Page, press: str = "Draw") -> Any:
    """What the page sends; waits for what comes of it."""
    with page.expect_request("**/txt2img") as caught:
        page.get_by_role("button", name=press, exact=True).click()
    request: Request = caught.value
    expect(page.locator("#report")).to_contain_text(re.compile(r"(Drawn|Made larger) in"))
    return request.post_data_json["input"]  # type: ignore[index]


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_a_picture_is_chosen_drawn_over_and_removed(
    served: Served, browser: Browser, width: int, scheme: Literal["light", "dark"]
) -> None:
    with showing(browser, served.url, width=width, scheme=scheme) as page:
        ready(page)
        fill(page, prompt="a red circle", steps="4", seed="1")
        before = asked(page)
        choose(page, "init_images", ("cat.png", picture(120, 90)))
        expect(rows(page, "init_images")).to_contain_text(f"120 {TIMES} 90")
        image = rows(page, "init_images").locator("img")
        assert image.evaluate("each => each.naturalWidth") == 120
        assert_fits(page)
        shown = asked(page)
        assert re.fullmatch(r"<cat\.png, \d+ kB, in base64>", shown["init_images"][0])
        # Else the webui would stretch it to 512 x 512.
        assert (shown["width"], shown["height"]) == (120, 88)
        fill(page, denoising_strength="0.4")
        value = sent(page)
        assert value["init_images"] == [picture(120, 90)]
        assert value["denoising_strength"] == 0.4
        answer = requests.post(f"{served.url}/txt2img", json=value, timeout=300).json()
        ours = page.locator("#image").evaluate(
            "async each => { const made = document.createElement('canvas');"
            " [made.width, made.height] = [each.naturalWidth, each.naturalHeight];"
            " made.getContext('2d').drawImage(each, 0, 0); return made.toDataURL().split(',')[1]; }"
        )
        assert opened(ours).convert("RGB").tobytes() == opened(answer["images"][0]).tobytes()
        assert_fits(page)
        page.get_by_role("button", name="Remove cat.png").click()
        expect(rows(page, "init_images")).to_have_count(0)
        expect(page.locator("#add-init_images")).to_be_focused()
        assert asked(page) == before


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(served: Served, browser: Browser, kind: str) -> None:
    with showing(browser, served.url) as page:
        ready(page)
        where = "#f-prompt" if kind == "paste" else "main"
        page.evaluate(DROP, [picture(64, 72), "image.png", where, kind])
        expect(rows(page, "init_images")).to_contain_text(f"64 {TIMES} 72")
        # The next one is drawn over in its place; one for the mask is dropped there.
        page.evaluate(DROP, [picture(80, 64), "image.png", where, kind])
        expect(rows(page, "init_images")).to_have_count(1)
        expect(rows(page, "init_images")).to_contain_text(f"80 {TIMES} 64")
        page.evaluate(DROP, [mask(80, 64), "image.png", "[data-picture=mask]", "drop"])
        expect(rows(page, "mask")).to_contain_text(f"80 {TIMES} 64")
        # What is copied reads files by their names.
        shown = asked(page)
        assert shown["mask"].split(",")[0] != shown["init_images"][0].split(",")[0]


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_address_is_left_to_the_worker(
    served: Served, browser: Browser, storage: Storage, kind: str
) -> None:
    url = f"{storage.server.url}/plain/x.png"
    with showing(browser, served.url) as page:
        ready(page)
        fill(page, prompt="a circle", seed="1", **SMALL)
        page.evaluate(DROP_TEXT, [url, "main", kind])
        expect(rows(page, "init_images")).to_contain_text("the worker fetches it")
        assert_fits(page)
        # There is nothing to paint over.
        expect(page.locator("#paint")).to_be_hidden()
        value = sent(page)
        assert value["init_images"] == [url]
        answer = requests.post(
            f"{served.url}/txt2img", json={**value, "init_images": [picture()]}, timeout=300
        )
        again = requests.post(f"{served.url}/txt2img", json=asked(page), timeout=300)
        assert again.json()["images"] == answer.json()["images"]
        # Text for a field stays the field's.
        page.evaluate(DROP_TEXT, [f"{url}?2", "#f-prompt", kind])
        assert asked(page)["init_images"] == [url]


def test_what_has_no_use_is_neither_shown_nor_sent(served: Served, browser: Browser) -> None:
    with showing(browser, served.url) as page:
        ready(page)
        fill(page, prompt="a circle", seed="5", **SMALL)
        page.get_by_text("Hires fix", exact=True).click()
        expect(page.locator("#f-hr_scale")).to_be_hidden()
        page.get_by_label("Enable hires fix").check()
        fill(page, hr_scale="1.5", denoising_strength="0.7")
        assert asked(page)["hr_scale"] == 1.5
        choose(page, "init_images", ("a.png", picture()))
        expect(page.get_by_text("Hires fix", exact=True)).to_be_hidden()
        over = asked(page)
        assert over.keys() == {"prompt", "seed", "width", "height", "steps", "init_images"} | {
            "denoising_strength"
        }
        # The mask's fields come with the mask.
        page.get_by_text("Drawing over a picture", exact=True).click()
        page.get_by_label("Resize mode").select_option("Fill up")
        page.get_by_label("Inpainting fill").wait_for(state="hidden")
        assert asked(page)["resize_mode"] == 2
        over["resize_mode"] = 2
        expect(page.locator("#f-mask_blur")).to_be_hidden()
        choose(page, "mask", ("m.png", mask()))
        fill(page, mask_blur="0")
        assert asked(page)["mask_blur"] == 0
        page.get_by_role("button", name="Remove m.png").click()
        assert asked(page) == over
        # Nothing of all that belongs to an upscaling; and nothing of it is lost.
        choose(page, "image", ("b.png", picture()))
        expect(page.locator("#f-prompt")).to_be_hidden()
        expect(rows(page, "init_images")).to_be_hidden()
        assert asked(page).keys() == {"image", "upscaler_1"}
        page.get_by_text("Making a picture larger", exact=True).click()
        page.get_by_label("Resize mode").select_option("To a width and height")
        assert asked(page).keys() == {"image", "upscaler_1", "resize_mode"}
        page.get_by_role("button", name="Remove b.png").click()
        expect(page.get_by_label("Resize mode")).to_have_value("2")
        assert asked(page) == over
        page.get_by_role("button", name="Remove a.png").click()
        shown = asked(page)
        assert (shown["enable_hr"], shown["hr_scale"]) == (True, 1.5)
        draw(page)


def test_the_fields_in_use_are_the_workers(served: Served) -> None:
    unused = requests.get(f"{served.url}/about", timeout=60).json()["unused"]
    base = {"prompt": "a", **{key: int(value) for key, value in SMALL.items()}}
    larger = {"image": picture(), "upscaler_1": "Lanczos"}
    for kind, value in (
        ("txt2img", base),
        ("txt2img enable_hr", {**base, "enable_hr": True, "denoising_strength": 0.5}),
        ("img2img", {**base, "init_images": [picture()]}),
        ("img2img mask", {**base, "init_images": [picture()], "mask": mask()}),
        ("extra-single-image", larger),
    ):
        answer = requests.post(f"{served.url}/txt2img", json=value, timeout=300)
        assert answer.status_code == 200, answer.text
        assert not set(value) & set(unused[kind])
        # Each field that is left out would have been refused, or of no effect.
        for name in set(unused[kind]) & {"hr_scale", "mask_blur", "upscaling_resize", "prompt"}:
            more = {**value, name: "a" if name == "prompt" else 3}
            answer = requests.post(f"{served.url}/txt2img", json=more, timeout=300)
            notes = answer.json().get("bakery", {}).get("notes", [])
            assert answer.status_code == 422 or any(name in each for each in notes), answer.text


def stroke(page: Page, *places: tuple[float, float]) -> None:
    """Paints with the mouse, by shares of the canvas."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*at[0])
    page.mouse.down()
    for x, y in at[1:]:
        page.mouse.move(x, y, steps=8)
    page.mouse.up()


def test_a_mask_is_painted(served: Served, browser: Browser) -> None:
    with showing(browser, served.url) as page:
        ready(page)
        fill(page, prompt="a red circle", steps="4", seed="1")
        choose(page, "init_images", ("cat.png", picture(120, 96)))
        page.get_by_role("button", name="Paint a mask").click()
        dialog = page.get_by_role("dialog", name="Paint where to draw")
        expect(dialog).to_be_visible()
        page.locator("#brush").fill("25")
        stroke(page, (0.25, 0.5), (0.75, 0.5))
        stroke(page, (0.5, 0.9))
        page.get_by_role("button", name="Undo").click()
        page.get_by_role("button", name="Done").click()
        expect(dialog).to_be_hidden()
        expect(page.locator("#paint")).to_be_focused()
        expect(rows(page, "mask")).to_contain_text(f"120 {TIMES} 96")
        value = sent(page)
        made = opened(value["mask"]).convert("RGB")
        assert made.size == (120, 96)
        colours = {colour for _, colour in made.getcolors() or []}
        assert colours == {(0, 0, 0), (255, 255, 255)}
        white = {
            (x, y) for x in range(120) for y in range(96) if made.getpixel((x, y)) != (0, 0, 0)
        }
        assert {(30, 48), (60, 48), (90, 48), (60, 37), (60, 58)} <= white
        assert not {(60, 86), (60, 30), (60, 66), (10, 48), (110, 48)} & white
        # Going on keeps what was painted; the eraser, and clearing, take it away.
        page.get_by_role("button", name="Go on painting").click()
        page.get_by_label("Erase").check()
        stroke(page, (0.5, 0.3), (0.5, 0.7))
        page.keyboard.press("Escape")
        erased = opened(sent(page)["mask"]).convert("L")
        assert [erased.getpixel((x, 48)) for x in (30, 60, 90)] == [255, 0, 255]
        page.get_by_role("button", name="Go on painting").click()
        page.get_by_role("button", name="Clear").click()
        page.get_by_role("button", name="Done").click()
        expect(rows(page, "mask")).to_have_count(0)
        assert "mask" not in asked(page)


def test_a_mask_lies_on_the_picture_as_it_is_seen(served: Served, browser: Browser) -> None:
    """Cameras turn a picture by its EXIF orientation, and so does the webui."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with showing(browser, served.url) as page:
        ready(page)
        fill(page, prompt="a circle", steps="2")
        turned = picture(96, 48, file="JPEG", exif=exif.tobytes())
        choose(page, "init_images", ("turned.jpg", turned))
        expect(rows(page, "init_images")).to_contain_text(f"48 {TIMES} 96")
        page.get_by_role("button", name="Paint a mask").click()
        stroke(page, (0.5, 0.1), (0.5, 0.3))
        page.get_by_role("button", name="Done").click()
        assert opened(sent(page)["mask"]).size == (48, 96)


def test_a_mask_is_painted_by_touch(served: Served, browser: Browser) -> None:
    viewport = {"width": PHONE, "height": 740}
    with in_context(browser, viewport=viewport, has_touch=True) as context:
        page = context.new_page()
        page.goto(served.url)
        ready(page)
        choose(page, "init_images", ("cat.png", picture(64, 64)))
        page.get_by_role("button", name="Paint a mask").tap()
        assert_fits(page)
        box = page.locator("#canvas").bounding_box()
        assert box is not None
        page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.get_by_role("button", name="Done").tap()
        expect(rows(page, "mask")).to_contain_text(f"64 {TIMES} 64")
        fill(page, prompt="a circle", steps="2")
        assert opened(sent(page)["mask"]).convert("L").getpixel((32, 32)) == 255


def test_a_painted_mask_stays_as_long_as_it_fits(served: Served, browser: Browser) -> None:
    with showing(browser, served.url) as page:
        ready(page)
        fill(page, prompt="a circle", steps="4", seed="1")
        choose(page, "init_images", ("cat.png", picture(64, 64)))
        page.get_by_role("button", name="Paint a mask").click()
        stroke(page, (0.5, 0.5))
        page.get_by_role("button", name="Done").click()
        draw(page)
        page.get_by_role("button", name="Draw over it").click()
        expect(rows(page, "init_images")).to_contain_text("demo-1.png")
        expect(rows(page, "mask")).to_have_count(1)
        page.evaluate(DROP, [picture(80, 64), "other.png", "main", "drop"])
        expect(rows(page, "init_images")).to_contain_text(f"80 {TIMES} 64")
        expect(rows(page, "mask")).to_have_count(0)


def test_a_result_is_drawn_over_and_made_larger(
    served: Served, browser: Browser, tmp_path: Path
) -> None:
    with showing(browser, served.url) as page:
        ready(page)
        fill(page, prompt="a red circle", seed="7", **SMALL)
        draw(page)
        page.get_by_role("button", name="Draw over it").click()
        expect(rows(page, "init_images")).to_contain_text("demo-7.png")
        expect(page.locator("#f-denoising_strength")).to_be_focused()
        with page.expect_download() as saved:
            page.get_by_role("link", name="Save demo-7.png").click()
        assert saved.value.suggested_filename == "demo-7.png"
        value = sent(page)
        first = requests.post(
            f"{served.url}/txt2img",
            json={key: value[key] for key in ("prompt", "seed", "width", "height", "steps")},
            timeout=300,
        ).json()
        assert value["init_images"] == first["images"]
        page.get_by_role("button", name="Make it larger").click()
        expect(page.locator("#f-upscaling_resize")).to_be_focused()
        fill(page, upscaling_resize="3")
        value = sent(page, "Make larger")
        assert value.keys() == {"image", "upscaler_1", "upscaling_resize"}
        image = page.locator("#image")
        assert image.evaluate("each => each.naturalWidth") == 192
        expect(page.locator("#facts")).to_contain_text(f"192 {TIMES} 192")
        expect(page.locator("#facts")).to_contain_text("Lanczos")
        expect(page.locator("#keep-seed")).to_be_hidden()
        assert page.locator("#save").get_attribute("download") == "demo-larger.png"
        # Its result is drawn over, in place of being made larger again.
        page.get_by_role("button", name="Draw over it").click()
        expect(rows(page, "init_images")).to_contain_text(f"192 {TIMES} 192")
        assert "image" not in asked(page)


@pytest.mark.parametrize("task", ["over", "larger"])
def test_what_is_copied_reads_the_files(
    served: Served, browser: Browser, tmp_path: Path, task: str
) -> None:
    odd = 'it\'s a $(cat) "ü".png'
    with showing(browser, served.url) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        ready(page)
        if task == "over":
            fill(page, prompt="a 'red' `circle`, $HOME \\ \"quoted\"", seed="3", **SMALL)
            choose(page, "init_images", (odd, picture()))
            choose(page, "mask", ("picture.png", mask()))
            files = {odd: picture(), "picture.png": mask()}
        else:
            choose(page, "image", (odd, picture()))
            files = {odd: picture()}
        code = page.locator("#code")
        value = sent(page, "Draw" if task == "over" else "Make larger")
        page.get_by_role("button", name="Copy", exact=True).click()
        expect(page.locator("#copy")).to_have_text("Copied")
        copied = page.evaluate("() => navigator.clipboard.readText()")
        assert json.loads(copied) == {"input": value}
        code.evaluate("each => getSelection().selectAllChildren(each)")
        page.keyboard.press("ControlOrMeta+c")
        assert page.evaluate("() => navigator.clipboard.readText()") == copied
        page.get_by_role("tab", name="curl").click()
        curl = code.inner_text()
        page.get_by_role("tab", name="Python").click()
        python = code.inner_text()
    assert len(curl) + len(python) < 3000
    for name, text in files.items():
        (tmp_path / name).write_bytes(base64.b64decode(text))
    (expected,) = _pictures(requests.post(f"{served.url}/txt2img", json=value, timeout=300).json())
    made = tmp_path / ("new-picture.png" if task == "over" else "picture.png")
    for command in (["bash", "-c", curl], [sys.executable, "-c", python]):
        ran = subprocess.run(command, cwd=tmp_path, check=False, timeout=300, capture_output=True)
        assert ran.returncode == 0, ran.stderr
        assert made.read_bytes() == base64.b64decode(expected)
        made.unlink()


def _pictures(output: Any) -> list[str]:
    return [output["image"]] if "image" in output else output["images"]


def test_a_large_picture_by_curl(served: Served, browser: Browser, tmp_path: Path) -> None:
    """An argument of a command has 128 KiB at most."""
    noise = Image.effect_noise((512, 512), 90)
    out = io.BytesIO()
    noise.save(out, "PNG")
    assert len(out.getvalue()) > 150_000
    with showing(browser, served.url) as page:
        ready(page)
        choose(page, "image", ("noise.png", base64.b64encode(out.getvalue()).decode()))
        fill(page, upscaling_resize="0.25")
        page.get_by_role("tab", name="curl").click()
        curl = page.locator("#code").inner_text()
    (tmp_path / "noise.png").write_bytes(out.getvalue())
    subprocess.run(["bash", "-c", curl], cwd=tmp_path, check=True, timeout=300)
    with Image.open(tmp_path / "picture.png") as made:
        assert made.size == (128, 128)


def test_previews_are_shown_while_it_draws(slow: Served, browser: Browser) -> None:
    with showing(browser, slow.url) as page:
        ready(page)
        fill(page, prompt="a circle", **{**SMALL, "steps": "2"})
        draw(page)
        page.get_by_label("Show it meanwhile").check()
        fill(page, steps="150")
        preview = page.locator("#preview")
        expect(preview).to_be_hidden()
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(preview).to_be_visible()
        assert preview.evaluate("each => each.decode().then(() => each.naturalWidth)") > 0
        assert_fits(page)
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#report")).to_have_text("Stopped.")
        expect(preview).to_be_hidden()
        expect(page.locator("#image")).to_be_visible()


def test_too_much_is_said_before_it_is_sent(narrow: Served, browser: Browser) -> None:
    def noise(side: int) -> str:
        out = io.BytesIO()
        Image.effect_noise((side, side), 90).save(out, "PNG")
        return base64.b64encode(out.getvalue()).decode()

    with showing(browser, narrow.url) as page:
        ready(page)
        requested: list[str] = []
        page.on("request", lambda each: requested.append(each.url))
        page.locator("#f-init_images").set_input_files(
            {"name": "big.png", "mimeType": "image/png", "buffer": base64.b64decode(noise(200))}
        )
        error = page.locator("#f-init_images-error")
        expect(error).to_contain_text(re.compile(r"big\.png has \d+ kB, .* at most 0\.03 MB"))
        expect(rows(page, "init_images")).to_have_count(0)
        fill(page, prompt="a circle", batch_size="2", **SMALL)
        one, other = noise(100), noise(120)
        choose(page, "init_images", ("one.png", one), ("other.png", other))
        expect(error).to_have_text("")
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.locator("#report")).to_contain_text(re.compile(r"request has \d+ kB, at most"))
        expect(rows(page, "init_images").nth(1).locator(".error")).to_contain_text(
            "save it smaller"
        )
        expect(rows(page, "init_images").nth(0).locator(".error")).to_have_text("")
        assert not [each for each in requested if each.endswith("/txt2img")]


def test_errors_stand_at_their_pictures(served: Served, browser: Browser) -> None:
    animated = io.BytesIO()
    Image.new("RGB", (64, 64)).save(animated, "GIF")
    gif = base64.b64encode(animated.getvalue()).decode()
    with refusing(browser, served.url) as page:
        ready(page)
        page.locator("#f-init_images").set_input_files(
            {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"}
        )
        expect(page.locator("#f-init_images-error")).to_contain_text("notes.png is no picture")
        assert "init_images" not in asked(page)
        fill(page, prompt="a circle", batch_size="2", **SMALL)
        choose(page, "init_images", ("one.png", picture()), ("two.gif", gif))
        page.get_by_role("button", name="Draw", exact=True).click()
        error = rows(page, "init_images").nth(1).locator(".error")
        expect(error).to_contain_text("is no PNG, JPEG or WebP picture")
        expect(page.get_by_role("button", name="Remove two.gif")).to_be_focused()
        page.get_by_role("button", name="Remove two.gif").click()
        page.locator("#f-batch_size").fill("1")
        choose(page, "mask", ("mask.png", mask(32, 32)))
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.locator("#f-mask-error")).to_contain_text("must have the picture's size")
        choose(page, "image", ("large.png", picture()))
        fill(page, upscaler_1="Lanzcos", upscaling_resize="500")
        page.get_by_role("button", name="Make larger").click()
        expect(page.locator("#f-upscaler_1-error")).to_contain_text("did you mean 'Lanczos'")
        fill(page, upscaler_1="Lanczos")
        page.get_by_role("button", name="Make larger").click()
        expect(page.locator("#f-upscaling_resize-error")).to_contain_text("are allowed")


def test_pictures_by_the_keyboard_alone(served: Served, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(base64.b64decode(picture()))
    with showing(browser, served.url) as page:
        # Before the key that opens one, so that Chromium's own dialog is not what opens.
        page.on("filechooser", lambda _: None)
        ready(page)
        page.keyboard.type("a circle")
        for name in ("f-negative_prompt", "add-init_images"):
            page.keyboard.press("Tab")
            expect(page.locator(f"#{name}")).to_be_focused()
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files(tmp_path / "cat.png")
        expect(rows(page, "init_images")).to_have_count(1)
        seen = []
        for _ in range(6):
            page.keyboard.press("Tab")
            seen.append(page.evaluate("() => document.activeElement.id"))
            visible = "() => getComputedStyle(document.activeElement).outlineStyle"
            assert page.evaluate(visible) != "none", seen
        assert {"paint", "add-mask", "f-denoising_strength"} <= set(seen)
        page.locator("#paint").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#brush")).to_be_focused()
        # Drawing and stopping have no keys while something is painted.
        page.keyboard.press("Control+Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#paint")).to_be_focused()
        expect(page.locator("#report")).to_have_text("")
