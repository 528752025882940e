"""`bake try`, `bake serve` and `bake gpu-check` on the demo's image, baked here, on a real engine."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
import requests
from PIL import Image

from runtime.boot.choice import TRICKS
from tests.integration.bakery_case import BAKE, REPOSITORY, Bakery
from tests.integration.conftest import run

SMALL = ("--field", "width=64", "--field", "height=64", "--field", "steps=4", "--field", "seed=7")


pytestmark = pytest.mark.usefixtures("baked")
NAME = f"127.0.0.1:5005/{REPOSITORY}"


def containers(bakery: Bakery) -> str:
    """Those of this image: other tests use the same engine."""
    ids = run("docker", "images", "--quiet", NAME, env=bakery.environment)
    assert ids.stdout
    return "".join(
        run("docker", "ps", "--all", "--quiet", "--filter", f"ancestor={each}", env=bakery.environment).stdout
        for each in set(ids.stdout.split())
    )  # fmt: skip


def try_it(bakery: Bakery, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BAKE), "try", str(bakery.manifest), *arguments, "--build-dir", str(bakery.build)]
    return run(*command, env=bakery.environment, timeout_s=900)


def test_one_picture_with_its_parameters(bakery: Bakery, tmp_path: Path) -> None:
    output = tmp_path / "circle.png"
    lora = ("--lora", "outline 0.8")
    ended = try_it(bakery, "a red circle", *SMALL, *lora, "--output", str(output), "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    drawn = json.loads(ended.stdout.splitlines()[-1])
    assert drawn["event"] == "drawn"
    assert drawn["pictures"] == [str(output)]
    assert "Seed: 7" in drawn["infotexts"][0]
    assert drawn["start_s"] > 0 < drawn["seconds"]
    with Image.open(output) as picture:
        assert picture.size == (64, 64)
        assert "Lora hashes" in picture.info["parameters"]
    assert containers(bakery) == ""


def test_a_picture_of_this_machine_is_made_larger(bakery: Bakery, tmp_path: Path) -> None:
    given, output = tmp_path / "small.png", tmp_path / "large.png"
    Image.new("RGB", (64, 48), "red").save(given)
    fields = ("--field", f"image=@{given}", "--field", "upscaler_1=Lanczos")
    ended = try_it(bakery, "", *fields, "--output", str(output))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with Image.open(output) as picture:
        assert picture.size == (128, 96)
        assert picture.convert("RGB").getpixel((60, 50)) == (255, 0, 0)


def test_a_wrong_request_names_its_fields(bakery: Bakery, tmp_path: Path) -> None:
    output = tmp_path / "none.png"
    ended = try_it(bakery, "a circle", "--field", "width=4", "--output", str(output))
    assert ended.returncode == 2, ended.stderr
    assert "width: must be at least 8" in ended.stderr
    assert not output.exists()
    assert containers(bakery) == ""


def test_a_worker_that_does_not_start_shows_its_log(bakery: Bakery, tmp_path: Path) -> None:
    arguments = ("--env", "BAKERY_WORKER_FILE=/nowhere", "--output", str(tmp_path / "none.png"))
    ended = try_it(bakery, "a circle", *arguments)
    assert ended.returncode == 6, ended.stderr
    assert "the worker ended before it took a job (status " in ended.stderr
    assert "/nowhere" in ended.stderr
    assert containers(bakery) == ""


def check_it(bakery: Bakery, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(*bakery.command("gpu-check", *arguments), env=bakery.environment, timeout_s=1400)


def test_the_check_on_a_card_rehearsed_without_one(bakery: Bakery, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    ended = check_it(bakery, "--device", "cpu", "--rounds", "2", "--output", str(record))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [line.split(" | ") for line in ended.stdout.splitlines() if line.startswith("| shapes ")]
    assert [(row[2], row[3]) for row in rows] == [
        (name, "the same") for name in ("plain", "all", *TRICKS)
    ]
    assert f"proven on this cpu: {', '.join(TRICKS)}" in ended.stdout
    found = json.loads(record.read_text())
    assert found["environment"]["failed"] == {}
    assert len(found["runs"]) == 2 * (2 + len(TRICKS))
    assert "recording a harvest" not in ended.stderr, "it is the image's own that is tried"
    assert "shapes warm plain: " in ended.stderr
    assert containers(bakery) == ""


def test_the_check_on_a_card_needs_one(bakery: Bakery, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    ended = check_it(bakery, "--output", str(record))
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "--device cpu rehearses the check without a card" in ended.stderr
    assert not record.exists()
    assert containers(bakery) == ""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_page_is_there_until_it_is_ended(
    bakery: Bakery, number: signal.Signals, status: int
) -> None:
    # A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
    command = ["env", "--default-signal=INT", *bakery.command("serve", "--no-open", "--json")]
    with subprocess.Popen(
        command, env=bakery.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = ""
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "serving":
                url = event["url"]
                about = requests.get(f"{url}/about", timeout=60).json()
                assert about["checkpoints"] == ["shapes"]
            if event["event"] == "ready":
                break
        job = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 4}
        answer = requests.post(
            f"{url}/txt2img", json=job, headers={"Accept": "image/png"}, timeout=300
        )
        assert answer.content.startswith(b"\x89PNG"), answer.text
        process.send_signal(number)
        process.communicate(timeout=300)
        assert process.returncode == status
    assert containers(bakery) == ""
